//! Invariants 1 and 6: what must hold at every moment.
//!
//! **1. No request waits beside a free slot of a like peer for longer than the greater of 50 ms and
//! a tenth of that peer's service time.** The wait rule lets a request wait for a *faster* peer.
//! Beside a free peer of like speed there is nothing to wait for but an evener share, and a slot of
//! a stream may be held for minutes. The bound leaves room for that evening-out and for the way of
//! a wake-up. Like is a peer whose answers show it: where chance made the last ones of a peer as
//! slow as those of a slower kind, the wait rule cannot tell it from one. A peer that is ejected
//! for failures that others have too may be out of the pool, but half of the pool may not.
//!
//! **6. A new peer beside known ones has one request in flight until its first success, which is
//! the first token; each further one doubles that.** A cold replica that is handed its full share
//! fails again; but the end of a stream tells nothing that its first token did not, and comes
//! minutes later. A pool that is new as a whole starts at full width: everybody would wait
//! otherwise, for no peer is better; so does one in which nobody has a sample, as of WebSockets
//! alone. A peer that never gave a good answer while others did is
//! unknown, and unknown peers are treated as new ones.

use super::super::module::{Module, Shown};
use super::super::truth::{History, is_of_fastest};
use super::super::world::*;
use super::Invariant;
use std::collections::VecDeque;

/// Invariant 1's bound, at least.
const WAIT_NS: u64 = 50 * MS;
/// A zone that has just been started is a pool that is new as a whole: what comes before the first
/// answers tells nothing.
const START_NS: u64 = 10 * S;
/// A ramp is over at so many requests in flight: `slow_start::SANE`.
const RAMP_MAX: u32 = 256;

pub struct Watch {
    /// Requests in the queue, oldest first, of all workers.
    waiting: VecDeque<usize>,
    /// Since when each replica has had room within the limit that it is entitled to.
    idle_since: Vec<Option<u64>>,
    /// A replica that was excused is not looked at again before this.
    next_look: Vec<u64>,
}

impl Watch {
    pub fn new(world: &World) -> Self {
        let count = world.replicas.len();
        Self { waiting: VecDeque::new(), idle_since: vec![None; count], next_look: vec![0; count] }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn park(&mut self, r: usize) {
        self.waiting.push_back(r);
    }

    pub fn unpark(&mut self, r: usize) {
        self.waiting.retain(|&other| other != r);
    }

    /// Replicas that join at this moment begin a ramp, unless the whole pool is new.
    pub fn joined(&mut self, world: &World, history: &mut History, now: u64) {
        let is_new_pool = world.is_whole_pool_new(now);
        for (replica, life) in world.replicas.iter().zip(&mut history.lives) {
            if replica.joins_ns == now && !is_new_pool {
                life.ramp = Some(0);
            }
        }
    }

    /// A breaker that is seen open begins a ramp when it closes.
    pub fn sample(&mut self, world: &World, history: &mut History, shown: &[Shown], now: u64) {
        for (p, shown) in shown.iter().enumerate().filter(|(_, shown)| shown.is_there) {
            let life = &mut history.lives[p];
            let (in_flight, most) = (life.in_flight, world.replicas[p].max_conns);
            if !shown.is_closed {
                (life.ramp, life.recovers) = (Some(0), true);
            }
            if in_flight != shown.in_flight || (most > 0 && in_flight > most) {
                let what = format!("r{p} has {in_flight} in flight of {most}, the zone counts {}", shown.in_flight);
                history.violate(Invariant::Leaks, now, what);
            }
        }
    }

    /// Requests that `p` may have in flight beside a request that waits; `None` = that is not
    /// judged now.
    fn entitled(&self, world: &World, history: &History, p: usize, now: u64) -> Option<u32> {
        let (replica, life) = (&world.replicas[p], &history.lives[p]);
        if !replica.is_in(now) || !is_of_fastest(world, p, now) {
            return None;
        }
        let most = if replica.max_conns == 0 { RAMP_MAX } else { replica.max_conns };
        let ramped = |tokens: u32| if tokens < 8 { most.min(1 << tokens) } else { most };
        if history.is_settled(world, p, now) {
            return Some(life.ramp.map_or(most, ramped));
        }
        if !history.is_untroubled(world, p, now) || life.recovers {
            return None;
        }
        let is_new_pool = world.is_whole_pool_new(replica.joins_ns) && now < replica.joins_ns + START_NS;
        life.ramp.map(ramped).or(is_new_pool.then_some(most))
    }

    /// After an event: who has room now.
    pub fn note(&mut self, world: &World, history: &History, now: u64) {
        if self.waiting.is_empty() {
            // Nobody waits beside anything; the next one to wait begins anew.
            self.idle_since.fill(None);
            return;
        }
        for p in 0..self.idle_since.len() {
            let entitled = self.entitled(world, history, p, now);
            let is_idle = entitled.is_some_and(|most| history.lives[p].in_flight < most);
            match (is_idle, self.idle_since[p]) {
                (true, None) => self.idle_since[p] = Some(now),
                (false, Some(_)) => self.idle_since[p] = None,
                _ => {}
            }
        }
    }

    /// Before an event: whether anybody has waited for too long beside room, up to `now`.
    pub fn look(&mut self, world: &World, history: &mut History, module: &Module<'_>, now: u64) {
        let Some(&oldest) = self.waiting.front() else { return };
        let request = &history.requests[oldest];
        let (tried, Some(parked_at)) = (request.tried, request.parked_at) else { return };
        for p in 0..self.idle_since.len() {
            let Some(idle_since) = self.idle_since[p].filter(|_| tried >> p & 1 == 0) else { continue };
            let waited_ns = now.saturating_sub(parked_at.max(idle_since));
            history.judged.insert(if history.lives[p].ramp.is_some() {
                Invariant::RampTooSlow
            } else {
                Invariant::Waits
            });
            let bound_ns = WAIT_NS.max(world.service_ns(world.replicas[p].group) as u64 / 10);
            if waited_ns <= bound_ns || now < self.next_look[p] {
                continue;
            }
            self.next_look[p] = now + WAIT_NS;
            let Some(most) = self.entitled(world, history, p, now) else { continue };
            let shown = module.shown(world.replicas.len(), now);
            if is_excused(&shown, p) || history.shows_slower(p) {
                continue;
            }
            let is_ramp = shown[p].slots != 0 && shown[p].slots < most;
            let invariant = if is_ramp { Invariant::RampTooSlow } else { Invariant::Waits };
            let what = format!(
                "{} wait, the oldest for {} ms beside r{p}, which has {} of {most} in flight (max_conns {}, slots {}); bound {} ms; all: {}",
                self.waiting.len(),
                waited_ns / MS,
                history.lives[p].in_flight,
                shown[p].max_conns,
                shown[p].slots,
                bound_ns / MS,
                told(&shown)
            );
            history.violate(invariant, now, what);
        }
    }

    /// A request found no peer and no place: that is waiting for ever beside whatever has room.
    pub fn refused(&self, world: &World, history: &mut History, module: &Module<'_>, r: usize, now: u64) {
        let tried = history.requests[r].tried;
        let is_free = |p: &usize| {
            tried >> p & 1 == 0
                && self.entitled(world, history, *p, now).is_some_and(|most| history.lives[*p].in_flight < most)
        };
        let Some(p) = (0..history.lives.len()).find(is_free) else { return };
        let shown = module.shown(world.replicas.len(), now);
        if !is_excused(&shown, p) {
            let what = format!("a request is refused beside r{p}, which has room; all: {}", told(&shown));
            history.violate(Invariant::Waits, now, what);
        }
    }

    /// `p` is about to get a request: whether it is young and has as many as it may.
    pub fn bound(&self, world: &World, history: &mut History, p: usize, now: u64) {
        let life = &history.lives[p];
        let is_unknown = life.tokens == 0 && now >= START_NS && !life.recovers;
        let is_new_pool =
            world.is_whole_pool_new(world.replicas[p].joins_ns) && now < world.replicas[p].joins_ns + START_NS;
        if !(life.ramp.is_some() && !life.recovers || is_unknown) || is_new_pool || life.tokens >= 8 {
            return;
        }
        let is_known = |q: usize| {
            q != p && history.lives[q].has_sample && history.is_settled(world, q, now) && history.has_room(world, q)
        };
        let (in_flight, tokens) = (life.in_flight, life.tokens);
        let has_choice = (0..history.lives.len()).any(is_known);
        history.judged.insert(Invariant::RampTooFast);
        if in_flight + 1 > 1 << tokens && has_choice {
            let what = format!("r{p} gets its {}. request at once, after {} good first tokens", in_flight + 1, tokens);
            history.violate(Invariant::RampTooFast, now, what);
        }
    }
}

/// Whether `p` is ejected while at least half of the pool is not.
fn is_excused(shown: &[Shown], p: usize) -> bool {
    let there = || shown.iter().filter(|shown| shown.is_there);
    !shown[p].is_closed && there().filter(|shown| !shown.is_closed).count() * 2 <= there().count()
}

fn told(shown: &[Shown]) -> String {
    let one = |(p, shown): (usize, &Shown)| {
        let breaker = if shown.is_closed { "" } else { "!" };
        format!("r{p}{breaker} {}/{} {} ms", shown.in_flight, shown.slots, shown.service_ns / MS)
    };
    let there = shown.iter().enumerate().filter(|(_, shown)| shown.is_there);
    there.map(one).collect::<Vec<_>>().join(", ")
}
