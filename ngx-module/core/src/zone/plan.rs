//! The short way of a claim: shares among the peers of the fastest speed, by a grouping that is
//! kept for a while.
//!
//! A worker keeps one [`Plan`] for each upstream, in its own memory. It holds which peers are the
//! fastest and how much each is due; how many requests each has in flight is read at every claim,
//! and the slot is taken by the same protocol as always, so `max_conns`, `down`, weight 0, an open
//! breaker and a record's new life count at once. Of peers without limits an idle one of the
//! fastest group is taken without weighing the groups: what the rest of its group has to do does
//! not keep it waiting. What the plan may be late for is a change of speed or of weight: by
//! [`FRESH_NS`] while it is used often, by [`STALE_NS`] at most. Falls back to [`Zone::claim`]
//! whenever the answer could be another one.
//!
//! Cost: about 40 instructions a peer of the group, a pick every [`CLAIMS`] claims. Bound:
//! [`PEERS_MAX`] peers.

use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::claim::{Claim, Claimed, Lost, Scene, Seat};
use super::peer::PeerWorker;
use super::view::COUNT_MASK;
use super::{BalanceParams, Peer, Ticket, UpstreamIdx, WorkerIdx, Zone};
use crate::pick::{Admission, Demand, EXPLORE_ONE_IN, Entrant, GROUPS_MAX, PEERS_MAX, PeerSet, Why, plan};
use crate::time::{MILLISECOND_NS, MonoNs};

/// A plan younger than this is not looked at again, however often it is used.
const FRESH_NS: u64 = 5 * MILLISECOND_NS;
/// A plan older than this is not used: little against the services that are worth waiting for, and
/// against how fast means move.
const STALE_NS: u64 = 50 * MILLISECOND_NS;
/// Claims after which a plan that is no longer fresh is made anew.
const CLAIMS: u32 = 128;

/// See the file's header. [`Plan::new`] is an empty one, which is made at its first use.
#[derive(Debug)]
pub struct Plan<'z> {
    made: MonoNs,
    claims: u32,
    /// Worker slots that sums cover.
    high: usize,
    /// Index in the upstream of the peer that was last chosen.
    last: u8,
    groups: ArrayVec<Group, GROUPS_MAX>,
    /// Of all groups, one after the other.
    members: ArrayVec<Member<'z>, PEERS_MAX>,
    /// Some peer was due for a look, and there is one to spend.
    due: bool,
    /// The next claim needs a pick for that.
    looks: bool,
    /// Peers that were passed over by the last claim, since they were full.
    full: PeerSet,
}

/// What the short way came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Quick {
    /// A slot is held.
    Taken(Ticket),
    /// Needs [`Zone::claim`].
    Undecided,
    /// Needs it too, and others may have missed a slot for a moment: then kick the owner of the
    /// least head, as after a release.
    Lost,
}

/// Peers of like speed.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Where its members begin and end.
    begin: usize,
    end: usize,
    service_ns: f64,
    /// Mean weight of all peers / weight of the group: what one request more adds to its cost, in
    /// service times.
    step: f64,
    /// All weights and slots are the same, so that the least loaded is owed most, and between
    /// equals it goes round.
    even: bool,
    quotas: u64,
    weights: i64,
    /// The member behind the one that was last chosen, counted within the group.
    next: usize,
}

/// A peer of the group.
#[derive(Clone, Copy, Debug)]
struct Member<'z> {
    peer: &'z Peer,
    /// What each worker has in flight on it.
    columns: &'z [PeerWorker],
    /// Fewer requests than this fit; all do where slots are unlimited.
    slots: u32,
    weight: u32,
    quota: u64,
    seat: Seat,
}

impl Member<'_> {
    /// A number of every worker's column, added up.
    #[inline(always)]
    fn sum<T: Default>(&self, of: impl Fn(&PeerWorker) -> T, add: fn(T, T) -> T) -> T {
        match self.columns {
            // A loop that begins with a test for eight would cost more than one column is worth.
            [column] => of(column),
            columns => columns.iter().map(of).fold(T::default(), add),
        }
    }

    /// Requests in flight.
    #[inline(always)]
    fn load(&self) -> u32 {
        self.sum(|column| column.in_flight.load(SeqCst), u32::wrapping_add)
    }

    /// Requests without their signal.
    #[inline(always)]
    fn pending(&self) -> u64 {
        self.sum(|column| column.pending.load(Relaxed) & COUNT_MASK, u64::wrapping_add)
    }
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'z> Plan<'z> {
    /// A plan that is not made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            made: MonoNs(0),
            claims: 0,
            high: 0,
            last: 0,
            groups: ArrayVec::new_const(),
            members: ArrayVec::new_const(),
            due: false,
            looks: false,
            full: 0,
        }
    }

    /// Peers that the claim which took the last slot passed over, since they had none free. It
    /// looks no further than the first one that is idle.
    #[inline]
    #[must_use]
    pub fn full(&self) -> PeerSet {
        self.full
    }

    /// No claim can use it until it is made anew.
    fn invalidate(&mut self) {
        self.groups.clear();
        self.members.clear();
    }

    #[inline]
    fn is_good(&self, high: usize, now: MonoNs) -> bool {
        let age_ns = now.since(self.made);
        self.high == high && (age_ns < FRESH_NS || (age_ns < STALE_NS && self.claims < CLAIMS))
    }

    /// Whether the one of the fastest group whose turn it is has nothing to do: no other is better
    /// then, whatever the rest of its group has.
    #[inline]
    fn is_next_idle(&self) -> bool {
        let even = self.groups.first().filter(|group| group.even);
        even.and_then(|group| self.members.get(group.next)).is_some_and(|member| member.load() == 0)
    }

    /// The group of least cost: S · (1 + n · mean weight / weight of the group), n its requests
    /// without their signal, as in [`crate::pick`].
    #[inline]
    fn cheapest(&self) -> Option<(usize, &Group, &[Member<'z>])> {
        let mut best = 0;
        if self.groups.len() > 1 && !self.is_next_idle() {
            let mut best_ns = f64::MAX;
            for (index, group) in self.groups.iter().enumerate() {
                if group.service_ns >= best_ns {
                    break;
                }
                let members = self.members.get(group.begin..group.end)?;
                let pending = members.iter().fold(0, |sum, member| u64::wrapping_add(sum, member.pending()));
                let cost_ns = group.service_ns * (1.0 + pending as f64 * group.step);
                if cost_ns < best_ns {
                    (best, best_ns) = (index, cost_ns);
                }
            }
        }
        let group = self.groups.get(best)?;
        Some((best, group, self.members.get(group.begin..group.end)?))
    }
}

impl Group {
    /// The member that is owed most; `None` when that needs a pick.
    #[inline]
    fn choose(&self, members: &[Member<'_>], full: &mut PeerSet) -> Option<usize> {
        if self.even { self.least_loaded(members, full) } else { self.most_owed(members) }
    }

    /// Of equal quotas the free member with the fewest requests is owed most, whatever the others
    /// have. Between equals it is the next one after the last: nginx's round robin for equal
    /// weights, exact in each worker. The first idle one ends the search.
    #[inline]
    fn least_loaded(&self, members: &[Member<'_>], full: &mut PeerSet) -> Option<usize> {
        let mut best = None;
        let mut best_load = u32::MAX;
        let mut index = self.next;
        for _ in members {
            index = if index < members.len() { index } else { 0 };
            let member = members.get(index)?;
            let load = member.load();
            if load >= member.slots {
                *full |= 1 << (member.seat.index & 127);
            } else if load < best_load {
                (best, best_load) = (Some(index), load);
                if load == 0 {
                    break;
                }
            }
            index += 1;
        }
        best
    }

    fn most_owed(&self, members: &[Member<'_>]) -> Option<usize> {
        let mut loads: ArrayVec<u32, PEERS_MAX> = ArrayVec::new();
        loads.extend(members.iter().map(Member::load));
        // Of unequal quotas a full member may be owed a request, and be worth waiting for: that
        // needs a pick.
        if members.iter().zip(&loads).any(|(member, &load)| load >= member.slots) {
            return None;
        }
        let in_flight = loads.iter().map(|&load| u64::from(load)).sum();
        let free = members.iter().zip(&loads).enumerate().filter(|(_, (member, load))| **load < member.slots);
        let entrants = free.map(|(peer, (member, &load))| {
            let credit = member.peer.credit.load(Relaxed) + i64::from(member.weight);
            Entrant { peer, in_flight: u64::from(load), quota: member.quota, credit }
        });
        Entrant::best(entrants, self.quotas, in_flight, true).map(|best| best.peer)
    }

    /// Smooth weighted round robin's bookkeeping, as [`crate::pick::settle`]; what goes round by
    /// itself needs none.
    #[inline]
    fn settle(&self, members: &[Member<'_>], chosen: usize) {
        if self.even {
            return;
        }
        let bound = 2 * self.weights;
        for (index, member) in members.iter().enumerate() {
            let gain = i64::from(member.weight) - if index == chosen { self.weights } else { 0 };
            let credit = member.peer.credit.fetch_add(gain, Relaxed) + gain;
            if credit.abs() > bound {
                member.peer.credit.store(bound * credit.signum(), Relaxed);
            }
        }
    }
}

impl<'z> Zone<'z> {
    /// The short way of [`Zone::claim`], for a request without affinity that has not been tried and
    /// behind which nobody waits. `explores`: its number is a multiple of [`EXPLORE_ONE_IN`].
    #[inline]
    pub fn claim_quick(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        plan: &mut Plan<'z>,
        explores: bool,
        params: &BalanceParams,
        now: MonoNs,
    ) -> Quick {
        let high = self.workers_high();
        if !plan.is_good(high, now) {
            self.make_plan(u, plan, high, params, now);
        }
        plan.claims += 1;
        if plan.due && (explores || core::mem::take(&mut plan.looks)) {
            return Quick::Undecided;
        }
        match self.claim_by(plan, w, now) {
            Some(Ok(ticket)) => Quick::Taken(ticket),
            None => Quick::Undecided,
            // Taken out of service, or full after all: the plan no longer holds.
            Some(Err(Lost)) => {
                self.header.counters.collisions.fetch_add(1, Relaxed);
                plan.invalidate();
                Quick::Lost
            }
        }
    }

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
        if demand.affinity.is_some() || demand.tried != 0 || demand.queued > 1 {
            return self.claim(u, w, demand, params, now);
        }
        match self.claim_quick(u, w, plan, demand.random.is_multiple_of(EXPLORE_ONE_IN), params, now) {
            Quick::Taken(ticket) => Claimed::of(Claim::Taken(ticket), false),
            Quick::Undecided => self.claim(u, w, demand, params, now),
            Quick::Lost => Claimed { kick: true, ..self.claim(u, w, demand, params, now) },
        }
    }

    /// Takes a slot as the plan says; `None` when that needs a pick.
    #[inline]
    fn claim_by(&self, plan: &mut Plan<'z>, w: WorkerIdx, now: MonoNs) -> Option<Result<Ticket, Lost>> {
        let (at, group, members) = plan.cheapest()?;
        let mut full = 0;
        let chosen = group.choose(members, &mut full)?;
        let member = members.get(chosen)?;
        if member.peer.breaker.admission(now) != Admission::Open {
            return Some(Err(Lost));
        }
        let taken = self.sit(member.peer, &member.seat, w, Why::Fastest, now);
        if taken.is_ok() {
            group.settle(members, chosen);
            let next = if chosen + 1 < members.len() { chosen + 1 } else { 0 };
            (plan.last, plan.full) = (member.seat.index, full);
            if let Some(group) = plan.groups.get_mut(at) {
                group.next = next;
            }
        }
        Some(taken)
    }

    /// Groups the peers anew. Leaves no group when every claim needs a pick of its own.
    #[cold]
    fn make_plan(&self, u: UpstreamIdx, kept: &mut Plan<'z>, high: usize, params: &BalanceParams, now: MonoNs) {
        kept.invalidate();
        (kept.made, kept.claims, kept.high) = (now, 0, high);
        let Some(upstream) = self.upstream(u) else { return };
        let mut scene = Scene::default();
        self.look(upstream, &mut scene, params, now);
        let groups = plan(&scene.views, self.may_look_again(upstream, now));
        kept.due = self.may_look(upstream, &scene, now);
        kept.looks = kept.due;
        let all = groups.iter().fold(0, |set, group| set | group.members);
        let weight_of = |set: u128| -> f64 {
            let views = scene.views.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
            views.map(|(_, view)| f64::from(view.weight)).sum()
        };
        let mean_weight = weight_of(all) / f64::from(all.count_ones().max(1));
        for group in &groups {
            let begin = kept.members.len();
            self.add_members(&scene, group.members, high, &mut kept.members);
            let Some(members) = kept.members.get(begin..) else { return kept.invalidate() };
            let like = |member: &Member<'_>| (member.weight, member.slots);
            let first = members.first().map(like);
            kept.groups.push(Group {
                begin,
                end: kept.members.len(),
                service_ns: group.service_ns as f64,
                step: mean_weight / weight_of(group.members).max(1.0),
                even: members.iter().all(|member| Some(like(member)) == first),
                quotas: members.iter().map(|member| member.quota).sum(),
                weights: members.iter().map(|member| i64::from(member.weight)).sum(),
                next: members.iter().position(|member| member.seat.index > kept.last).unwrap_or(0),
            });
        }
    }

    fn add_members(&self, scene: &Scene, set: u128, high: usize, into: &mut ArrayVec<Member<'z>, PEERS_MAX>) {
        let members = scene.views.iter().zip(&scene.seen).enumerate().filter(|(index, _)| set >> index & 1 == 1);
        for (index, (view, &(at, generation))) in members {
            let Some(peer) = self.peers.get(usize::from(at)) else { continue };
            let seat = Seat { at, generation, index: u8::try_from(index).unwrap_or(u8::MAX), slots: view.slots };
            // All of a plan have slots, or none has.
            let quota = u64::from(view.weight) * u64::from(view.slots.max(1));
            let slots = if view.slots == 0 { u32::MAX } else { view.slots };
            let columns = peer.workers.get(..high).unwrap_or_default();
            into.push(Member { peer, columns, slots, weight: view.weight, quota, seat });
        }
    }
}
