//! Runs contenders side by side: every lane gets the same arrivals and the same work at the same
//! time, on replicas of its own.
//!
//! A *heat* is one trace replayed by all contenders at once; a *round* is one or more heats at
//! once. Lanes are shifted against each other by a fraction of the mean gap between arrivals, so
//! that a trace's bursts don't hit the machine from all lanes in the same instant, and the order
//! rotates from heat to heat. Everything is started anew for each heat, so nothing is learned from
//! the previous one. Scenarios choose what is measured. Bound: lanes × `client::OUTSTANDING_MAX`
//! requests in flight.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::client::{Client, Fate, Sample};
use crate::contender::{Contender, Options, Programs, Running, Server};
use crate::pool::Pool;
use crate::process::Meter;
use crate::replica::{Behaviour, Replica, Service};
use crate::stats::quantile;
use crate::timer::{TimerThread, Timers};
use crate::trace::{Arrival, Class, Shape, draw};

/// From the last proxy's start to the first arrival.
const SETTLE: Duration = Duration::from_millis(300);

/// If the cores are busier than this, the round measures the machine too: p99 then contains waits
/// for a core.
const BUSY_MAX: f64 = 0.5;

/// The programs and timers that every scenario needs.
pub struct Stage {
    /// The programs that were found.
    pub programs: Programs,
    /// The timers of replicas and clients.
    pub timers: Timers,
    /// Short runs, which prove nothing.
    pub quick: bool,
    /// The folder for the files of single requests, if they are to be written.
    dump: Option<PathBuf>,
    /// The number of experiments so far, which tells their files apart.
    experiments: AtomicUsize,
    _thread: TimerThread,
}

/// A change of a replica's behaviour while a heat runs.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// When, from the first arrival's zero.
    pub at: Duration,
    /// Which replica of the pool.
    pub replica: usize,
    /// Its behaviour from then on.
    pub behaviour: Behaviour,
}

/// All that one side-by-side comparison is made of.
pub struct Experiment {
    /// The replicas, and the slots in the configurations of the contenders.
    pub pool: Pool,
    /// The behaviour of each replica, in the pool's order.
    pub behaviours: Vec<Behaviour>,
    /// The arrivals.
    pub shape: Shape,
    /// Requests meant to start before this are sent but not measured.
    pub warm_up: Duration,
    /// How long responses are awaited after the last arrival.
    pub drain: Duration,
    /// The options of the configurations.
    pub options: Options,
    /// Faults and healings.
    pub changes: Vec<Change>,
    /// The contenders that take part.
    pub contenders: Vec<Contender>,
}

/// The outcome of one request in one lane.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Intended start, from the trace.
    pub at: Duration,
    /// Its work, from the trace.
    pub work: f64,
    /// Its class, from the trace.
    pub class: Option<Class>,
    /// Status of the response; 0 without one.
    pub status: u16,
    /// Whether it succeeded, failed or did not finish.
    pub fate: Fate,
    /// From the intended start to the end of the response; for an unfinished request, to the end of
    /// the heat.
    pub latency: Duration,
    /// From the intended start to the first byte of the body; None without one.
    pub first_byte: Option<Duration>,
    /// How much later than intended it was sent.
    pub lag: Duration,
    /// Which replica responded.
    pub replica: Option<usize>,
}

/// One trace, replayed by all.
pub struct Heat {
    /// The arrivals that every contender gets, except those that are sent a part of it
    /// ([`Contender::share_of`]).
    pub trace: Arc<[Arrival]>,
    /// Per contender, the outcomes in the trace's order.
    pub lanes: Vec<(Contender, Vec<Outcome>)>,
    /// Per contender, the work of its replicas' slots.
    pub served: Vec<Served>,
}

/// The work of the slots of one lane.
pub struct Served {
    /// When the trace's zero was.
    pub start: Instant,
    /// Every service of every replica.
    pub services: Vec<Service>,
}

struct Lane {
    contender: Contender,
    running: Running,
    replicas: Vec<Replica>,
}

impl Stage {
    /// Finds the programs, starts the clock.
    pub fn new(quick: bool, dump: Option<PathBuf>) -> Result<Self> {
        let thread = TimerThread::start()?;
        Ok(Stage {
            programs: Programs::find(),
            timers: thread.timers(),
            quick,
            dump,
            experiments: AtomicUsize::new(0),
            _thread: thread,
        })
    }

    /// Starts one replica per entry of the pool.
    pub async fn replicas(&self, pool: &Pool, behaviours: &[Behaviour]) -> Result<Vec<Replica>> {
        let mut replicas = Vec::new();
        for (index, (spec, behaviour)) in pool.0.iter().zip(behaviours).enumerate() {
            replicas.push(Replica::start(index, spec.slots, *behaviour, self.timers.clone()).await?);
        }
        Ok(replicas)
    }
}

impl Stage {
    /// Writes the requests of `heats` as comma-separated lines, if they are to be kept; times in
    /// seconds.
    fn keep(&self, heats: &[Heat], seeds: &[u64]) -> Result<()> {
        let Some(folder) = &self.dump else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let number = self.experiments.load(Ordering::Relaxed);
        for (heat, seed) in heats.iter().zip(seeds) {
            for (contender, outcomes) in &heat.lanes {
                let mut text = String::from("at,work,status,fate,latency,first_byte,replica,class\n");
                text.extend(outcomes.iter().map(Outcome::line));
                std::fs::write(folder.join(format!("{number}.{contender:?}.{seed}.csv")), text)?;
            }
        }
        Ok(())
    }
}

impl Experiment {
    /// An experiment in which replicas serve by the work of each request, at `load` of the pool's
    /// capacity.
    pub fn of_work(pool: Pool, load: f64, work_cv: f64, span: Duration) -> Self {
        let behaviours = pool.0.iter().map(|replica| Behaviour::Work { mean: replica.mean }).collect();
        let rate_per_s = load * pool.capacity_per_s();
        Experiment {
            pool,
            behaviours,
            shape: Shape { rate_per_s, span, work_cv, vip_part: None },
            warm_up: span / 8,
            drain: Duration::from_secs(10),
            options: Options::default(),
            changes: Vec::new(),
            contenders: Contender::ALL.to_vec(),
        }
    }

    /// Runs one heat per seed, `at_once` of them at a time.
    pub async fn run(&self, stage: &Stage, seeds: &[u64], at_once: usize) -> Result<Vec<Heat>> {
        stage.experiments.fetch_add(1, Ordering::Relaxed);
        let rounds = seeds.chunks(at_once.max(1));
        let count = rounds.len();
        println!(
            "  {} contenders, {:.2} requests/s each, {:.0} s, {} round(s) of {} heat(s)",
            self.contenders.len(),
            self.shape.rate_per_s,
            self.shape.span.as_secs_f64(),
            count,
            at_once.min(seeds.len())
        );
        let mut heats = Vec::new();
        for (index, seeds) in rounds.enumerate() {
            let meter = Meter::start();
            let label = format!("round {} of {count}", index + 1);
            heats.extend(self.round(stage, seeds, &label).await?);
            stage.keep(&heats[heats.len() - seeds.len()..], seeds)?;
            println!("  {label}: {}", conditions(&meter, stage, &heats[heats.len() - seeds.len()..]));
        }
        Ok(heats)
    }

    async fn round(&self, stage: &Stage, seeds: &[u64], label: &str) -> Result<Vec<Heat>> {
        let mut heats = Vec::new();
        for seed in seeds {
            let trace: Arc<[Arrival]> = draw(self.shape, *seed)?.into();
            let mut lanes = Vec::new();
            for contender in &self.contenders {
                lanes.push(self.lane(stage, *contender).await?);
            }
            heats.push((*seed, trace, lanes));
        }
        let start = Instant::now() + SETTLE;
        let progress = tokio::spawn(progress(label.to_owned(), start, self.shape.span + self.drain));
        let heats = heats.into_iter().map(|(seed, trace, lanes)| {
            let lanes = lanes.into_iter().enumerate().map(|(place, lane)| {
                let replay =
                    lane.replay(stage.timers.clone(), Arc::clone(&trace), start + self.shift(seed, place), self);
                tokio::spawn(replay)
            });
            (Arc::clone(&trace), lanes.collect::<Vec<_>>())
        });
        let mut done = Vec::new();
        for (trace, running) in heats.collect::<Vec<_>>() {
            let (mut lanes, mut served) = (Vec::new(), Vec::new());
            for lane in running {
                let (contender, outcomes, slots) = lane.await.context("a lane broke down")?;
                lanes.push((contender, outcomes));
                served.push(slots);
            }
            done.push(Heat { trace, lanes, served });
        }
        progress.abort();
        Ok(done)
    }

    /// How much later than the first lane the one at `place` starts.
    fn shift(&self, seed: u64, place: usize) -> Duration {
        let lanes = self.contenders.len();
        let rotated = (place + usize::try_from(seed).unwrap_or(0)) % lanes;
        Duration::from_secs_f64(rotated as f64 / lanes as f64 / self.shape.rate_per_s.max(1.0))
    }

    async fn lane(&self, stage: &Stage, contender: Contender) -> Result<Lane> {
        let replicas = stage.replicas(&self.pool, &self.behaviours).await?;
        let servers = servers(&self.pool, &replicas);
        let running = contender
            .start(&stage.programs, &servers, self.options)
            .with_context(|| format!("contender {}", contender.name()))?;
        Ok(Lane { contender, running, replicas })
    }
}

impl Lane {
    /// This is no method that borrows the experiment for the life of the task; it copies what it
    /// needs.
    fn replay(
        self,
        timers: Timers,
        trace: Arc<[Arrival]>,
        start: Instant,
        experiment: &Experiment,
    ) -> impl Future<Output = (Contender, Vec<Outcome>, Served)> + Send + 'static {
        let end = start + experiment.shape.span + experiment.drain;
        let changes = experiment.changes.clone();
        async move {
            // The contender is moved as a whole: a block that captured only some of its fields
            // would drop the others, which would stop the contender here.
            let lane = self;
            let trace = lane.contender.share_of(trace);
            let client = Client::new(lane.running.address);
            let sending = client.replay(Arc::clone(&trace), start, end, timers.clone());
            let (samples, ()) = tokio::join!(sending, change(&lane.replicas, &changes, start, &timers));
            let end = Instant::now();
            let pairs = trace.iter().zip(samples);
            let outcomes = pairs.map(|(arrival, sample)| Outcome::of(arrival, &sample, start, end)).collect();
            let services = lane.replicas.iter().flat_map(Replica::take_served).collect();
            (lane.contender, outcomes, Served { start, services })
        }
    }
}

async fn change(replicas: &[Replica], changes: &[Change], start: Instant, timers: &Timers) {
    for change in changes {
        timers.until(start + change.at).await;
        replicas[change.replica].become_(change.behaviour);
    }
}

impl Outcome {
    fn line(&self) -> String {
        let Outcome { work, status, fate, latency, first_byte, replica, .. } = self;
        let (at, latency) = (self.at.as_secs_f64(), latency.as_secs_f64());
        let first_byte = first_byte.map_or(String::new(), |time| time.as_secs_f64().to_string());
        let replica = replica.map_or(String::new(), |index| index.to_string());
        let class = self.class.map_or("", Class::name);
        format!("{at},{work},{status},{fate:?},{latency},{first_byte},{replica},{class}\n")
    }

    fn of(arrival: &Arrival, sample: &Sample, start: Instant, end: Instant) -> Self {
        let intended = start + arrival.at;
        let since = |instant: Instant| instant.saturating_duration_since(intended);
        Outcome {
            at: arrival.at,
            work: arrival.work,
            class: arrival.class,
            status: sample.status,
            fate: sample.fate(),
            latency: sample.latency(intended).unwrap_or_else(|| since(end)),
            first_byte: sample.first_byte.map(since),
            lag: sample.sent.map_or(Duration::ZERO, since),
            replica: sample.replica,
        }
    }
}

/// The replicas as the contenders' configurations list them.
pub fn servers(pool: &Pool, replicas: &[Replica]) -> Vec<Server> {
    let rate = |slots: usize, mean: Duration| slots as f64 / mean.as_secs_f64().max(1e-9);
    let most = pool.0.iter().map(|spec| rate(spec.slots, spec.mean)).fold(0.0, f64::max);
    let weigh = |share: f64| (1..=256usize).rfind(|weight| *weight as f64 <= share * 256.0).unwrap_or(1);
    let pairs = pool.0.iter().zip(replicas);
    pairs
        .map(|(spec, replica)| Server {
            address: replica.address,
            slots: spec.slots,
            weight: weigh(rate(spec.slots, spec.mean) / most),
        })
        .collect()
}

/// The load of the machine in the round: if it was too high, the round measured the machine and not
/// the policies.
fn conditions(meter: &Meter, stage: &Stage, heats: &[Heat]) -> String {
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let late = sorted(stage.timers.take_lateness().iter().map(Duration::as_secs_f64).collect());
    let outcomes = heats.iter().flat_map(|heat| &heat.lanes).flat_map(|(_, outcomes)| outcomes);
    let lag = sorted(outcomes.map(|outcome| outcome.lag.as_secs_f64()).collect());
    let busy = meter.busy();
    let warning = if busy > BUSY_MAX { "; TOO BUSY to trust" } else { "" };
    format!(
        "cores {:.0} % busy; timers late by {:.2} ms (p99 {:.2}); requests left late by {:.2} ms (p99 {:.2}){warning}",
        busy * 100.0,
        quantile(&late, 0.5) * 1e3,
        quantile(&late, 0.99) * 1e3,
        quantile(&lag, 0.5) * 1e3,
        quantile(&lag, 0.99) * 1e3
    )
}

/// Shows the progress of a round: in place on a terminal, elsewhere in a line now and then.
async fn progress(label: String, start: Instant, length: Duration) {
    let terminal = std::io::stderr().is_terminal();
    let pause = Duration::from_secs(if terminal { 1 } else { 30 });
    loop {
        tokio::time::sleep(pause).await;
        let (gone, whole) = (start.elapsed().as_secs(), length.as_secs());
        let (before, after) = if terminal { ("\r", "") } else { ("", "\n") };
        eprint!("{before}  {label}: {gone} s of at most {whole} s {after}");
        let _ = std::io::stderr().flush();
    }
}
