//! The run: batches of inputs, many at a time; then what differed, one after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::grammar;
use crate::input::Input;
use crate::report::{Report, differences, signature};
use crate::send::{self, Outcome, Patience};
use crate::shrink::shrink;
use crate::sides::{Side, Sides};

/// Inputs between two looks at the counts, when all is quiet.
const BATCH: u64 = 1500;
/// How often a difference must be seen.
const TIMES: usize = 3;
/// The longest that making an input small may take.
const SHRINK: Duration = Duration::from_secs(15);
/// How long a dead worker takes to be in the log.
const DEATH: Duration = Duration::from_millis(300);
/// How many inputs may have ended before a fault that they caused is seen.
const RECENT: usize = 150;

/// A run.
pub struct Fuzz {
    sides: Sides,
    seed: u64,
    parallel: usize,
    findings_max: usize,
    next: AtomicU64,
    began: Instant,
    report: Mutex<Report>,
    known: Mutex<BTreeSet<String>>,
    running: Mutex<BTreeMap<u64, Input>>,
    recent: Mutex<VecDeque<Input>>,
    pending: Mutex<Vec<String>>,
}

/// In a crowd.
fn crowd() -> Patience {
    Patience { quiet: Duration::from_millis(120), origin: Duration::from_millis(40), limit: harness::limit(8.0) }
}

/// Alone.
fn alone() -> Patience {
    Patience { quiet: Duration::from_millis(200), origin: Duration::from_millis(60), limit: harness::limit(8.0) }
}

impl Fuzz {
    /// Starts both sides.
    pub async fn start(seed: u64, parallel: usize, findings_max: usize) -> Self {
        let kinds = grammar::kinds().map(|kind| (kind, Default::default())).collect();
        Self {
            sides: Sides::start().await,
            seed,
            parallel,
            findings_max,
            next: AtomicU64::new(0),
            began: Instant::now(),
            report: Mutex::new(Report { kinds, seed, ..Report::default() }),
            known: Mutex::default(),
            running: Mutex::default(),
            recent: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// What was seen so far.
    pub async fn report(&self) -> Report {
        let counters = self.sides.pincer.counters().await;
        Report { took: self.began.elapsed(), counters, ..self.report.lock().clone() }
    }

    /// Ends both sides; what they logged was looked at already.
    pub fn stop(mut self) {
        self.sides.plain.forgive();
        self.sides.pincer.forgive();
    }

    /// Runs one input alone and prints what both sides make of it.
    pub async fn show(&self, number: u64) {
        let input = grammar::input(self.seed, number);
        println!("{input}");
        for side in self.sides.both() {
            let Outcome { answer, received } = send::run(side, &input, alone()).await;
            println!("{}:", side.name);
            for line in answer.iter().chain(&received) {
                println!("    {line}");
            }
        }
        self.look(&[input]).await;
    }

    /// Runs inputs for so long, or until enough was found.
    pub async fn run(self: &Arc<Self>, time: Duration) {
        let end = self.began + time;
        while Instant::now() < end && self.report.lock().findings.len() < self.findings_max {
            let (batch, mut different) = self.batch(end).await;
            if self.look(&batch).await {
                // What ran beside a dying worker tells nothing.
                different.clear();
            }
            for input in different {
                if self.report.lock().findings.len() >= self.findings_max {
                    break;
                }
                self.confirm(&input).await;
            }
        }
    }

    /// Runs a batch; what may have caused a fault, and what differed.
    async fn batch(self: &Arc<Self>, end: Instant) -> (Vec<Input>, Vec<Input>) {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut set, mut different) = (JoinSet::new(), Vec::new());
        let mut watch = tokio::time::interval(Duration::from_millis(50));
        let mut left = BATCH;
        let mut suspects = Vec::new();
        loop {
            while set.len() < self.parallel && left > 0 && Instant::now() < end && !stop.load(Ordering::Relaxed) {
                left -= 1;
                let (fuzz, number) = (Arc::clone(self), self.next.fetch_add(1, Ordering::Relaxed));
                set.spawn(async move { fuzz.compare(number).await });
            }
            if set.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = set.join_next() => different.extend(ended.expect("no panic")),
                _ = watch.tick(), if !stop.load(Ordering::Relaxed) => {
                    if self.both_faults().iter().any(|faults| !faults.is_empty()) {
                        stop.store(true, Ordering::Relaxed);
                        suspects = self.running.lock().values().cloned().collect();
                        suspects.extend(self.recent.lock().iter().rev().cloned());
                    }
                }
            }
        }
        if suspects.is_empty() {
            suspects.extend(self.recent.lock().iter().rev().cloned());
        }
        different.sort_by_key(|input: &Input| input.number);
        (suspects, different)
    }

    /// Runs an input on both sides at once; the input if they differ.
    async fn compare(&self, number: u64) -> Option<Input> {
        let input = grammar::input(self.seed, number);
        self.running.lock().insert(number, input.clone());
        let (plain, pincer) =
            tokio::join!(send::run(&self.sides.plain, &input, crowd()), send::run(&self.sides.pincer, &input, crowd()));
        self.running.lock().remove(&number);
        let mut recent = self.recent.lock();
        recent.push_back(input.clone());
        if recent.len() > RECENT {
            recent.pop_front();
        }
        self.report.lock().kinds.entry(input.kind).or_default().inputs += 1;
        (plain != pincer).then_some(input)
    }

    /// New faults of the plain side and of the other, kept until they are looked at.
    fn both_faults(&self) -> [Vec<String>; 2] {
        let [plain, pincer] = self.sides.both().map(Side::faults);
        self.report.lock().own.extend(plain.clone());
        self.pending.lock().extend(pincer.clone());
        [plain, pincer]
    }

    /// Once all is quiet: were there faults, is something left over? Then finds which input it was. True when there were faults.
    async fn look(&self, suspects: &[Input]) -> bool {
        let settled = self.sides.pincer.settled().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.both_faults();
        let faults = std::mem::take(&mut *self.pending.lock());
        if faults.is_empty() {
            // A dead worker leaves its counts to whoever notices; that is no matter of this.
            if let Err(left) = settled {
                self.find(&format!("counts left over: {left}"), String::new());
            }
            return false;
        }
        println!("difference: a fault, {} inputs are tried alone: {}", suspects.len(), faults.join("\n    "));
        for input in suspects {
            if !self.is_fatal(input).await {
                continue;
            }
            let fatal = async |input: &Input| self.is_fatal(input).await;
            let small = shrink(input.clone(), Instant::now() + harness::limit(SHRINK.as_secs_f64()), fatal).await;
            let own = self.kills(&self.sides.plain, &small).await;
            if own.is_empty() {
                self.find(
                    &faults.join("\n    "),
                    format!("after {} inputs\n{small}", self.next.load(Ordering::Relaxed)),
                );
            } else {
                self.report.lock().own.push(format!("{}\n{small}", own.join("\n")));
            }
            return true;
        }
        let numbers: Vec<_> = suspects.iter().map(|input| input.number).collect();
        self.find(&faults.join("\n    "), format!("none of these inputs does it alone: {numbers:?}\n"));
        true
    }

    async fn is_fatal(&self, input: &Input) -> bool {
        !self.kills(&self.sides.pincer, input).await.is_empty()
    }

    /// Runs it on one side; the faults that come.
    async fn kills(&self, side: &Side, input: &Input) -> Vec<String> {
        let _ = send::run(side, input, crowd()).await;
        let began = Instant::now();
        loop {
            let faults = side.faults();
            if !faults.is_empty() {
                // The master and the worker's successor say what they have to say.
                tokio::time::sleep(Duration::from_millis(100)).await;
                let _ = side.faults();
                return faults;
            }
            if began.elapsed() > harness::limit(DEATH.as_secs_f64()) {
                return faults;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn find(&self, what: &str, with: String) {
        let mut report = self.report.lock();
        let text = format!("finding {}: {what}\n{with}", report.findings.len() + 1);
        println!("{text}");
        report.findings.push(text);
    }

    /// Runs it alone, several times on each side, and reports it if it differs each time in the same way.
    async fn confirm(&self, input: &Input) {
        let Some((plain, pincer)) = self.stable(input).await else {
            self.report.lock().kinds.entry(input.kind).or_default().unstable += 1;
            return;
        };
        if plain == pincer {
            self.report.lock().kinds.entry(input.kind).or_default().crowd += 1;
            return;
        }
        self.report.lock().kinds.entry(input.kind).or_default().different += 1;
        if !self.known.lock().insert(signature(&differences(&plain, &pincer))) {
            self.report.lock().repeated += 1;
            return;
        }
        let differs = async |input: &Input| {
            let (plain, pincer) = tokio::join!(
                send::run(&self.sides.plain, input, alone()),
                send::run(&self.sides.pincer, input, alone())
            );
            plain != pincer
        };
        let small = shrink(input.clone(), Instant::now() + SHRINK, differs).await;
        let (small, lines) = match self.stable(&small).await {
            Some((plain, pincer)) if plain != pincer => (small, differences(&plain, &pincer)),
            // It went astray: what is not small, but is sure.
            _ => (input.clone(), differences(&plain, &pincer)),
        };
        self.known.lock().insert(signature(&lines));
        let places: Vec<_> = plain
            .answer
            .iter()
            .chain(&pincer.answer)
            .filter(|line| line.contains("X-Place") || line.contains("x-place"))
            .collect();
        self.find("the two sides differ", format!("{small}  locations: {places:?}\n  {}\n", lines.join("\n  ")));
    }

    /// What each side does, if it does so all times.
    async fn stable(&self, input: &Input) -> Option<(Outcome, Outcome)> {
        let mut seen: Option<(Outcome, Outcome)> = None;
        for _ in 0..TIMES {
            let both = tokio::join!(
                send::run(&self.sides.plain, input, alone()),
                send::run(&self.sides.pincer, input, alone())
            );
            if seen.as_ref().is_some_and(|seen| *seen != both) {
                return None;
            }
            seen = Some(both);
        }
        seen
    }
}
