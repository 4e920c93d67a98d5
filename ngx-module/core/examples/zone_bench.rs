//! What a request costs in the zone: claim, signal and release among peers of equal speed.
//!
//! `cargo run --release -p pincer-core --example zone_bench -- [PEERS [WORKERS [ROUNDS]]]` prints
//! nanoseconds a request. Under callgrind two runs of different `ROUNDS` give the instructions of
//! one request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::hint::black_box;
use std::time::Instant;

use pincer_core::pick::{Demand, THETA};
use pincer_core::time::MonoNs;
use pincer_core::zone::{BalanceParams, Claim, HeapZone, Outcome, PeerSpec, Plan, ProcessId, Settings, Signal};

const MS: u64 = 1_000_000;
const GOOD: Outcome = Outcome::Success {
    first_byte_ns: Some(20 * MS),
    header_ns: Some(10 * MS),
    last_byte_ns: Some(40 * MS),
    held_ns: 40 * MS,
};
const PARAMS: BalanceParams =
    BalanceParams { signal: Signal::FirstByte, half_life_ns: 10_000 * MS, slow_start_ns: 0, theta: THETA };

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>().unwrap_or(8));
    let (peers, workers) = (arguments.next().unwrap_or(8), arguments.next().unwrap_or(4));
    let rounds = arguments.next().unwrap_or(1_000_000).max(1);
    let heap = HeapZone::new(1, peers as usize);
    let zone = heap.zone();
    zone.header.generation_begin();
    let names: Vec<String> = (0..peers).map(|peer| format!("10.0.0.{peer}:80")).collect();
    let specs: Vec<PeerSpec<'_>> = names.iter().map(|name| spec(name)).collect();
    let Ok(u) = zone.upstream_reserve(b"bench") else { return };
    if zone.upstream_configure(u, &Settings::default(), &specs, MonoNs(1)).is_err() {
        return;
    }
    let joined = (1..=workers).filter_map(|pid| zone.worker_join(ProcessId { pid, start: 1 }, 1));
    let Some(w) = joined.into_iter().next_back() else { return };
    let mut plan = Plan::new();
    let (mut held, mut taken, mut random, started) = (Vec::with_capacity(4), 0, 1_u64, Instant::now());
    for round in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now = MonoNs(1_000_000_000 + u64::from(round) * MS);
        let demand = Demand { queued: 1, can_wait: true, random: random >> 1, ..Demand::default() };
        if let Claim::Taken(mut ticket) = zone.claim_planned(u, w, &mut plan, black_box(&demand), &PARAMS, now).claim {
            taken += 1;
            zone.signal_seen(&mut ticket, w);
            held.push(ticket);
        }
        if held.len() == 4 {
            for ticket in held.drain(..) {
                zone.release(ticket, w, black_box(GOOD), &PARAMS, now, random);
            }
        }
    }
    let nanos = started.elapsed().as_nanos() / u128::from(rounds);
    println!("{peers} peers, {workers} workers: {nanos} ns a request, {taken} of {rounds} taken");
}

fn spec(name: &str) -> PeerSpec<'_> {
    PeerSpec {
        sockaddr: name.as_bytes(),
        name: name.as_bytes(),
        server: name.as_bytes(),
        weight: 1,
        max_conns: 4,
        max_fails: 1,
        max_fails_explicit: false,
        fail_timeout_ms: 10_000,
        backup: false,
        down: false,
        lines: 1,
    }
}
