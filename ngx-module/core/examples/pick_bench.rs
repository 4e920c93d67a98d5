//! What a pick costs: nanoseconds among 8 and among 64 peers, for each way that a decision can go.
//!
//! `cargo run --release -p pincer-core --example pick_bench`. The bound promised is 200 ns among 8
//! peers; nothing is allocated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use pincer_core::pick::{Admission, Demand, PeerView, THETA, pick};
use std::hint::black_box;
use std::time::Instant;

const MS: u64 = 1_000_000;
const ROUNDS: u32 = 2_000_000;

fn peer(i: u32, service_ns: u64, in_flight: u32, slots: u32) -> PeerView {
    PeerView {
        identity: u64::from(i) + 1,
        in_flight,
        pending: in_flight,
        pending_age_ns: u64::from(in_flight) * MS,
        slots,
        max_conns: slots,
        weight: 1,
        service_ns,
        error_ns: service_ns / 20,
        usual_ns: service_ns,
        recent_ns: service_ns,
        recent_most_ns: service_ns,
        hold_ns: service_ns,
        wrr_current: i64::from(i),
        admission: Admission::Open,
        backup: false,
        silent_ns: 0,
        stalled: false,
        span_ns: 0,
        samples: 200,
    }
}

/// A quarter of the peers is fast (4 slots, 100 ms), the others are slow (2 slots, 1 s).
fn mixed(count: u32, in_flight: u32, limited: u32) -> Vec<PeerView> {
    let fast = |i: u32| i < count / 4;
    (0..count)
        .map(|i| if fast(i) { peer(i, 100 * MS, in_flight, 4 * limited) } else { peer(i, 1_000 * MS, 0, 2 * limited) })
        .collect()
}

fn measure(name: &str, peers: &[PeerView], affinity: Option<u64>) {
    let rounds = u64::from(ROUNDS) / peers.len() as u64;
    let mut best_ns = f64::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        for random in 0..rounds {
            let demand = Demand { queued: 3, can_wait: true, affinity, random, ..Demand::default() };
            black_box(pick(black_box(peers), black_box(&demand), THETA));
        }
        best_ns = best_ns.min(started.elapsed().as_nanos() as f64 / rounds as f64);
    }
    println!("{:>3} peers, {name:<48} {best_ns:>7.1} ns", peers.len());
}

fn main() {
    for count in [8_u32, 64] {
        let equal = |limited: u32| (0..count).map(|i| peer(i, 100 * MS, i % 4, 4 * limited)).collect::<Vec<_>>();
        measure("equal", &equal(1), None);
        measure("equal, without max_conns", &equal(0), None);
        measure("two speeds, the fast ones free", &mixed(count, 1, 1), None);
        measure("two speeds, the fast ones full: wait or not", &mixed(count, 4, 1), None);
        measure("two speeds, without max_conns", &mixed(count, 12, 0), None);
        measure("affinity", &equal(1), Some(42));
    }
}
