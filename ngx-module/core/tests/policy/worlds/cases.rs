//! Worlds by hand: what was measured with real nginx and real replicas, each the smallest that
//! shows it.

use super::invariants::Invariant;
use super::world::*;

pub struct Case {
    pub name: &'static str,
    /// What it is about.
    pub invariant: Invariant,
    /// Whether today's policy breaks it. To be `false` everywhere in the end.
    pub is_broken: bool,
    pub world: World,
}

/// Streams: the first token after 20 ms, then 4 s.
fn streams(per_s: f64) -> Traffic {
    Traffic {
        per_s,
        mix: [0.0, 1.0, 0.0],
        short_ns: 50.0 * MS as f64,
        token_ns: 20.0 * MS as f64,
        rest_ns: 4.0 * S as f64,
        socket_ns: 60.0 * S as f64,
        cv: 0.0,
        marked: 0.0,
        leavers: 0.0,
        bursts: vec![],
    }
}

/// Requests of 50 ms.
fn shorts(per_s: f64) -> Traffic {
    Traffic { mix: [1.0, 0.0, 0.0], ..streams(per_s) }
}

fn replica(max_conns: u32) -> Replica {
    Replica {
        group: 0,
        max_conns,
        places: if max_conns == 0 { 32 } else { max_conns },
        weight: 1,
        joins_ns: 0,
        leaves_ns: EVER,
        cold: None,
        spells: vec![],
    }
}

fn spelled(max_conns: u32, from_ns: u64, to_ns: u64, what: What) -> Replica {
    Replica { spells: vec![Spell { from_ns, to_ns, what, whom: Whom::All }], ..replica(max_conns) }
}

fn world(traffic: Traffic, replicas: Vec<Replica>) -> World {
    World {
        seed: 1,
        span_ns: 60 * S,
        workers: 1,
        queue_timeout_ns: Some(30 * S),
        tries: 1,
        next_upstream: vec![],
        read_timeout_ns: 60 * S,
        fail_timeout_ns: None,
        reload_ns: None,
        factors: vec![1.0],
        replicas,
        traffic,
    }
}

/// Six prompts in a row that no replica can take, now and then, among streams of 4 s.
fn bad_prompts() -> World {
    let burst = |n: u64| Burst { at_ns: n * 10 * S, count: 6, within_ns: 100 * MS, marked: true };
    let spell = Spell { from_ns: 0, to_ns: EVER, what: What::Status(500), whom: Whom::Marked };
    let bad = Replica { spells: vec![spell], ..replica(4) };
    world(Traffic { bursts: (1..6).map(burst).collect(), ..streams(1.3) }, vec![bad.clone(), bad])
}

/// A replica that holds WebSockets when its breaker opens for two seconds: the ramp's limit is
/// below what it holds already.
fn sockets() -> World {
    let traffic =
        Traffic { mix: [0.6, 0.35, 0.05], rest_ns: 0.5 * S as f64, socket_ns: 150.0 * S as f64, ..streams(7.0) };
    let failing = spelled(0, 18 * S, 20 * S, What::Status(503));
    world(traffic, vec![replica(0), replica(0), failing])
}

/// WebSockets of 4 s alone, which give no sample ever.
fn only_sockets(replicas: Vec<Replica>) -> World {
    world(Traffic { mix: [0.0, 0.0, 1.0], socket_ns: 4.0 * S as f64, ..streams(5.0) }, replicas)
}

/// `max_fails=3 fail_timeout=10000s`, three failures, and a reload.
fn long_fail_timeout() -> World {
    let failing = spelled(8, 10 * S, 15 * S, What::Refuse);
    World {
        fail_timeout_ns: Some(10_000 * S),
        reload_ns: Some(20 * S),
        ..world(shorts(10.0), vec![replica(8), failing])
    }
}

pub fn cases() -> Vec<Case> {
    use Invariant::*;
    let case = |name, invariant, is_broken, world| Case { name, invariant, is_broken, world };
    let never_sampled = |what| world(shorts(60.0), vec![replica(8), spelled(8, 0, EVER, what)]);
    let refused = |max_conns, what| only_sockets(vec![replica(max_conns), spelled(max_conns, 0, EVER, what)]);
    let uneven = || vec![replica(30), replica(30), Replica { weight: 3, ..replica(4) }];
    let burst = Burst { at_ns: 20 * S, count: 50, within_ns: 10 * MS, marked: false };
    let mixed = Traffic { mix: [0.97, 0.03, 0.0], bursts: vec![burst], ..streams(40.0) };
    let new = Replica { joins_ns: 20 * S, ..replica(8) };
    vec![
        case("never-sampled: a 404 at once", Attractive, false, never_sampled(What::Status(404))),
        case("never-sampled: an empty 200 at once", Attractive, false, never_sampled(What::Empty)),
        case("never-sampled: a 500 at once", Failing, false, never_sampled(What::Status(500))),
        case("WebSockets: a 404 at once", Attractive, false, refused(0, What::Status(404))),
        case("WebSockets: a 404 at once, with slots", Attractive, false, refused(64, What::Status(404))),
        case("WebSockets: closed right after the 101", Attractive, false, refused(64, What::Empty)),
        case("a gRPC status in the trailers of a 200", Failing, false, never_sampled(What::GrpcStatus(14))),
        case("an answer that breaks off after its first token", Failing, false, never_sampled(What::Cut)),
        case("waits-beside-free-slots: weight 3 with 4 slots of 64", Waits, false, world(mixed, uneven())),
        case(
            "stale-slow: one slow second at the start",
            HealsSlow,
            false,
            world(streams(5.0), vec![replica(100), spelled(100, 0, S, What::Slow(15.0))]),
        ),
        case(
            "stale-slow: the first four answers",
            Stale,
            false,
            world(streams(5.0), vec![replica(100), Replica { cold: Some((4, 15.0)), ..replica(100) }]),
        ),
        case("six-bad-prompts-cost-others-slots", RampTooSlow, false, bad_prompts()),
        case("new-replica-gets-one-stream", RampTooSlow, false, world(streams(1.0), vec![replica(2), new])),
        case("WebSockets keep a recovered replica from its ramp", HealsEjected, false, sockets()),
        case("long-fail_timeout-has-no-way-back", HealsEjected, false, long_fail_timeout()),
    ]
}
