//! Three times the load that a pool can serve: do VIPs notice, do other clients still get their
//! share, and is any slot idle?
//!
//! The yardstick is Pincer sent nothing but the same VIPs' requests: an idle pool. With all slots
//! busy even the first in line must wait until one is free: of N slots of mean work W the next one
//! on average after W/N, and behind other VIPs of load v (their part of the capacity) W/N/(1 - v)
//! in all. Here that is 31 ms with W = 400 ms; beside the 99th percentile of the work itself, 5.7
//! W, it is little. With work that is always the same, or few slots, it would not be: no order of
//! the queue can help there. So the table shows the wait by itself, too.
//!
//! In a second part VIPs alone ask for more than there is: now the others live by the share that
//! they are promised.

use std::time::Duration;

use anyhow::Result;

use super::seeds::seeds;
use crate::client::Fate;
use crate::contender::Contender;
use crate::pool::Pool;
use crate::report::{Measure, Verdicts, summarise};
use crate::run::{Experiment, Heat, Outcome, Served, Stage};
use crate::stats::{Spread, Summary};
use crate::trace::Class;

const REPLICAS: usize = 2;
const SLOTS: usize = 16;
const MEAN: Duration = Duration::from_millis(400);
const WORK_CV: f64 = 1.2;

/// Arrivals over what the pool can serve.
const LOAD: f64 = 3.0;

/// Parts of the requests that are VIPs': less than the pool can serve, and more.
const VIP_PARTS: [f64; 2] = [0.2, 0.8];

/// Until queues are full.
const WARM_UP: Duration = Duration::from_secs(8);

/// The most that other clients may cost VIPs: the VIPs' p99 over that of an idle pool.
const VIP_P99_MAX: f64 = 1.10;

/// The part of the slots that the free class is promised.
const SHARE: f64 = 0.05;

/// The part of the slots' time that must be worked.
const BUSY_MIN: f64 = 0.98;

/// The result of one lane in one heat.
struct Shown {
    vip: Summary,
    /// 99th percentile of what a VIP waited beyond its own work, seconds.
    vip_wait_p99: f64,
    free: Summary,
    /// The free class' part of the requests that were served.
    free_grants: f64,
    /// The free class' part of the slots' work.
    free_work: f64,
    /// Part of the slots' time that was worked.
    busy: f64,
    /// Requests served.
    served: f64,
}

/// `overload`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let all = [
        Contender::PincerClasses,
        Contender::PincerVipsAlone,
        Contender::PincerOneQueue,
        Contender::HaproxyPriority,
        Contender::NginxMaxConns,
    ];
    println!("  a fifth of the requests are VIPs':");
    let lanes = part(stage, VIP_PARTS[0], (60, 5), &all).await?;
    judge_vips(&lanes, verdicts);
    println!("\n  four fifths of the requests are VIPs', more than the pool can serve:");
    let lanes = part(stage, VIP_PARTS[1], (40, 3), &[Contender::PincerClasses, Contender::HaproxyPriority]).await?;
    judge_share(&lanes, verdicts);
    Ok(())
}

/// One comparison: per contender what its lane showed, heat by heat. `size` is the seconds measured
/// and the heats.
async fn part(
    stage: &Stage,
    vip_part: f64,
    size: (u64, u64),
    contenders: &[Contender],
) -> Result<Vec<(Contender, Vec<Shown>)>> {
    let (span_s, rounds) = if stage.quick { (20, 1) } else { size };
    let pool = Pool::of(&[(REPLICAS, SLOTS, MEAN)]);
    let mut experiment = Experiment::of_work(pool, LOAD, WORK_CV, WARM_UP + Duration::from_secs(span_s));
    experiment.shape.vip_part = Some(vip_part);
    experiment.warm_up = WARM_UP;
    experiment.contenders = stage.programs.available(contenders);
    let heats = experiment.run(stage, &seeds(rounds), 1).await?;
    let lanes = experiment.contenders.iter().enumerate();
    let lanes = lanes.map(|(place, who)| (*who, heats.iter().map(|heat| shown(heat, place, &experiment)).collect()));
    let lanes: Vec<_> = lanes.collect();
    print(&lanes);
    Ok(lanes)
}

fn shown(heat: &Heat, place: usize, experiment: &Experiment) -> Shown {
    let outcomes = &heat.lanes[place].1;
    let of = |class: Class| -> Vec<Outcome> {
        outcomes.iter().filter(|outcome| outcome.class == Some(class)).copied().collect()
    };
    let (vip, free) = (of(Class::Vip), of(Class::Free));
    let measured = vip.iter().filter(|o| o.at >= WARM_UP && o.fate == Fate::Succeeded);
    let waits = measured.map(|outcome| outcome.latency.saturating_sub(MEAN.mul_f64(outcome.work)));
    let slots = Worked::of(&heat.served[place], experiment.shape.span);
    Shown {
        vip: summarise(&vip, WARM_UP, Measure::Whole),
        vip_wait_p99: Summary::of(waits).p99,
        free: summarise(&free, WARM_UP, Measure::Whole),
        free_grants: slots.free_ended / slots.ended.max(1.0),
        free_work: slots.free_s / slots.all_s.max(f64::MIN_POSITIVE),
        busy: slots.all_s / ((REPLICAS * SLOTS) as f64 * (experiment.shape.span - WARM_UP).as_secs_f64()),
        served: slots.ended,
    }
}

/// What the slots of a lane did between the warm-up's end and the last arrival.
#[derive(Default)]
struct Worked {
    all_s: f64,
    free_s: f64,
    ended: f64,
    free_ended: f64,
}

impl Worked {
    fn of(served: &Served, span: Duration) -> Self {
        let (from, to) = (served.start + WARM_UP, served.start + span);
        let mut sum = Worked::default();
        for service in &served.services {
            let within_s = service.to.min(to).saturating_duration_since(service.from.max(from)).as_secs_f64();
            let ended = f64::from(u8::from((from..to).contains(&service.to)));
            sum.all_s += within_s;
            sum.ended += ended;
            if service.class == Some(Class::Free) {
                sum.free_s += within_s;
                sum.free_ended += ended;
            }
        }
        sum
    }
}

fn median(rounds: &[Shown], figure: impl Fn(&Shown) -> f64) -> f64 {
    Spread::of(rounds.iter().map(figure)).median
}

fn total(rounds: &[Shown], figure: impl Fn(&Shown) -> usize) -> usize {
    rounds.iter().map(figure).sum()
}

/// Failed or not finished.
fn lost(summary: &Summary) -> usize {
    summary.errors + summary.unfinished
}

/// The VIPs' p99 over that of an idle pool with the same VIPs.
fn over_alone(lanes: &[(Contender, Vec<Shown>)], rounds: &[Shown]) -> Option<Spread> {
    let (_, alone) = lanes.iter().find(|(who, _)| *who == Contender::PincerVipsAlone)?;
    Some(Spread::of(rounds.iter().zip(alone).map(|(mine, alone)| mine.vip.p99 / alone.vip.p99)))
}

fn print(lanes: &[(Contender, Vec<Shown>)]) {
    println!("\n  {:<26} | {:<49} | {:<31} | slots", "", "VIPs, seconds", "free, seconds; % of the slots'");
    println!(
        "  {:<26} | {:>6} {:>7} {:>7} {:>8} {:>6} {:>10} | {:>7} {:>7} {:>7} {:>7} | busy %",
        "", "mean", "p50", "p99", "wait p99", "errors", "p99 ÷ alone", "p50", "errors", "grants", "work"
    );
    for (who, rounds) in lanes {
        let seconds = |figure: fn(&Shown) -> f64| format!("{:7.3}", median(rounds, figure));
        let percent = |figure: fn(&Shown) -> f64| format!("{:7.1}", median(rounds, figure) * 100.0);
        let ratio = over_alone(lanes, rounds).map_or(String::new(), |ratio| format!("{:.3}", ratio.median));
        println!(
            "  {:<26} |{} {} {}  {} {:>6} {ratio:>11} | {} {:>7} {} {} |{}",
            who.name(),
            seconds(|s| s.vip.mean),
            seconds(|s| s.vip.p50),
            seconds(|s| s.vip.p99),
            seconds(|s| s.vip_wait_p99),
            total(rounds, |s| lost(&s.vip)),
            seconds(|s| s.free.p50),
            total(rounds, |s| lost(&s.free)),
            percent(|s| s.free_grants),
            percent(|s| s.free_work),
            percent(|s| s.busy),
        );
    }
    println!();
}

fn judge_vips(lanes: &[(Contender, Vec<Shown>)], verdicts: &mut Verdicts) {
    let Some((who, rounds)) = lanes.iter().find(|(who, _)| *who == Contender::PincerClasses) else { return };
    if let Some(ratio) = over_alone(lanes, rounds) {
        verdicts.ratio(&format!("{}: the VIPs' p99 over that of an idle pool", who.name()), ratio, VIP_P99_MAX);
    }
    verdicts.at_most(&format!("{}: VIPs not served", who.name()), total(rounds, |s| lost(&s.vip)) as f64, 0.0);
    let work = median(rounds, |s| s.free_work);
    verdicts.at_least(&format!("{}: the free class' part of the slots' work", who.name()), work, SHARE);
    let busy = median(rounds, |s| s.busy);
    verdicts.at_least(&format!("{}: part of the slots' time that was worked", who.name()), busy, BUSY_MIN);
}

fn judge_share(lanes: &[(Contender, Vec<Shown>)], verdicts: &mut Verdicts) {
    let Some((who, rounds)) = lanes.iter().find(|(who, _)| *who == Contender::PincerClasses) else { return };
    // Of the slots' grants, to one: what a grant is worth is drawn, and the window cuts through
    // some.
    let least = median(rounds, |s| s.free_grants + 1.0 / s.served.max(1.0));
    verdicts.at_least(&format!("{}: the free class' part of the grants, VIPs in excess", who.name()), least, SHARE);
    let busy = median(rounds, |s| s.busy);
    verdicts.at_least(
        &format!("{}: part of the slots' time that was worked, VIPs in excess", who.name()),
        busy,
        BUSY_MIN,
    );
}
