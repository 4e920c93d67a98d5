//! Draws worlds: the same seed is the same world for ever, as long as this file stays as it is.
//!
//! A world has one or two troubles, so that what breaks an invariant can be told from its
//! description.

use super::world::*;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// More arrivals a second would only take longer: where they would come, everything is made slower
/// in proportion.
const PER_S_MAX: f64 = 50.0;
/// With fewer, chance hides what the shares are: in half of such worlds everything is made faster
/// in proportion.
const PER_S_MANY: f64 = 20.0;
/// Everything is learned by then; troubles that are not there from the start begin later.
const WARM_NS: u64 = 15 * S;

pub fn world(seed: u64) -> World {
    let rng = &mut SmallRng::seed_from_u64(seed ^ 0x1d1e_5eed);
    let count = rng.random_range(2..=8);
    let mixed = count > 2 && rng.random_bool(0.35);
    let factors = if mixed { vec![1.0, rng.random_range(4.0_f64..12.0).round()] } else { vec![1.0] };
    let mut world = World {
        seed,
        span_ns: 100 * S,
        workers: *[1, 1, 2, 3].choose(rng).unwrap(),
        queue_timeout_ns: None,
        tries: rng.random_range(1..=3),
        next_upstream: [500, 404, 429, 503].into_iter().filter(|_| rng.random_bool(0.2)).collect(),
        read_timeout_ns: *[10 * S, 60 * S].choose(rng).unwrap(),
        fail_timeout_ns: None,
        reload_ns: None,
        factors,
        replicas: vec![],
        traffic: traffic(rng),
    };
    replicas(&mut world, rng, count, mixed);
    if world.replicas[0].max_conns > 0 && rng.random_bool(0.75) {
        world.queue_timeout_ns = Some(*[10 * S, 30 * S, 60 * S].choose(rng).unwrap());
    }
    for chance in [0.85, 0.3] {
        if rng.random_bool(chance) {
            trouble(&mut world, rng);
        }
    }
    set_rate(&mut world, rng);
    world
}

fn traffic(rng: &mut SmallRng) -> Traffic {
    let mix = match rng.random_range(0..11) {
        0..4 => [1.0, 0.0, 0.0],
        4..7 => {
            let streams = rng.random_range(0.1..0.6);
            [1.0 - streams, streams, 0.0]
        }
        7..9 => [0.0, 1.0, 0.0],
        9 => [0.6, 0.35, 0.05],
        // A pool that stays unknown as a whole.
        _ => [0.0, 0.0, 1.0],
    };
    let socket_s = if mix[2] == 1.0 { log_uniform(rng, 1.0, 30.0) } else { rng.random_range(60.0..180.0) };
    let short_ns = log_uniform(rng, 20.0, 400.0) * MS as f64;
    Traffic {
        per_s: 1.0,
        mix,
        short_ns,
        token_ns: short_ns * log_uniform(rng, 0.2, 1.0),
        rest_ns: log_uniform(rng, 0.5, 6.0) * S as f64,
        socket_ns: socket_s * S as f64,
        cv: *[0.0, 0.3, 0.6].choose(rng).unwrap(),
        marked: 0.0,
        leavers: if rng.random_bool(0.2) { 0.02 } else { 0.0 },
        bursts: vec![],
    }
}

fn replicas(world: &mut World, rng: &mut SmallRng, count: usize, mixed: bool) {
    let fast = if mixed { rng.random_range(1..count) } else { count };
    let limits = rng.random_range(0..10);
    let slots = *[1_u32, 2, 4, 8, 16, 30].choose(rng).unwrap();
    let weighted = rng.random_bool(0.35);
    for index in 0..count {
        let places = match limits {
            0..6 => slots,
            // Nobody can know of places that are not configured: where they differed, or were few,
            // equal shares would be wrong.
            6..9 => slots.max(8),
            _ => *[2, 4, 8, 16, 30].choose(rng).unwrap(),
        };
        world.replicas.push(Replica {
            group: usize::from(index >= fast),
            max_conns: if limits < 6 || limits == 9 { places } else { 0 },
            places,
            weight: if weighted { *[1, 1, 2, 3, 5, 9].choose(rng).unwrap() } else { 1 },
            joins_ns: 0,
            leaves_ns: EVER,
            cold: None,
            spells: vec![],
        });
    }
}

/// Gives the world one of the troubles that real replicas have.
fn trouble(world: &mut World, rng: &mut SmallRng) {
    let count = world.replicas.len();
    let some = rng.random_range(0..count);
    let from_ns = WARM_NS + rng.random_range(0..10) * S;
    let early_ns = if rng.random_bool(0.4) { 0 } else { from_ns };
    match rng.random_range(0..22) {
        0..7 => {
            let to_ns = if rng.random_bool(0.4) { EVER } else { early_ns + rng.random_range(3..25) * S };
            let whom = if rng.random_bool(0.2) { Whom::Streams } else { Whom::All };
            afflict(&mut world.replicas[some], Spell { from_ns: early_ns, to_ns, what: fault(rng), whom });
        }
        7..10 => {
            let to_ns = early_ns + rng.random_range(1..20) * S;
            let what = What::Slow(rng.random_range(4.0_f64..20.0).round());
            afflict(&mut world.replicas[some], Spell { from_ns: early_ns, to_ns, what, whom: Whom::All });
        }
        10..12 => world.replicas[some].cold = Some((4, rng.random_range(5.0_f64..20.0).round())),
        12..14 => join(world, rng, from_ns, some),
        14 => replace_all(world, rng, from_ns),
        15 => {
            for index in 0..count {
                replace(world, rng, from_ns + index as u64 * 4 * S, index);
            }
        }
        16 | 17 => bad_prompts(world, rng, from_ns),
        18 => {
            world.traffic.marked = rng.random_range(0.01..0.2);
            let spell = Spell { from_ns, to_ns: EVER, what: fault(rng), whom: Whom::Marked };
            afflict(&mut world.replicas[some], spell);
        }
        19 => {
            let slots: u32 = world.replicas.iter().map(|replica| replica.places).sum();
            let count = (f64::from(slots) * rng.random_range(0.5..1.3)).ceil() as u32;
            world.traffic.bursts.push(Burst { at_ns: from_ns, count, within_ns: 10 * MS, marked: false });
        }
        _ => {
            let to_ns = from_ns + rng.random_range(1..10) * S;
            let what = *[What::Refuse, What::Status(500), What::Status(503)].choose(rng).unwrap();
            afflict(&mut world.replicas[some], Spell { from_ns, to_ns, what, whom: Whom::All });
            world.fail_timeout_ns = Some(*[10 * S, 10_000 * S].choose(rng).unwrap());
            world.reload_ns = Some(to_ns + rng.random_range(1..15) * S);
        }
    }
}

/// Gives the replica a spell if it has none: of two at once only one would be seen.
fn afflict(replica: &mut Replica, spell: Spell) {
    if replica.spells.is_empty() {
        replica.spells.push(spell);
    }
}

/// Requests that every replica fails: now and then, or some at once.
fn bad_prompts(world: &mut World, rng: &mut SmallRng, from_ns: u64) {
    if rng.random_bool(0.4) {
        world.traffic.marked = rng.random_range(0.01..0.05);
    } else {
        let count = rng.random_range(4..16);
        world.traffic.bursts.push(Burst { at_ns: from_ns + S, count, within_ns: 200 * MS, marked: true });
    }
    let spell = Spell { from_ns, to_ns: EVER, what: What::Status(500), whom: Whom::Marked };
    world.replicas.iter_mut().for_each(|replica| replica.spells.push(spell));
}

fn fault(rng: &mut SmallRng) -> What {
    match rng.random_range(0..13) {
        0 => What::Status(404),
        1 => What::Status(401),
        2 => What::Status(429),
        3 => What::Status(302),
        4 => What::Status(204),
        5 => What::Empty,
        6 => What::Status(500),
        7 => What::Status(503),
        8 | 9 => What::GrpcStatus(14),
        10 => What::Refuse,
        11 => What::Hang,
        _ => What::Cut,
    }
}

/// A replica like `model` joins, cold in half of the cases.
fn join(world: &mut World, rng: &mut SmallRng, at: u64, model: usize) {
    let cold = rng.random_bool(0.5).then(|| (4, rng.random_range(5.0_f64..20.0).round()));
    let new = Replica { joins_ns: at, leaves_ns: EVER, cold, spells: vec![], ..world.replicas[model].clone() };
    world.replicas.push(new);
}

fn replace(world: &mut World, rng: &mut SmallRng, at: u64, index: usize) {
    join(world, rng, at, index);
    world.replicas[index].leaves_ns = at;
}

fn replace_all(world: &mut World, rng: &mut SmallRng, at: u64) {
    for index in 0..world.replicas.len() {
        if world.replicas[index].is_in(at) {
            replace(world, rng, at, index);
        }
    }
}

/// Sets the rate to a load of the replicas that are there and well at the start, and makes
/// everything slower or faster where that would be too many requests or too few.
fn set_rate(world: &mut World, rng: &mut SmallRng) {
    let load = *[0.05, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9].choose(rng).unwrap();
    let is_well = |replica: &&Replica| {
        replica.joins_ns == 0 && replica.spells.iter().all(|spell| spell.whom == Whom::Marked || spell.from_ns > 0)
    };
    let capacity: f64 = world.replicas.iter().filter(is_well).map(|replica| world.capacity(replica)).sum();
    let per_s = load * capacity.max(world.capacity(&world.replicas[0]));
    let slower = match per_s {
        ..PER_S_MANY if rng.random_bool(0.5) => per_s / rng.random_range(PER_S_MANY..PER_S_MAX),
        _ => (per_s / PER_S_MAX).max(1.0),
    };
    let traffic = &mut world.traffic;
    // A token in less than 5 ms is no model's.
    let slower = slower.max(5.0 * MS as f64 / traffic.token_ns);
    traffic.per_s = per_s / slower;
    for time in [&mut traffic.short_ns, &mut traffic.token_ns, &mut traffic.rest_ns, &mut traffic.socket_ns] {
        *time *= slower;
    }
}

fn log_uniform(rng: &mut SmallRng, from: f64, to: f64) -> f64 {
    rng.random_range(from.ln()..to.ln()).exp()
}

/// One request to come.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: u64,
    pub kind: Kind,
    pub work: f64,
    pub marked: bool,
    /// The client leaves so long after it came.
    pub leaves_after: Option<u64>,
}

/// The world's requests, by time.
pub fn arrivals(world: &World) -> Vec<Arrival> {
    let rng = &mut SmallRng::seed_from_u64(world.seed ^ 0xa221_7a15);
    let traffic = &world.traffic;
    let mut arrivals = vec![];
    let mut at = 0.0;
    loop {
        at += -(1.0 - rng.random::<f64>()).ln() / traffic.per_s * S as f64;
        if at >= world.span_ns as f64 {
            break;
        }
        let kind = match rng.random::<f64>() {
            x if x < traffic.mix[0] => Kind::Short,
            x if x < traffic.mix[0] + traffic.mix[1] => Kind::Stream,
            _ => Kind::Socket,
        };
        let marked = rng.random::<f64>() < traffic.marked;
        arrivals.push(arrival(traffic, rng, at as u64, kind, marked));
    }
    let kind = match traffic.mix {
        [_, streams, _] if streams > 0.0 => Kind::Stream,
        [shorts, _, _] if shorts > 0.0 => Kind::Short,
        _ => Kind::Socket,
    };
    for burst in &traffic.bursts {
        for _ in 0..burst.count {
            let at = burst.at_ns + rng.random_range(0..burst.within_ns);
            arrivals.push(arrival(traffic, rng, at, kind, burst.marked));
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

fn arrival(traffic: &Traffic, rng: &mut SmallRng, at: u64, kind: Kind, marked: bool) -> Arrival {
    let work = lognormal(rng, traffic.cv);
    let patience = rng.random_range(0.0..2.0) * (traffic.short_ns + traffic.mix[1] * traffic.rest_ns);
    let leaves_after = (rng.random::<f64>() < traffic.leavers).then_some(patience as u64);
    Arrival { at, kind, work, marked, leaves_after }
}

fn lognormal(rng: &mut SmallRng, cv: f64) -> f64 {
    let variance = (1.0 + cv * cv).ln();
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    (normal * variance.sqrt() - variance / 2.0).exp()
}
