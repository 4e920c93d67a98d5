//! Replicas that fail and recover: one responds with 500 at once, and one is slow for a while.
//!
//! A replica that fails at once looks like the fastest and idlest one. A slow replica that gets no
//! requests never shows that it has recovered.

use std::time::Duration;

use anyhow::Result;

use super::seeds::seeds;
use crate::client::Fate;
use crate::contender::{Contender, Options};
use crate::pool::Pool;
use crate::replica::Behaviour;
use crate::report::{Measure, Verdicts, print, rows};
use crate::run::{Change, Experiment, Heat, Outcome, Stage};
use crate::stats::Spread;

const MEAN: Duration = Duration::from_millis(100);
const REPLICAS: usize = 4;
const SLOTS: usize = 4;

/// How much slower the replica of `heal` gets.
const SLOWER: u32 = 20;

/// The replica that misbehaves.
const BAD: usize = 1;

fn experiment(stage: &Stage, span_s: u64) -> Experiment {
    let pool = Pool::of(&[(REPLICAS, SLOTS, MEAN)]);
    let mut experiment = Experiment::of_work(pool, 0.5, 1.2, Duration::from_secs(span_s));
    experiment.contenders = stage.programs.available(&[
        Contender::Pincer,
        Contender::PincerNoSlots,
        Contender::NginxRoundRobin,
        Contender::NginxLeastConn,
        Contender::LeastTimeLastByte,
        Contender::HaproxyQueue,
        Contender::Envoy,
    ]);
    experiment
}

fn within(outcomes: &[Outcome], from: Duration, to: Duration) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(move |outcome| (from..to).contains(&outcome.at))
}

/// `fail500`.
pub async fn failing(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let window_s = if stage.quick { 15 } else { 40 };
    let (from, to) = (Duration::from_secs(10), Duration::from_secs(10 + window_s));
    for retry in [false, true] {
        let mut experiment = experiment(stage, 10 + window_s);
        experiment.options = Options { retry, ..Options::default() };
        experiment.changes = vec![Change { at: from, replica: BAD, behaviour: Behaviour::Fail }];
        let heats = experiment.run(stage, &seeds(if stage.quick { 1 } else { 3 }), 1).await?;
        println!(
            "  {} retry, one of {REPLICAS} replicas responds with 500 at once:",
            if retry { "with one" } else { "without" }
        );
        for (place, contender) in experiment.contenders.iter().enumerate() {
            let seen = Spread::of(heats.iter().map(|heat| seen_failing(&heat.lanes[place].1, from, to)));
            println!("    {:<25} {:6.2} % of the requests saw it", contender.name(), seen.median * 100.0);
            if matches!(contender, Contender::Pincer | Contender::PincerNoSlots) {
                let what = format!("{}: share of requests that saw a failure", contender.name());
                verdicts.at_most(&what, seen.median, if retry { 0.0 } else { 0.015 });
            }
        }
    }
    Ok(())
}

fn seen_failing(outcomes: &[Outcome], from: Duration, to: Duration) -> f64 {
    let failed = within(outcomes, from, to).filter(|outcome| outcome.fate == Fate::Failed).count();
    failed as f64 / within(outcomes, from, to).count().max(1) as f64
}

/// `heal`.
pub async fn healing(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let [slow_at, healed_at, judged_from, end] = [20, 30, 45, 65].map(Duration::from_secs);
    let mut experiment = experiment(stage, end.as_secs());
    experiment.changes = vec![
        Change { at: slow_at, replica: BAD, behaviour: Behaviour::Work { mean: MEAN * SLOWER } },
        Change { at: healed_at, replica: BAD, behaviour: Behaviour::Work { mean: MEAN } },
    ];
    let heats = experiment.run(stage, &seeds(if stage.quick { 1 } else { 3 }), 1).await?;
    println!("  one of {REPLICAS} replicas {SLOWER} times slower for 10 s; latencies from then on:");
    print(&rows(&heats, slow_at, Measure::Whole));
    println!("  the replica's part of a fair share: while slow, in 15 s after healing, from then on");
    for (place, contender) in experiment.contenders.iter().enumerate() {
        let part = |from, to| Spread::of(heats.iter().map(|heat| fair_part(heat, place, from, to))).median;
        let healed = part(judged_from, end);
        let (slow, soon) = (part(slow_at, healed_at), part(healed_at, judged_from));
        println!("    {:<25} {slow:6.2} {soon:6.2} {healed:6.2}", contender.name());
        if matches!(contender, Contender::Pincer | Contender::PincerNoSlots) {
            let what = format!("{}: part of its fair share, 15 s after healing", contender.name());
            verdicts.at_least(&what, healed, 0.8);
        }
    }
    Ok(())
}

/// The bad replica's part of the requests with an intended start between the two times, over an
/// equal share.
fn fair_part(heat: &Heat, place: usize, from: Duration, to: Duration) -> f64 {
    let outcomes = &heat.lanes[place].1;
    let all = within(outcomes, from, to).count().max(1) as f64;
    let bad = within(outcomes, from, to).filter(|outcome| outcome.replica == Some(BAD)).count() as f64;
    bad / all * REPLICAS as f64
}
