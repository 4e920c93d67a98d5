//! The short way of a claim: shares among the peers of the fastest speed, by a grouping that is kept for a while.
//!
//! A worker keeps one [`Plan`] for each upstream, in its own memory. It holds which peers are the fastest and how much each is due; how many
//! requests each has in flight is read at every claim, and the slot is taken by the same protocol as always, so `max_conns`, `down`, weight 0
//! and a record's new life count at once. What the plan may be late for is a change of speed or of weight: by [`FRESH_NS`] while it is used often,
//! by [`STALE_NS`] at most. Falls back to [`Zone::claim`] whenever the answer could be another one.
//!
//! Cost: about 40 instructions a peer of the group, a pick every [`CLAIMS`] claims. Bound: [`PEERS_MAX`] peers.

use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::Relaxed;

use super::claim::{Claim, Claimed, Lost, Scene, Seat};
use super::{BalanceParams, Peer, UpstreamIdx, WorkerIdx, Zone};
use crate::pick::{Demand, EXPLORE_ONE_IN, Entrant, PEERS_MAX, Why, plan};
use crate::time::{MILLISECOND_NS, MonoNs};

/// A plan younger than this is not looked at again, however often it is used.
const FRESH_NS: u64 = 5 * MILLISECOND_NS;
/// A plan older than this is not used: a tenth of the services that are worth waiting for.
const STALE_NS: u64 = 20 * MILLISECOND_NS;
/// Claims after which a plan that is no longer fresh is made anew.
const CLAIMS: u32 = 64;

/// See the file's header. [`Plan::new`] is an empty one, which is made at its first use.
#[derive(Debug)]
pub struct Plan<'z> {
    made: MonoNs,
    claims: u32,
    /// All quotas are the same, so that the least loaded is owed most.
    even: bool,
    members: ArrayVec<Member<'z>, PEERS_MAX>,
    quotas: u64,
    weights: i64,
}

/// A peer of the group.
#[derive(Clone, Copy, Debug)]
struct Member<'z> {
    peer: &'z Peer,
    /// Fewer requests than this fit; all do where slots are unlimited.
    slots: u32,
    weight: u32,
    quota: u64,
    seat: Seat,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan<'_> {
    /// A plan that is not made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { made: MonoNs(0), claims: 0, even: false, members: ArrayVec::new_const(), quotas: 0, weights: 0 }
    }

    #[inline]
    fn is_good(&self, now: MonoNs) -> bool {
        let age_ns = now.since(self.made);
        age_ns < FRESH_NS || (age_ns < STALE_NS && self.claims < CLAIMS)
    }

    /// The member that is owed most; `None` when that needs a pick.
    #[inline]
    fn choose(&self, workers_high: usize) -> Option<usize> {
        if self.even { self.least_loaded(workers_high) } else { self.most_owed(workers_high) }
    }

    /// Of equal quotas the free member with the fewest requests is owed most, whatever the others have; credit decides between equals.
    #[inline]
    fn least_loaded(&self, workers_high: usize) -> Option<usize> {
        let mut best = None;
        let (mut best_load, mut best_credit) = (u32::MAX, i64::MIN);
        for (index, member) in self.members.iter().enumerate() {
            let load = member.peer.in_flight(workers_high);
            if load > best_load || load >= member.slots {
                continue;
            }
            let credit = member.peer.credit.load(Relaxed);
            if load < best_load || credit > best_credit {
                (best, best_load, best_credit) = (Some(index), load, credit);
            }
        }
        best
    }

    fn most_owed(&self, workers_high: usize) -> Option<usize> {
        let mut loads: ArrayVec<u32, PEERS_MAX> = ArrayVec::new();
        loads.extend(self.members.iter().map(|member| member.peer.in_flight(workers_high)));
        let in_flight = loads.iter().map(|&load| u64::from(load)).sum();
        let free = self.members.iter().zip(&loads).enumerate().filter(|(_, (member, load))| **load < member.slots);
        let entrants = free.map(|(peer, (member, &load))| {
            let credit = member.peer.credit.load(Relaxed) + i64::from(member.weight);
            Entrant { peer, in_flight: u64::from(load), quota: member.quota, credit }
        });
        Entrant::best(entrants, self.quotas, in_flight, true).map(|best| best.peer)
    }

    /// Smooth weighted round robin's bookkeeping, as [`crate::pick::settle`].
    #[inline]
    fn settle(&self, chosen: usize) {
        let bound = 2 * self.weights;
        for member in &self.members {
            let gain = i64::from(member.weight);
            if member.peer.credit.fetch_add(gain, Relaxed) + gain > bound {
                member.peer.credit.store(bound, Relaxed);
            }
        }
        let Some(member) = self.members.get(chosen) else { return };
        if member.peer.credit.fetch_sub(self.weights, Relaxed) - self.weights < -bound {
            member.peer.credit.store(-bound, Relaxed);
        }
    }
}

impl<'z> Zone<'z> {
    /// [`Zone::claim`], by the short way where it gives the same.
    pub fn claim_planned(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        plan: &mut Plan<'z>,
        demand: &Demand,
        params: &BalanceParams,
        now: MonoNs,
    ) -> Claimed {
        let ordinary = demand.affinity.is_none()
            && demand.tried == 0
            && demand.queued <= 1
            && !demand.random.is_multiple_of(EXPLORE_ONE_IN);
        if !ordinary {
            return self.claim(u, w, demand, params, now);
        }
        if !plan.is_good(now) {
            self.make_plan(u, plan, params, now);
        }
        plan.claims += 1;
        let Some(chosen) = plan.choose(self.workers_high()) else { return self.claim(u, w, demand, params, now) };
        let Some(member) = plan.members.get(chosen) else { return self.claim(u, w, demand, params, now) };
        match self.sit(member.peer, &member.seat, w, Why::Fastest, now) {
            Ok(ticket) => {
                plan.settle(chosen);
                Claimed { claim: Claim::Taken(ticket), kick: false }
            }
            // Taken out of service, or full after all: the plan no longer holds, and others may have missed a slot meanwhile.
            Err(Lost) => {
                self.header.counters.collisions.fetch_add(1, Relaxed);
                plan.members.clear();
                Claimed { kick: true, ..self.claim(u, w, demand, params, now) }
            }
        }
    }

    /// Groups the peers anew. Leaves no members when every claim needs a pick of its own.
    #[cold]
    fn make_plan(&self, u: UpstreamIdx, kept: &mut Plan<'z>, params: &BalanceParams, now: MonoNs) {
        kept.members.clear();
        (kept.made, kept.claims, kept.even, kept.quotas, kept.weights) = (now, 0, true, 0, 0);
        let Some(upstream) = self.upstream(u) else { return };
        let mut scene = Scene::default();
        self.look(upstream, &mut scene, params, now);
        let Some(group) = plan(&scene.views) else { return };
        let members = || scene.views.iter().zip(&scene.seen).enumerate().filter(|(index, _)| group >> index & 1 == 1);
        let unlimited = members().any(|(_, (view, _))| view.slots == 0);
        for (index, (view, &(at, generation))) in members() {
            let Some(peer) = self.peers.get(usize::from(at)) else { continue };
            let seat = Seat { at, generation, index: u8::try_from(index).unwrap_or(u8::MAX), slots: view.slots };
            let quota = u64::from(view.weight) * if unlimited { 1 } else { u64::from(view.slots) };
            let slots = if view.slots == 0 { u32::MAX } else { view.slots };
            kept.even &= kept.members.first().is_none_or(|first| first.quota == quota && first.slots == slots);
            kept.quotas += quota;
            kept.weights += i64::from(view.weight);
            kept.members.push(Member { peer, slots, weight: view.weight, quota, seat });
        }
    }
}
