//! Makes a world smaller while something still holds for it, so that what is left is what matters.
//!
//! Tries one simplification after the other and keeps each that leaves the property; ends when none
//! does. Bound: [`ROUNDS`].

use super::world::*;

const ROUNDS: usize = 20;
const LOAD_MAX: f64 = 0.9;

pub fn shrink(mut world: World, holds: impl Fn(&World) -> bool) -> World {
    assert!(holds(&world), "{world}does not break it");
    for _ in 0..ROUNDS {
        let mut is_smaller = false;
        for change in 0.. {
            let mut candidate = world.clone();
            if !simplify(&mut candidate, change) {
                break;
            }
            // A pool that is overloaded breaks everything.
            let is_bearable = candidate.load() <= world.load().max(LOAD_MAX);
            if candidate != world && is_bearable && holds(&candidate) {
                world = candidate;
                is_smaller = true;
            }
        }
        if !is_smaller {
            break;
        }
    }
    world
}

/// Applies the change number `change`; false if there are no more.
fn simplify(world: &mut World, change: usize) -> bool {
    let count = world.replicas.len();
    let per_replica = 8;
    if change < count * per_replica {
        return simplify_replica(world, change / per_replica, change % per_replica);
    }
    let Traffic { mix, cv, marked, leavers, bursts, .. } = &mut world.traffic;
    match change - count * per_replica {
        0 => world.workers = 1,
        1 => world.next_upstream.clear(),
        2 => world.tries = 1,
        3 => *cv = 0.0,
        4 => *marked = 0.0,
        5 => *leavers = 0.0,
        6 => bursts.clear(),
        7 => *mix = [1.0, 0.0, 0.0],
        8 => *mix = [0.0, 1.0, 0.0],
        18 => world.reload_ns = None,
        19 => world.fail_timeout_ns = None,
        9 if mix[2] > 0.0 => *mix = [0.5, 0.5, 0.0],
        10 => world.span_ns = world.span_ns / 4 * 3,
        11 => world.queue_timeout_ns = None,
        12 => world.replicas.iter_mut().for_each(|replica| replica.weight = 1),
        13 => world.replicas.iter_mut().for_each(|replica| replica.group = 0),
        14 => world.traffic.rest_ns /= 2.0,
        15 => world.traffic.per_s *= 0.7,
        16 => world.replicas.iter_mut().for_each(halve),
        17 if world.replicas.iter().all(|replica| replica.places >= 8) => {
            world.replicas.iter_mut().for_each(|replica| replica.max_conns = 0);
        }
        17 => {}
        9 => {}
        _ => return false,
    }
    true
}

fn halve(replica: &mut Replica) {
    // Where nobody can know of the places, few of them are another world: see `random`.
    let least = if replica.max_conns == 0 { replica.places.min(8) } else { 1 };
    replica.places = (replica.places / 2).max(least);
    replica.max_conns = replica.max_conns.min(replica.places);
}

fn simplify_replica(world: &mut World, p: usize, change: usize) -> bool {
    let is_alone = world.replicas.len() <= 2;
    let replica = &mut world.replicas[p];
    match change {
        0 if !is_alone && world.traffic.bursts.is_empty() => {
            world.replicas.remove(p);
        }
        0 if !is_alone => {
            world.replicas.remove(p);
        }
        1 => {
            replica.spells.pop();
        }
        2 if !replica.spells.is_empty() => {
            replica.spells.remove(0);
        }
        3 => replica.cold = None,
        4 => (replica.joins_ns, replica.leaves_ns) = (0, EVER),
        5 => replica.weight = 1,
        6 => replica.spells.iter_mut().for_each(|spell| spell.whom = Whom::All),
        7 => replica.spells.iter_mut().for_each(|spell| spell.to_ns = EVER),
        _ => {}
    }
    true
}
