//! Fast and slow replicas in one pool, the case Pincer exists for: 2 of 4 slots, and 6 of 2 slots
//! that are ten times slower.
//!
//! At 100 ms and 1 s every contender runs; at 6 s and 60 s only those that stay stable, with
//! several traces at once, since at about one request a second a single trace says little.

use std::time::Duration;

use anyhow::Result;

use super::seeds::seeds;
use crate::contender::Contender;
use crate::oracle;
use crate::pool::Pool;
use crate::report::{Measure, Row, Verdicts, find, print, rows};
use crate::run::{Experiment, Heat, Stage};

const LOAD: f64 = 0.7;
const WORK_CV: f64 = 1.2;

/// The pool whose fast replicas take `fast` and whose slow ones ten times as long.
fn pool(fast: Duration) -> Pool {
    Pool::of(&[(2, 4, fast), (6, 2, fast * 10)])
}

/// `pool100ms`.
pub async fn at_100_ms(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let (span_s, rounds) = if stage.quick { (40, 1) } else { (100, 7) };
    let span = Duration::from_secs(span_s);
    let mut experiment = Experiment::of_work(pool(Duration::from_millis(100)), LOAD, WORK_CV, span);
    experiment.contenders = stage.programs.available(&Contender::ALL);
    let heats = experiment.run(stage, &seeds(rounds), 1).await?;
    let rows = table(&experiment, &heats);
    let Some(pincer) = find(&rows, Contender::Pincer.name()) else { return Ok(()) };
    if let Some(peer) = find(&rows, Contender::LeastTimeLastByte.name()) {
        verdicts.ratio("p99 over least_time last_byte's", pincer.over(peer, |s| s.p99), 0.7);
        verdicts.ratio("mean over least_time last_byte's", pincer.over(peer, |s| s.mean), 0.9);
    }
    if let Some(oracle) = find(&rows, "oracle") {
        verdicts.ratio("p99 over the oracle's", pincer.over(oracle, |s| s.p99), 1.35);
    }
    Ok(())
}

/// `pool6s`.
pub async fn at_6_s(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let (span_s, traces) = if stage.quick { (120, 2) } else { (900, 10) };
    let span = Duration::from_secs(span_s);
    let mut experiment = Experiment::of_work(pool(Duration::from_secs(6)), LOAD, WORK_CV, span);
    // A slow replica's first response takes a minute, and until then no contender knows its speed.
    experiment.warm_up = span / 5;
    experiment.drain = Duration::from_secs(if stage.quick { 60 } else { 360 });
    experiment.contenders = stage.programs.available(&[
        Contender::Pincer,
        Contender::HaproxyQueue,
        Contender::HaproxyQueueWeighted,
        Contender::LeastTimeLastByte,
    ]);
    let heats = experiment.run(stage, &seeds(traces), 10).await?;
    let rows = table(&experiment, &heats);
    let Some(pincer) = find(&rows, Contender::Pincer.name()) else { return Ok(()) };
    if let Some(peer) = find(&rows, Contender::HaproxyQueue.name()) {
        verdicts.ratio("p99 over HAProxy's maxconn queue's", pincer.over(peer, |s| s.p99), 0.35);
        verdicts.ratio("mean over HAProxy's maxconn queue's", pincer.over(peer, |s| s.mean), 0.65);
    }
    Ok(())
}

/// Contenders, then the two yardsticks on the same traces.
fn table(experiment: &Experiment, heats: &[Heat]) -> Vec<Row> {
    let warm_up = experiment.warm_up;
    let mut rows = rows(heats, warm_up, Measure::Whole);
    rows.push(Row::simulated("best blind policy", heats, warm_up, |h| oracle::blind(&h.trace, &experiment.pool)));
    rows.push(Row::simulated("oracle", heats, warm_up, |h| oracle::greedy(&h.trace, &experiment.pool)));
    print(&rows);
    rows
}
