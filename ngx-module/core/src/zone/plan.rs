//! The short way of a claim: shares among the peers of the fastest speed, by a grouping that is kept for a while.
//!
//! A worker keeps one [`Plan`] for each upstream, in its own memory. It holds which peers are the fastest and how much each is due; how many
//! requests each has in flight is read at every claim, and the slot is taken by the same protocol as always, so `max_conns`, `down`, weight 0
//! and a record's new life count at once. What the plan may be late for is a change of speed or of weight: by [`FRESH_NS`] while it is used often,
//! by [`STALE_NS`] at most. Falls back to [`Zone::claim`] whenever the answer could be another one.
//!
//! Cost: about 40 instructions a peer of the group, a pick every [`CLAIMS`] claims. Bound: [`PEERS_MAX`] peers.

use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::claim::{Claim, Claimed, Scene, Seat};
use super::{BalanceParams, Ticket, UpstreamIdx, WorkerIdx, Zone};
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
pub struct Plan {
    made: MonoNs,
    claims: u32,
    members: ArrayVec<Member, PEERS_MAX>,
    quotas: u64,
    weights: i64,
}

/// A peer of the group.
#[derive(Clone, Copy, Debug)]
struct Member {
    seat: Seat,
    weight: u32,
    quota: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// A plan that is not made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { made: MonoNs(0), claims: 0, members: ArrayVec::new_const(), quotas: 0, weights: 0 }
    }

    #[inline]
    fn is_good(&self, now: MonoNs) -> bool {
        let age_ns = now.since(self.made);
        age_ns < FRESH_NS || (age_ns < STALE_NS && self.claims < CLAIMS)
    }
}

impl Zone<'_> {
    /// [`Zone::claim`], by the short way where it gives the same.
    pub fn claim_planned(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        plan: &mut Plan,
        demand: &Demand,
        params: &BalanceParams,
        now: MonoNs,
    ) -> Claimed {
        let ordinary = demand.affinity.is_none()
            && demand.tried == 0
            && demand.queued <= 1
            && !demand.random.is_multiple_of(EXPLORE_ONE_IN);
        if ordinary {
            if !plan.is_good(now) {
                self.make_plan(u, plan, params, now);
            }
            if let Some(chosen) = self.choose_by(plan) {
                if let Some(ticket) = self.sit_by(plan, chosen, w, now) {
                    return Claimed { claim: Claim::Taken(ticket), kick: false };
                }
                let claimed = self.claim(u, w, demand, params, now);
                return Claimed { kick: true, ..claimed };
            }
        }
        self.claim(u, w, demand, params, now)
    }

    /// The member that is owed most; `None` when that needs a pick.
    #[inline]
    fn choose_by(&self, plan: &mut Plan) -> Option<usize> {
        plan.claims += 1;
        let high = self.workers_high();
        let mut loads: ArrayVec<u32, PEERS_MAX> = ArrayVec::new();
        let mut in_flight = 0;
        for member in &plan.members {
            let columns = self.peers.get(usize::from(member.seat.at))?.workers.iter().take(high);
            let load = columns.map(|column| column.in_flight.load(SeqCst)).fold(0, u32::wrapping_add);
            in_flight += u64::from(load);
            loads.push(load);
        }
        let is_full = |peer: usize| {
            let slots = plan.members.get(peer).map_or(0, |member| member.seat.slots);
            slots != 0 && loads.get(peer).is_none_or(|&load| load >= slots)
        };
        let entrants = |full: bool| {
            let loads = plan.members.iter().zip(&loads).enumerate();
            loads.filter(move |&(peer, _)| is_full(peer) == full).filter_map(|(peer, (member, &load))| {
                let record = self.peers.get(usize::from(member.seat.at))?;
                let credit = record.credit.load(Relaxed) + i64::from(member.weight);
                Some(Entrant { peer, in_flight: u64::from(load), quota: member.quota, credit })
            })
        };
        // A full peer that is owed a request may be worth waiting for.
        if Entrant::best(entrants(true), plan.quotas, in_flight, true).is_some() {
            return None;
        }
        Entrant::best(entrants(false), plan.quotas, in_flight, true).map(|best| best.peer)
    }

    /// Takes a slot of `chosen`. `None`: it is taken out of service, or full after all, so the plan no longer holds; others may have missed a slot
    /// meanwhile.
    #[inline]
    fn sit_by(&self, plan: &mut Plan, chosen: usize, w: WorkerIdx, now: MonoNs) -> Option<Ticket> {
        let member = plan.members.get(chosen)?;
        let Ok(ticket) = self.sit(&member.seat, w, Why::Fastest, now) else {
            self.header.counters.collisions.fetch_add(1, Relaxed);
            plan.members.clear();
            return None;
        };
        self.settle_plan(plan, chosen);
        Some(ticket)
    }

    /// Smooth weighted round robin's bookkeeping, as [`crate::pick::settle`].
    #[inline]
    fn settle_plan(&self, plan: &Plan, chosen: usize) {
        let bound = 2 * plan.weights;
        for (peer, member) in plan.members.iter().enumerate() {
            let Some(record) = self.peers.get(usize::from(member.seat.at)) else { continue };
            let gain = i64::from(member.weight) - if peer == chosen { plan.weights } else { 0 };
            let credit = record.credit.fetch_add(gain, Relaxed) + gain;
            if credit.abs() > bound {
                record.credit.store(bound * credit.signum(), Relaxed);
            }
        }
    }

    /// Groups the peers anew. Leaves no members when every claim needs a pick of its own.
    #[cold]
    fn make_plan(&self, u: UpstreamIdx, kept: &mut Plan, params: &BalanceParams, now: MonoNs) {
        *kept = Plan { made: now, ..Plan::new() };
        let Some(upstream) = self.upstream(u) else { return };
        let mut scene = Scene::default();
        self.look(upstream, &mut scene, params, now);
        let Some(group) = plan(&scene.views) else { return };
        let members = || scene.views.iter().zip(&scene.seen).enumerate().filter(|(index, _)| group >> index & 1 == 1);
        let unlimited = members().any(|(_, (view, _))| view.slots == 0);
        for (index, (view, &(at, generation))) in members() {
            let seat = Seat { at, generation, index: u8::try_from(index).unwrap_or(u8::MAX), slots: view.slots };
            let quota = u64::from(view.weight) * if unlimited { 1 } else { u64::from(view.slots) };
            kept.quotas += quota;
            kept.weights += i64::from(view.weight);
            kept.members.push(Member { seat, weight: view.weight, quota });
        }
    }
}
