//! What the zone's tests share: specs, parameters, a worker of one's own.
#![allow(dead_code)]

use pincer_core::pick::{Demand, THETA};
use pincer_core::time::MonoNs;
use pincer_core::turn::Terms;
use pincer_core::zone::{
    BalanceParams, Claim, HeapZone, Outcome, PeerSpec, ProcessId, QueueClass, Settings, Signal, Ticket, UpstreamIdx,
    WorkerIdx, Zone,
};

pub const MS: u64 = 1_000_000;
pub const NOW: MonoNs = MonoNs(1_000_000_000_000);
pub const SETTINGS: Settings = Settings { queue_size: 100, signal: Signal::FirstByte };

pub const PARAMS: BalanceParams =
    BalanceParams { signal: Signal::FirstByte, half_life_ns: 10_000 * MS, slow_start_ns: 0, theta: THETA };

pub const GOOD: Outcome = Outcome::Success {
    first_byte_ns: Some(20 * MS),
    header_ns: Some(10 * MS),
    last_byte_ns: Some(40 * MS),
    held_ns: 40 * MS,
};

/// A plain `server NAME max_conns=N`.
pub fn spec(name: &str, max_conns: u32) -> PeerSpec<'_> {
    PeerSpec {
        sockaddr: name.as_bytes(),
        name: name.as_bytes(),
        server: name.as_bytes(),
        weight: 1,
        max_conns,
        max_fails: 1,
        max_fails_explicit: false,
        fail_timeout_ms: 10_000,
        backup: false,
        down: false,
        lines: 1,
    }
}

pub fn demand(random: u64, can_wait: bool) -> Demand {
    Demand { queued: 1, can_wait, random, ..Demand::default() }
}

/// How every class waits where the class does not matter.
pub fn plain(_: QueueClass) -> Terms {
    Terms::default()
}

pub fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start: 7 }
}

pub fn join(zone: &Zone<'_>, pid: u32) -> WorkerIdx {
    zone.worker_join(process(pid), zone.header.generation()).expect("a free worker slot")
}

/// An upstream `llm` with these peers, in the next configuration.
pub fn configure(zone: &Zone<'_>, peers: &[PeerSpec<'_>]) -> UpstreamIdx {
    zone.header.generation_begin();
    let u = zone.upstream_reserve(b"llm").expect("room for an upstream");
    zone.upstream_configure(u, &SETTINGS, peers, NOW).expect("a good configuration");
    u
}

pub fn pool(peers: &[PeerSpec<'_>]) -> (HeapZone, UpstreamIdx) {
    let heap = HeapZone::new(4, 64);
    let u = configure(&heap.zone(), peers);
    (heap, u)
}

pub fn take(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx, random: u64) -> Option<Ticket> {
    match zone.claim(u, w, &demand(random, true), &PARAMS, NOW).claim {
        Claim::Taken(ticket) => Some(ticket),
        _ => None,
    }
}

/// One request that its peer fails.
pub fn fail_once(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx) {
    let ticket = take(zone, u, w, 0).expect("a free slot");
    zone.release(ticket, w, Outcome::Failure, &PARAMS, NOW, 0);
}

/// In-flight requests of the peer called `name`, as the status shows them.
pub fn in_flight(zone: &Zone<'_>, name: &str) -> u32 {
    peer(zone, name).in_flight
}

pub fn peer(zone: &Zone<'_>, name: &str) -> pincer_core::zone::PeerSnapshot {
    let snapshot = zone.snapshot(NOW);
    let peers = snapshot.upstreams.into_iter().flat_map(|upstream| upstream.peers);
    peers.into_iter().find(|peer| peer.name == name).unwrap_or_else(|| panic!("no peer {name}"))
}

pub fn names(zone: &Zone<'_>) -> Vec<String> {
    zone.snapshot(NOW).upstreams.into_iter().flat_map(|upstream| upstream.peers).map(|peer| peer.name).collect()
}
