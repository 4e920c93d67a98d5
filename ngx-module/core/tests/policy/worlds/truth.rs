//! What is true of the replicas of a world at a moment, whatever the policy believes, and what has
//! happened in it so far.
//!
//! A replica is *settled* when nothing is wrong with it and the policy had the time that the
//! invariants grant it to find that out. Invariants about healthy peers speak of settled ones.

use super::invariants::{Invariant, Violation};
use super::world::*;
use std::collections::BTreeSet;

/// A start of nginx: after this time a pool that answers is known.
const START_SETTLES_NS: u64 = 5 * S;
/// A replica that joined, after it has given its first good answer.
const JOIN_SETTLES_NS: u64 = 15 * S;
/// A replica that was slow: the time that invariant 3 grants.
pub const SLOW_SETTLES_NS: u64 = 15 * S;
/// A replica that failed, after its first good answer: the time that invariant 3 grants.
pub const EJECTED_SETTLES_NS: u64 = 10 * S;
/// A replica that began cold, after its last slow answer: the time that invariant 5 grants.
pub const COLD_SETTLES_NS: u64 = 10 * S;

/// One attempt at a replica.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub request: usize,
    pub replica: usize,
    pub start: u64,
    /// 0 while it runs.
    pub end: u64,
    /// When its first good token came.
    pub token: Option<u64>,
    pub is_look: bool,
    /// Whether another replica, which answers well, had a free slot when this one was chosen.
    pub had_choice: bool,
    /// The replicas that worked and had a free slot then, this one among them: a bit for each.
    pub free: u32,
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub arrived: u64,
    /// 0 until it has ended.
    pub ended: u64,
    /// What the client got; 499 if it left.
    pub status: u16,
    pub attempts: u32,
    /// The replicas that failed it, a bit for each.
    pub tried: u32,
    pub parked_at: Option<u64>,
}

/// One replica's life.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub in_flight: u32,
    /// Good first tokens in its whole life.
    pub tokens: u32,
    pub known_at: Option<u64>,
    /// Whether a good answer has told its speed. A WebSocket tells none.
    pub has_sample: bool,
    /// Good first tokens since it joined a known pool, or since its breaker closed; `None` = it may
    /// have its full width.
    pub ramp: Option<u32>,
    /// Whether the ramp is that of a breaker that closed.
    pub recovers: bool,
    /// Requests that it has begun, for [`Replica::cold`].
    pub begun: u32,
    pub slow_answers: u32,
    /// When its last slow answer came.
    pub warm_at: Option<u64>,
    /// For each spell, when the first good answer to a request came that began after it.
    pub healed_at: Vec<Option<u64>>,
    /// For each spell, when the last answer comes that it makes slow; 0 = none.
    pub slow_until: Vec<u64>,
}

/// All that happened.
pub struct History {
    pub attempts: Vec<Attempt>,
    pub requests: Vec<Request>,
    pub lives: Vec<Life>,
    pub violations: Vec<Violation>,
    /// Invariants that this world put to the test.
    pub judged: BTreeSet<Invariant>,
}

impl History {
    pub fn new(world: &World, requests: usize) -> Self {
        let life = |replica: &Replica| {
            let spells = replica.spells.len();
            Life { healed_at: vec![None; spells], slow_until: vec![0; spells], ..Life::default() }
        };
        Self {
            attempts: vec![],
            requests: vec![Request::default(); requests],
            lives: world.replicas.iter().map(life).collect(),
            violations: vec![],
            judged: BTreeSet::new(),
        }
    }

    pub fn violate(&mut self, invariant: Invariant, at: u64, what: String) {
        self.violations.push(Violation { invariant, at, what });
    }

    /// A good first token came from replica `p`, to a request that began at `start`.
    pub fn token(&mut self, world: &World, p: usize, start: u64, at: u64, was_slow: bool) {
        let life = &mut self.lives[p];
        life.tokens += 1;
        life.known_at.get_or_insert(at);
        life.ramp = life.ramp.map(|tokens| tokens + 1);
        if was_slow {
            life.slow_answers += 1;
            life.warm_at = Some(at);
        }
        for (spell, healed_at) in world.replicas[p].spells.iter().zip(&mut life.healed_at) {
            if start >= spell.to_ns {
                healed_at.get_or_insert(at);
            }
        }
    }

    /// Replica `p` begins to work on a request, and shows its first token at `token_at`.
    pub fn serve(&mut self, world: &World, p: usize, at: u64, token_at: u64) {
        for (spell, slow_until) in world.replicas[p].spells.iter().zip(&mut self.lives[p].slow_until) {
            if spell.what.meaning() == Meaning::Slow && (spell.from_ns..spell.to_ns).contains(&at) {
                *slow_until = token_at.max(*slow_until);
            }
        }
    }

    /// When the slow spell of `p` is over: a replica is slow for as long as it works on a request
    /// that it began in it, and until then nobody can know better.
    pub fn slow_until(&self, world: &World, p: usize, spell: usize) -> u64 {
        world.replicas[p].spells[spell].to_ns.max(self.lives[p].slow_until[spell])
    }

    /// See the file's header.
    pub fn is_settled(&self, world: &World, p: usize, at: u64) -> bool {
        let (replica, life) = (&world.replicas[p], &self.lives[p]);
        let patience = if replica.joins_ns == 0 { START_SETTLES_NS } else { replica.joins_ns + JOIN_SETTLES_NS };
        replica.is_in(at)
            && at >= patience
            && life.known_at.is_some_and(|known| known <= at)
            && self.is_warm(world, p, at)
            && self.is_well(world, p, at)
    }

    /// Whether it is no longer cold, and time enough has passed since.
    pub fn is_warm(&self, world: &World, p: usize, at: u64) -> bool {
        let Some((answers, _)) = world.replicas[p].cold else { return true };
        let life = &self.lives[p];
        life.slow_answers >= answers && life.warm_at.is_some_and(|warm| warm + COLD_SETTLES_NS <= at)
    }

    /// Whether it was neither cold nor slow between the two moments, and had the time to show it
    /// before them.
    pub fn needed_no_look(&self, world: &World, p: usize, from: u64, to: u64) -> bool {
        let is_over = |(index, spell): (usize, &Spell)| {
            to < spell.from_ns
                || spell.what.meaning() == Meaning::Failure
                || self.slow_until(world, p, index).saturating_add(SLOW_SETTLES_NS) <= from
        };
        let is_warm = world.replicas[p].cold.is_none() || self.is_warm(world, p, from);
        is_warm && self.is_well(world, p, to) && world.replicas[p].spells.iter().enumerate().all(is_over)
    }

    /// Whether no spell affects it, and time enough has passed since the last one. Failures of
    /// marked requests everywhere are not its fault.
    pub fn is_well(&self, world: &World, p: usize, at: u64) -> bool {
        let is_over = |(index, spell): (usize, &Spell)| {
            at < spell.from_ns
                || (spell.whom == Whom::Marked && world.marked_everywhere())
                || match spell.what.meaning() {
                    Meaning::Slow => at >= self.slow_until(world, p, index).saturating_add(SLOW_SETTLES_NS),
                    _ => self.lives[p].healed_at[index].is_some_and(|healed| healed + EJECTED_SETTLES_NS <= at),
                }
        };
        world.replicas[p].spells.iter().enumerate().all(is_over)
    }

    /// Whether it did not fail lately. That it is mute, or slow, is no failure.
    pub fn is_working(&self, world: &World, p: usize, at: u64) -> bool {
        let is_over = |(index, spell): (usize, &Spell)| {
            at < spell.from_ns
                || spell.what.meaning() != Meaning::Failure
                || self.lives[p].healed_at[index].is_some_and(|healed| healed + EJECTED_SETTLES_NS <= at)
        };
        world.replicas[p].spells.iter().enumerate().all(is_over)
    }

    /// Whether nothing was ever wrong with it.
    pub fn is_untroubled(&self, world: &World, p: usize, at: u64) -> bool {
        let replica = &world.replicas[p];
        replica.cold.is_none() && replica.spells.iter().all(|spell| at < spell.from_ns)
    }

    /// Whether it is settled from the one moment to the other.
    pub fn is_settled_through(&self, world: &World, p: usize, from: u64, to: u64) -> bool {
        let is_new = |spell: &Spell| (from..to).contains(&spell.from_ns);
        let replica = &world.replicas[p];
        let counts = |spell: &&Spell| !(spell.whom == Whom::Marked && world.marked_everywhere());
        self.is_settled(world, p, from) && replica.leaves_ns >= to && !replica.spells.iter().filter(counts).any(is_new)
    }

    /// Whether the last answers of `p`, be it 8 or 32, took longer by more than a tie's quarter
    /// than as many of each other replica did in the mean.
    pub fn shows_slower(&self, p: usize) -> bool {
        let mean = |is_one: &dyn Fn(usize) -> bool, last: usize| {
            let shown = self.attempts.iter().rev().filter(|attempt| is_one(attempt.replica));
            let times = shown.filter_map(|attempt| Some(attempt.token? - attempt.start)).take(last);
            let (sum, count) = times.fold((0, 0), |(sum, count), time| (sum + time, count + 1));
            sum as f64 / f64::from(count.max(1))
        };
        let others = self.lives.iter().filter(|life| life.tokens > 0).count();
        [8, 32].into_iter().any(|last| mean(&|q| q == p, last) > 1.25 * mean(&|q| q != p, last * others))
    }

    /// Whether `p` has room, as nginx.conf says.
    pub fn has_room(&self, world: &World, p: usize) -> bool {
        let max_conns = world.replicas[p].max_conns;
        max_conns == 0 || self.lives[p].in_flight < max_conns
    }
}

/// Whether no replica that is there is of a faster group than `p`.
pub fn is_of_fastest(world: &World, p: usize, at: u64) -> bool {
    let factor = |replica: &Replica| world.factors[replica.group];
    let there = world.replicas.iter().filter(|replica| replica.is_in(at));
    there.map(factor).fold(f64::MAX, f64::min) >= factor(&world.replicas[p])
}
