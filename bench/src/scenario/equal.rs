//! Equal replicas: latencies must not be worse than those of `least_conn`, and each replica must
//! get its share.

use std::time::Duration;

use anyhow::Result;

use super::seeds::seeds;
use crate::contender::Contender;
use crate::oracle;
use crate::pool::Pool;
use crate::report::{Measure, Row, Verdicts, find, print, rows};
use crate::run::{Experiment, Heat, Outcome, Stage};
use crate::stats::Spread;

const REPLICAS: usize = 5;

/// Requests after the warm-up over which shares are counted.
const SHARED: usize = 1_500;

/// `equal`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let (span_s, rounds) = if stage.quick { (30, 1) } else { (80, 7) };
    let pool = Pool::of(&[(REPLICAS, 4, Duration::from_millis(100))]);
    let mut experiment = Experiment::of_work(pool, 0.7, 1.2, Duration::from_secs(span_s));
    experiment.contenders = stage.programs.available(&[
        Contender::Pincer,
        Contender::PincerNoSlots,
        Contender::NginxLeastConn,
        Contender::LeastTimeLastByte,
        Contender::HaproxyQueue,
    ]);
    let heats = experiment.run(stage, &seeds(rounds), 1).await?;
    let mut rows = rows(&heats, experiment.warm_up, Measure::Whole);
    let simulated = |heat: &Heat| oracle::greedy(&heat.trace, &experiment.pool);
    rows.push(Row::simulated("oracle", &heats, experiment.warm_up, simulated));
    print(&rows);
    judge_latency(&rows, verdicts);
    judge_shares(&heats, experiment.warm_up, verdicts);
    Ok(())
}

fn judge_latency(rows: &[Row], verdicts: &mut Verdicts) {
    let Some(peer) = find(rows, Contender::NginxLeastConn.name()) else { return };
    for contender in [Contender::Pincer, Contender::PincerNoSlots] {
        let Some(pincer) = find(rows, contender.name()) else { continue };
        verdicts.ratio(&format!("{}: mean over least_conn's", contender.name()), pincer.over(peer, |s| s.mean), 1.02);
        verdicts.ratio(&format!("{}: p99 over least_conn's", contender.name()), pincer.over(peer, |s| s.p99), 1.02);
    }
}

fn judge_shares(heats: &[Heat], warm_up: Duration, verdicts: &mut Verdicts) {
    let lanes = heats.iter().flat_map(|heat| &heat.lanes);
    for contender in [Contender::Pincer, Contender::PincerNoSlots] {
        let own = lanes.clone().filter(|(who, _)| *who == contender);
        let worst = own.map(|(_, outcomes)| furthest_from_fair(outcomes, warm_up));
        let spread = Spread::of(worst);
        if spread.median > 0.0 {
            let what = format!("{}: furthest share of {SHARED} requests from a fair one", contender.name());
            verdicts.ratio(&what, spread, 0.2);
        }
    }
}

/// The largest distance of a replica's share from the mean share, as a part of the mean share.
fn furthest_from_fair(outcomes: &[Outcome], warm_up: Duration) -> f64 {
    let mut counts = [0.0; REPLICAS];
    let measured = outcomes.iter().filter(|outcome| outcome.at >= warm_up).take(SHARED);
    for replica in measured.filter_map(|outcome| outcome.replica) {
        counts[replica] += 1.0;
    }
    let fair = counts.iter().sum::<f64>() / REPLICAS as f64;
    counts.iter().map(|count| (count / fair - 1.0).abs()).fold(0.0, f64::max)
}
