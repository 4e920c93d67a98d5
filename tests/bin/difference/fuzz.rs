//! The run: batches of inputs, many at a time; then what differed, one after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::faults::Faults;
use crate::input::Input;
use crate::report::{Report, differences, signature};
use crate::send::{self, Outcome, Patience};
use crate::shrink::shrink;
use crate::sides::{Side, Sides};
use crate::{Options, documented, grammar};

/// Inputs between two looks at the counts, when all is quiet.
const BATCH: u64 = 1500;
/// How often a difference must be seen.
const TIMES: usize = 3;
/// The longest that making an input small may take.
const SHRINK: Duration = Duration::from_secs(15);
/// For how long inputs run together that may have caused a fault.
const CROWD: Duration = Duration::from_secs(90);
/// The kind of an input that is being made small.
const SHRUNK: &str = "made small";
/// How many differences are looked at at a time.
const CONFIRMED: usize = 12;
/// How long a dead worker takes to be in the log.
const DEATH: Duration = Duration::from_millis(400);
/// How many inputs may have ended before a fault that they caused is seen.
const RECENT: usize = 150;

/// A run.
pub struct Fuzz {
    sides: Sides,
    seed: u64,
    parallel: usize,
    findings_max: usize,
    again: Option<Range<u64>>,
    unstable: bool,
    next: AtomicU64,
    began: Instant,
    report: Mutex<Report>,
    known: Mutex<BTreeSet<String>>,
    counted: Mutex<BTreeMap<String, u64>>,
    running: Mutex<BTreeMap<u64, Input>>,
    recent: Mutex<VecDeque<Input>>,
    faults: Mutex<Faults>,
}

/// Whether two outcomes are different in a way that is not documented.
fn differ(input: &Input, plain: &Outcome, pincer: &Outcome) -> bool {
    !documented::same(plain, pincer)
        && !documented::reads_early(input, plain, pincer)
        && !documented::loses_a_bad_field(input)
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
    pub async fn start(options: &Options, seed: u64) -> Self {
        let kinds = grammar::kinds().map(|kind| (kind, Default::default())).collect();
        Self {
            sides: Sides::start().await,
            seed,
            parallel: options.parallel,
            findings_max: options.findings,
            again: options.again.clone(),
            unstable: options.unstable,
            next: AtomicU64::new(0),
            began: Instant::now(),
            report: Mutex::new(Report { kinds, seed, ..Report::default() }),
            known: Mutex::default(),
            counted: Mutex::default(),
            running: Mutex::default(),
            recent: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// What was seen so far.
    pub async fn report(&self) -> Report {
        let counters = self.sides.pincer.counters().await;
        let races = self.sides.both().map(|side| side.races.load(Ordering::Relaxed));
        if documented::is_unlike_chance(races[0], races[1]) {
            let told =
                format!("{:?}: stock nginx {} times, with the module {}", documented::OWN_RACE, races[0], races[1]);
            self.find(&told, String::new());
        }
        Report { races, took: self.began.elapsed(), counters, ..self.report.lock().clone() }
    }

    /// Ends both sides; what they logged was looked at already.
    pub fn stop(mut self) {
        self.sides.plain.forgive();
        self.sides.pincer.forgive();
    }

    /// Runs one input alone and prints what both sides make of it.
    pub async fn show(self: &Arc<Self>, number: u64) {
        let input = grammar::input(self.seed, number);
        println!("{input}");
        for side in self.sides.both() {
            let Outcome { response, received } = send::run(side, &input, alone()).await;
            println!("{}:", side.name);
            for line in response.iter().chain(&received) {
                println!("    {line}");
            }
        }
        self.look(&[input]).await;
    }

    /// Runs inputs for so long, or until enough was found.
    pub async fn run(self: &Arc<Self>, time: Duration) {
        let end = self.began + time;
        while Instant::now() < end && self.report.lock().findings.len() < self.findings_max {
            let began = Instant::now();
            let (batch, mut different) = self.batch(end).await;
            let (count, took) = (self.next.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
            println!("difference: {count} inputs, the last batch in {took:.1} s, {} are looked at", different.len());
            if self.look(&batch).await {
                // What ran beside a dying worker tells nothing.
                different.clear();
            }
            self.confirm(different).await;
        }
    }

    /// Runs what differed alone, some at a time, and reports what differs each time in the same
    /// way.
    async fn confirm(self: &Arc<Self>, inputs: Vec<Input>) {
        let (mut set, mut sure) = (JoinSet::new(), Vec::new());
        for input in inputs {
            while set.len() >= CONFIRMED {
                sure.extend(set.join_next().await.and_then(Result::ok).flatten());
            }
            let fuzz = Arc::clone(self);
            set.spawn(async move { fuzz.is_sure(&input).await.map(|seen| (input, seen)) });
        }
        sure.extend(set.join_all().await.into_iter().flatten());
        for (input, (plain, pincer)) in sure {
            // Again, with nothing beside it: a race comes out alike three times of three by chance,
            // once in some 40,000 inputs.
            if self.stable(&input).await != Some((plain.clone(), pincer.clone())) {
                let mut report = self.report.lock();
                let tally = report.kinds.entry(input.kind).or_default();
                (tally.different, tally.unstable) = (tally.different - 1, tally.unstable + 1);
                continue;
            }
            if self.report.lock().findings.len() < self.findings_max {
                self.make_small(&input, plain, pincer).await;
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
                let (fuzz, number) = (Arc::clone(self), self.number(self.next.fetch_add(1, Ordering::Relaxed)));
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

    /// The number of the input that comes after so many others.
    fn number(&self, next: u64) -> u64 {
        self.again.as_ref().map_or(next, |again| again.start + next % (again.end - again.start))
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
        differ(&input, &plain, &pincer).then_some(input)
    }

    /// New faults of the plain side and of the other, kept until they are looked at.
    fn both_faults(&self) -> [Vec<String>; 2] {
        let [plain, pincer] = self.sides.both().map(Side::faults);
        let mut faults = self.faults.lock();
        self.report.lock().own.extend(faults.add_plain(plain.clone()));
        faults.add_pincer(pincer.clone());
        [plain, pincer]
    }

    /// Once all is quiet: were there faults, is something left over? Then finds which input it was.
    /// True when there were faults.
    async fn look(self: &Arc<Self>, suspects: &[Input]) -> bool {
        let left = self.leaks().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.both_faults();
        let faults = self.faults.lock().take();
        if faults.is_empty() {
            // A dead worker leaves its counts to whoever notices; that is no matter of this.
            if let Some(left) = left {
                let last = self.next.load(Ordering::Relaxed);
                self.find_leak(left, (last.saturating_sub(BATCH)..last).map(|next| self.number(next)).collect()).await;
            }
            return false;
        }
        let faults = self.faults.lock().without_own(&faults);
        if faults.is_empty() {
            return true;
        }
        println!("difference: a fault, {} inputs are tried alone: {}", suspects.len(), faults.join("\n    "));
        for input in suspects {
            if !self.is_fatal(input).await {
                continue;
            }
            let fatal = async |input: &Input| self.is_fatal(input).await;
            let small = shrink(input.clone(), Instant::now() + harness::limit(SHRINK.as_secs_f64()), fatal).await;
            let mut own = Vec::new();
            for again in [&small, input, &small, input] {
                own.extend(self.kills(&self.sides.plain, again).await);
            }
            if own.is_empty() && !self.is_own_in_a_crowd(&faults, &vec![input.clone(); self.parallel]).await {
                self.find(
                    &faults.join("\n    "),
                    format!("after {} inputs\n{small}", self.next.load(Ordering::Relaxed)),
                );
            } else {
                self.report.lock().own.push(format!("{}\n{small}", own.join("\n")));
            }
            return true;
        }
        if self.is_own_in_a_crowd(&faults, suspects).await {
            return true;
        }
        let numbers: Vec<_> = suspects.iter().map(|input| input.number).collect();
        self.find(&faults.join("\n    "), format!("none of these inputs does it alone: {numbers:?}\n"));
        true
    }

    /// Whether stock nginx has the same faults when these inputs run again and again, all beside
    /// each other.
    async fn is_own_in_a_crowd(self: &Arc<Self>, faults: &[String], suspects: &[Input]) -> bool {
        println!("difference: {} inputs are tried together", suspects.len());
        let end = Instant::now() + harness::limit(CROWD.as_secs_f64());
        let mut is_own = false;
        while !is_own && Instant::now() < end {
            self.crowd(suspects.iter().map(|input| input.number)).await;
            self.both_faults();
            is_own = self.faults.lock().without_own(faults).is_empty();
        }
        self.faults.lock().take();
        is_own
    }

    /// Runs these inputs, many at a time.
    async fn crowd(self: &Arc<Self>, numbers: impl IntoIterator<Item = u64>) {
        let mut set = JoinSet::new();
        for number in numbers {
            while set.len() >= self.parallel {
                set.join_next().await;
            }
            let fuzz = Arc::clone(self);
            set.spawn(async move { fuzz.compare(number).await });
        }
        set.join_all().await;
    }

    /// Counts that should be 0 and have grown since this was asked last.
    async fn leaks(&self) -> Option<BTreeMap<String, u64>> {
        let known = self.counted.lock().clone();
        let left = self.sides.pincer.left_over(&known).await;
        let grown = left.iter().any(|(path, count)| count > known.get(path).unwrap_or(&0));
        *self.counted.lock() = left.clone();
        grown.then_some(left)
    }

    /// Finds an input after which a request stays counted: runs ever smaller groups of those of the
    /// batch again, in a crowd.
    async fn find_leak(self: &Arc<Self>, left: BTreeMap<String, u64>, mut group: Vec<u64>) {
        let what = format!("counts left over: {left:?}");
        println!("difference: {what}, {} inputs are tried again", group.len());
        while group.len() > 1 {
            let mut smaller = None;
            for half in group.chunks(group.len().div_ceil(2)) {
                self.crowd(half.iter().copied()).await;
                if self.leaks().await.is_some() {
                    smaller = Some(half.to_vec());
                    break;
                }
            }
            let Some(smaller) = smaller else { break };
            group = smaller;
        }
        if group.len() > 1 {
            return self.find(&what, format!("only together, if at all: inputs {group:?}\n"));
        }
        let input = grammar::input(self.seed, group[0]);
        let leaks = async |input: &Input| {
            let _ = send::run(&self.sides.pincer, input, alone()).await;
            self.leaks().await.is_some()
        };
        let small = shrink(input, Instant::now() + SHRINK * 4, leaks).await;
        self.find(&what, format!("{small}"));
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

    /// Counts what an input turned out to be; what both sides do if they differ for sure, in a way
    /// that is new.
    async fn is_sure(&self, input: &Input) -> Option<(Outcome, Outcome)> {
        let (plain, pincer) = self.once(input).await;
        let seen = if differ(input, &plain, &pincer) { self.stable(input).await } else { Some((plain, pincer)) };
        let mut report = self.report.lock();
        let tally = report.kinds.entry(input.kind).or_default();
        let Some((plain, pincer)) = seen else {
            tally.unstable += 1;
            return None;
        };
        if !differ(input, &plain, &pincer) {
            tally.crowd += 1;
            return None;
        }
        tally.different += 1;
        if !self.known.lock().insert(signature(&differences(&plain, &pincer))) {
            report.repeated += 1;
            return None;
        }
        Some((plain, pincer))
    }

    /// Makes an input small that differs for sure, and reports it.
    async fn make_small(&self, input: &Input, plain: Outcome, pincer: Outcome) {
        let differs = async |input: &Input| {
            let (plain, pincer) = self.once(input).await;
            differ(input, &plain, &pincer)
        };
        // What becomes small is not whole any more.
        let cut = Input { kind: SHRUNK, ..input.clone() };
        let small =
            if differs(&cut).await { shrink(cut, Instant::now() + SHRINK, differs).await } else { input.clone() };
        let (small, lines) = match self.stable(&small).await {
            Some((plain, pincer)) if differ(&small, &plain, &pincer) => (small, differences(&plain, &pincer)),
            // It went astray: what is not small, but is sure.
            _ => (input.clone(), differences(&plain, &pincer)),
        };
        self.known.lock().insert(signature(&lines));
        let places: Vec<_> = plain
            .response
            .iter()
            .chain(&pincer.response)
            .filter(|line| line.contains("X-Place") || line.contains("x-place"))
            .collect();
        self.find("the two sides differ", format!("{small}  locations: {places:?}\n  {}\n", lines.join("\n  ")));
    }

    /// What each side does when there is little else.
    async fn once(&self, input: &Input) -> (Outcome, Outcome) {
        tokio::join!(send::run(&self.sides.plain, input, alone()), send::run(&self.sides.pincer, input, alone()))
    }

    /// What each side does, if it does so all times.
    async fn stable(&self, input: &Input) -> Option<(Outcome, Outcome)> {
        let mut seen: Option<(Outcome, Outcome)> = None;
        for _ in 0..TIMES {
            let both = self.once(input).await;
            if let Some(seen) = seen.as_ref().filter(|seen| **seen != both) {
                if self.unstable {
                    let (plain, pincer) = (differences(&seen.0, &both.0), differences(&seen.1, &both.1));
                    println!(
                        "unstable: {input}  plain against itself: {plain:#?}\n  pincer against itself: {pincer:#?}"
                    );
                }
                return None;
            }
            seen = Some(both);
        }
        seen
    }
}
