//! Prints what was measured, lanes side by side.

use std::time::Duration;

use harness::stats;

use crate::cluster::Lane;
use crate::traffic::Outcome;

/// Times of each lane, and which share of its requests each replica was sent.
pub fn comparison(lanes: &[Lane], outcomes: &[Outcome]) {
    println!("\n  {:<18} {:>24}   {:>10}  {:>5}   share of the requests", "", "time to first token", "answer", "not");
    print!("  {:<18} {:>7} {:>8} {:>7}   {:>10}  {:>5}  ", "", "mean", "p50", "p99", "p99", "done");
    for replica in lanes.iter().take(1).flat_map(|lane| &lane.replicas) {
        print!(" {:>6}", replica.name());
    }
    println!();
    for (number, lane) in lanes.iter().enumerate() {
        let own: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.lane == number).collect();
        let ttft: Vec<Duration> = own.iter().map(|outcome| outcome.ttft).collect();
        let total: Vec<Duration> = own.iter().map(|outcome| outcome.total).collect();
        let not_done = own.iter().filter(|outcome| !outcome.done).count();
        print!(
            "  {:<18} {:>5.2} s {:>6.2} s {:>5.2} s   {:>8.2} s  {:>5}  ",
            lane.name,
            stats::mean_s(&ttft),
            stats::percentile_s(&ttft, 50.0),
            stats::percentile_s(&ttft, 99.0),
            stats::percentile_s(&total, 99.0),
            not_done
        );
        for share in shares(lane) {
            print!(" {share:>4.0} %");
        }
        println!();
    }
    println!("\n  Not done: still waiting when the traffic ended; counted with the time waited so far.");
    compare(lanes, outcomes);
}

/// The last lane's times as a part of each other's.
fn compare(lanes: &[Lane], outcomes: &[Outcome]) {
    let of = |number: usize| -> Vec<Duration> {
        outcomes.iter().filter(|outcome| outcome.lane == number).map(|outcome| outcome.ttft).collect()
    };
    let Some((last, others)) = lanes.split_last() else { return };
    let own = of(others.len());
    for (number, lane) in others.iter().enumerate() {
        let their = of(number);
        let ratio = |measure: fn(&[Duration]) -> f64| measure(&own) / measure(&their).max(f64::MIN_POSITIVE);
        let (mean, p99) = (ratio(stats::mean_s), ratio(|times| stats::percentile_s(times, 99.0)));
        println!(
            "  {} against {}: {mean:.2} of the mean, {p99:.2} of the p99 time to the first token.",
            last.name, lane.name
        );
    }
}

/// Percent of a lane's requests that each replica was sent since [`harness::Replica::forget`].
pub fn shares(lane: &Lane) -> Vec<f64> {
    let counts: Vec<f64> =
        lane.replicas.iter().map(|replica| f64::from(u32::try_from(replica.seen().requests).unwrap_or(0))).collect();
    let sum = counts.iter().sum::<f64>().max(1.0);
    counts.iter().map(|count| 100.0 * count / sum).collect()
}
