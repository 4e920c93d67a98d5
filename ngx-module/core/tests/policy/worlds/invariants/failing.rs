//! Invariant 2: a replica that fails is not a fast replica.
//!
//! **A peer that fails gets at most 2 % of the requests while others answer well**, whichever way
//! it fails: a 5xx, a gRPC status in the trailers of a 200, a refused connection, no answer at all,
//! an answer that breaks off. Each costs a client an error or a retry. The allowance on top is what
//! it takes to find out, and the trials of a breaker: three failures, and one trial after 1, 2, 4,
//! … 32 s.
//!
//! **A peer whose answers say nothing about its speed** (a redirect, a 404, 401, 429, an answer
//! without a body) **gets no more than its share by weight, +20 %.** They may be right answers, so
//! it is not ejected. But they come at once, so the peer is always the one with the fewest requests
//! in flight; if that counted, it would draw all traffic. Counted are the requests that another
//! peer had room for.

use super::super::truth::{Attempt, History};
use super::super::world::*;
use super::Invariant;

/// See the file's header.
const ALLOWANCE: f64 = 10.0;
/// On top where less than half of the pool would be left without the peer: then it takes proof that
/// it is the peer and not the requests, ten outcomes and what is under way meanwhile.
const PROOF: f64 = 30.0;
/// A peer that hangs shows it by silence: for so long, or for eight services.
const SILENCE_NS: f64 = 1.5 * S as f64;

pub fn judge(world: &World, history: &mut History) {
    if world.marked_everywhere() {
        // Its failures occur elsewhere too, and then half of the pool must not be ejected.
        return;
    }
    let (mut found, mut judged) = (vec![], vec![]);
    for (p, replica) in world.replicas.iter().enumerate() {
        for spell in replica.spells.iter().filter(|spell| spell.whom == Whom::All) {
            let to = spell.to_ns.min(world.span_ns).min(replica.leaves_ns);
            let from = spell.from_ns.max(replica.joins_ns);
            let answers_well = |q: usize| q != p && is_well_through(world, q, from, to);
            if from >= to || !(0..world.replicas.len()).any(answers_well) {
                continue;
            }
            let during = || history.attempts.iter().filter(|attempt| (from..to).contains(&attempt.start));
            let told = |got: usize, all: usize, most: f64| {
                format!(
                    "r{p} gets {got} of {all} from {} to {} s, at most {most:.0}: {:?}",
                    from / S,
                    to / S,
                    spell.what
                )
            };
            match spell.what.meaning() {
                Meaning::Failure => {
                    judged.push(Invariant::Failing);
                    let all = during().count();
                    let got = during().filter(|attempt| attempt.replica == p).count();
                    let mut most = 0.02 * all as f64 + ALLOWANCE;
                    let there = |q: &usize| world.replicas[*q].is_in(from);
                    let well = (0..world.replicas.len()).filter(there).filter(|&q| answers_well(q)).count();
                    if 2 * well < (0..world.replicas.len()).filter(there).count() {
                        most += PROOF;
                    }
                    if spell.what == What::Hang {
                        let silence_ns = SILENCE_NS.max(8.0 * world.service_ns(replica.group));
                        most += share_of(world, p, from, to) * world.traffic.per_s * silence_ns / S as f64;
                    }
                    if got as f64 > most {
                        found.push((Invariant::Failing, to, told(got, all, most)));
                    }
                }
                Meaning::Nothing => {
                    judged.push(Invariant::Attractive);
                    let had_choice = |attempt: &&Attempt| attempt.replica != p || attempt.had_choice;
                    let all = during().filter(had_choice).count();
                    let got = during().filter(had_choice).filter(|attempt| attempt.replica == p).count();
                    let shares =
                        during().filter(had_choice).map(|attempt| share_among(world, p, from, to, attempt.free));
                    let expected: f64 = shares.sum();
                    let most = 1.2 * expected + 3.0 * expected.sqrt() + 5.0;
                    if got as f64 > most {
                        found.push((Invariant::Attractive, to, told(got, all, most)));
                    }
                }
                Meaning::Slow => {}
            }
        }
    }
    history.judged.extend(judged);
    for (invariant, at, what) in found {
        history.violate(invariant, at, what);
    }
}

/// Whether nothing at all is wrong with it in this time.
fn is_well_through(world: &World, p: usize, from: u64, to: u64) -> bool {
    let replica = &world.replicas[p];
    replica.joins_ns <= from
        && replica.leaves_ns >= to
        && replica.cold.is_none()
        && replica.spells.iter().all(|spell| spell.to_ns.saturating_add(20 * S) <= from || spell.from_ns >= to)
}

/// The greatest share that the weights, or weights and slots, give it: among all when it was never
/// known, else among its like.
fn share_of(world: &World, p: usize, from: u64, to: u64) -> f64 {
    share_among(world, p, from, to, u32::MAX)
}

/// [`share_of`] among those that were free.
fn share_among(world: &World, p: usize, from: u64, to: u64, free: u32) -> f64 {
    let is_unknown = world.replicas[p].joins_ns >= from;
    let is_member = |(q, replica): &(usize, &Replica)| {
        free >> q & 1 == 1
            && replica.joins_ns <= from
            && replica.leaves_ns >= to
            && (is_unknown || replica.group == world.replicas[p].group)
    };
    let members = || world.replicas.iter().enumerate().filter(is_member).map(|(_, replica)| replica);
    let part =
        |of: fn(&Replica) -> f64| of(&world.replicas[p]) / members().map(of).sum::<f64>().max(of(&world.replicas[p]));
    let by_weight = part(|replica| f64::from(replica.weight));
    by_weight.max(part(|replica| f64::from(replica.weight) * f64::from(replica.max_conns.max(1))))
}
