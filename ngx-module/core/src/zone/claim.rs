//! Takes a slot of a peer for a request, and gives it back.
//!
//! A claim looks at every peer once, lets [`pick`] choose, and counts itself into its own worker's
//! column. Only then it reads the peer's `live` word again and sums the columns: all of these are
//! sequentially consistent, so of two claims for the last slot at least the later one sees both and
//! takes itself out again. Grants therefore never exceed the slots; a claim that takes itself out
//! may have hidden a free slot from others for a moment, hence `kick`. A stored total could not
//! survive a death between two stores: there is none. Takes no lock, allocates nothing, reads no
//! clock. Cost: peers × workers loads, plus one pick per attempt. Bound: [`ATTEMPTS`] picks.

use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::changes::{Change, Changes, Switch};
use super::peer::Peer;
use super::ticket::{BalanceParams, Early, Outcome, Signal, Ticket};
use super::view::{HOLE, pending_word};
use super::{PeerIdx, Upstream, UpstreamIdx, WorkerIdx, Zone};
use crate::looks::Kind;
use crate::pick::{
    Admission, Decision, Demand, PEERS_MAX, PeerSet, PeerView, STALE_NS, Why, look_again_ns, pick, settle,
};
use crate::time::MonoNs;

/// Picks of one claim: the first, and one more for every slot lost to another worker in between.
const ATTEMPTS: usize = 16;

/// What a claim came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// A slot is held.
    Taken(Ticket),
    /// All eligible peers are full, or a better one is worth waiting for.
    Wait,
    /// All eligible peers are full and the request cannot wait.
    Full,
    /// No peer is eligible.
    NoPeer,
}

/// A claim's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Claimed {
    /// What it came to.
    pub claim: Claim,
    /// Whether the attempt hid a free slot from others for a moment: then kick the owner of the
    /// least head, as after a release.
    pub kick: bool,
    /// Of one that waits: when it is to be looked at again though nothing happens
    /// ([`look_again_ns`]).
    pub look_again_ns: Option<u64>,
    /// Of one that is taken: the peers that had no free slot when it was picked.
    pub full: PeerSet,
}

impl Claimed {
    /// A claim that asks for nothing besides.
    pub(super) const fn of(claim: Claim, kick: bool) -> Self {
        Self { claim, kick, look_again_ns: None, full: 0 }
    }
}

/// Peers as the pick sees them, and what their records said at that moment.
#[derive(Default)]
pub(super) struct Scene {
    pub views: ArrayVec<PeerView, PEERS_MAX>,
    pub seen: ArrayVec<(u16, u32), PEERS_MAX>,
}

impl Scene {
    /// The peers that take requests and have no free slot.
    fn full(&self) -> PeerSet {
        let is_full = |view: &PeerView| {
            view.admission == Admission::Open && view.slots != 0 && view.in_flight >= view.slots && view.weight != 0
        };
        let full = self.views.iter().enumerate().filter(|(_, view)| is_full(view));
        full.fold(0, |set: PeerSet, (index, _)| set | 1 << index)
    }

    /// Counts a peer that was lost too often as full, for the rest of this claim.
    fn give_up(&mut self, index: usize) {
        let Some(view) = self.views.get_mut(index) else { return };
        if view.slots == 0 {
            view.admission = Admission::Shut;
        }
        view.in_flight = view.slots.max(view.max_conns);
    }
}

/// A slot was not to be had after all.
pub(super) struct Lost;

/// A peer's record as it was seen, and how many requests it may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub at: u16,
    pub generation: u32,
    pub index: u8,
    /// 0 = unlimited.
    pub slots: u32,
}

impl Zone<'_> {
    /// Takes a slot of the best peer of `u` for worker `w`, if the rule finds one worth taking.
    /// `now` is monotonic.
    ///
    /// `NoPeer` also for an index that is not the zone's. Counts the pick, and begins the time
    /// until the signal.
    pub fn claim(&self, u: UpstreamIdx, w: WorkerIdx, demand: &Demand, params: &BalanceParams, now: MonoNs) -> Claimed {
        let Some(upstream) = self.upstream(u) else { return Claimed::of(Claim::NoPeer, false) };
        let mut scene = Scene { views: ArrayVec::new(), seen: ArrayVec::new() };
        self.look(upstream, &mut scene, params, now);
        let may_look = self.may_look(upstream, &scene, now);
        let mut demand = Demand { may_look, may_look_again: true, ..*demand };
        let mut kick = false;
        for attempt in 0..ATTEMPTS {
            let (index, ties, why) = match pick(&scene.views, &demand, params.theta) {
                Decision::Take { peer, ties, why } => (peer, ties, why),
                Decision::Wait => {
                    let look_again_ns = look_again_ns(&scene.views, &demand);
                    return Claimed { look_again_ns, ..Claimed::of(Claim::Wait, kick) };
                }
                Decision::Full => return self.refused(&upstream.counters.full, Claim::Full, kick),
                Decision::NoPeer => return self.refused(&upstream.counters.no_peer, Claim::NoPeer, kick),
            };
            if why == Why::Explore && !self.spend_look(upstream, &scene, index, demand.may_look, now) {
                (demand.may_look, demand.may_look_again) = (false, false);
                continue;
            }
            if let Ok(ticket) = self.take(&scene, index, w, why, demand.waits, now) {
                if ties != 0 {
                    self.settle_ties(&scene, ties, index);
                }
                return Claimed { full: scene.full(), ..Claimed::of(Claim::Taken(ticket), kick) };
            }
            kick = true;
            self.header.counters.collisions.fetch_add(1, Relaxed);
            self.look_again(upstream, &mut scene, index, params, now);
            if attempt >= ATTEMPTS / 2 {
                scene.give_up(index);
            }
        }
        if demand.can_wait {
            return Claimed::of(Claim::Wait, kick);
        }
        self.refused(&upstream.counters.full, Claim::Full, kick)
    }

    /// Whether a peer is due for a look, and the upstream has one to spend.
    #[inline]
    pub(super) fn may_look(&self, upstream: &Upstream, scene: &Scene, now: MonoNs) -> bool {
        scene.views.iter().any(|view| view.silent_ns >= STALE_NS)
            && upstream.looks.may(Kind::Due, self.picked(upstream), now)
    }

    /// Whether the upstream has a look to spend at a peer that has news.
    pub(super) fn may_look_again(&self, upstream: &Upstream, now: MonoNs) -> bool {
        upstream.looks.may(Kind::Again, self.picked(upstream), now)
    }

    /// Takes what the look at the peer `index` costs; `false` if it may not be spent.
    fn spend_look(&self, upstream: &Upstream, scene: &Scene, index: usize, may_look: bool, now: MonoNs) -> bool {
        let is_due = may_look && scene.views.get(index).is_some_and(|view| view.silent_ns >= STALE_NS);
        let kind = if is_due { Kind::Due } else { Kind::Again };
        upstream.looks.take(kind, self.picked(upstream), now)
    }

    /// Requests that were given to the peers of `upstream` so far.
    fn picked(&self, upstream: &Upstream) -> u64 {
        let peers = (0..upstream.count()).filter_map(|index| self.peer(upstream.peer_at(index)?));
        peers.map(Peer::picked).fold(0, u64::wrapping_add)
    }

    /// Whether some eligible peer of `u` has a free slot now, so that a kick may lead to a claim.
    pub fn any_free(&self, u: UpstreamIdx, params: &BalanceParams, now: MonoNs) -> bool {
        let Some(upstream) = self.upstream(u) else { return false };
        let high = self.workers_high();
        let has_slot = |view: &PeerView| view.slots == 0 || view.in_flight < view.slots;
        let free = |view: PeerView| view.admission != Admission::Shut && has_slot(&view);
        let entries = (0..upstream.count()).filter_map(|index| self.peer(upstream.peer_at(index)?));
        entries.into_iter().any(|peer| free(peer.view(peer.live(), high, params, now)))
    }

    /// The first byte of a good response is here, `first_byte_ns` after the claim: it is learned
    /// from at once, since a stream may last for minutes. Ends a half-open breaker's trial too, and
    /// returns what that changed. Only its release may follow with another first byte, which is not
    /// counted again.
    pub fn first_byte_seen(
        &self,
        ticket: &mut Ticket,
        w: WorkerIdx,
        first_byte_ns: u64,
        params: &BalanceParams,
        now: MonoNs,
    ) -> Option<Change> {
        if params.signal == Signal::FirstByte {
            self.signal_seen(ticket, w);
        }
        let peer = self.peer(ticket.peer).filter(|_| ticket.early == Early::Nothing)?;
        let renewed = peer.learn_first_byte(ticket, first_byte_ns, params, now);
        ticket.early = if renewed { Early::Renewed } else { Early::Sampled };
        let due = peer.learn_early(core::mem::take(&mut ticket.trial), params, now)?;
        ticket.closed = true;
        peer.note(ticket.peer, Switch::Closed(due), now)
    }

    /// The connection was upgraded (a WebSocket's 101): a success, which ends a trial and the wait
    /// for the signal. It gives no sample, now or later: what is said on it, and when, is up to
    /// both sides.
    pub fn upgraded(&self, ticket: &mut Ticket, w: WorkerIdx, params: &BalanceParams, now: MonoNs) -> Option<Change> {
        self.signal_seen(ticket, w);
        let peer = self.peer(ticket.peer).filter(|_| ticket.early == Early::Nothing)?;
        ticket.early = Early::Sampled;
        let due = peer.learn_early(core::mem::take(&mut ticket.trial), params, now)?;
        ticket.closed = true;
        peer.note(ticket.peer, Switch::Closed(due), now)
    }

    /// The peer has shown the signal: its age no longer counts as slowness. Nothing is recorded
    /// before the release.
    pub fn signal_seen(&self, ticket: &mut Ticket, w: WorkerIdx) {
        if !core::mem::take(&mut ticket.pending) {
            return;
        }
        if let Some(worker) = self.peer(ticket.peer).and_then(|peer| peer.workers.get(usize::from(w.0))) {
            // The only writer of this word is this worker: no read-modify-write needed.
            let word = worker.pending.load(Relaxed);
            worker.pending.store(word.wrapping_sub(pending_word(ticket.start)), Relaxed);
        }
    }

    /// Gives the slot back and learns from the outcome. Afterwards kick the owner of the least
    /// head, if any.
    ///
    /// `random` feeds the breaker's jitter. A ticket of another worker or zone is counted as
    /// unbalanced and changes no count.
    pub fn release(
        &self,
        ticket: Ticket,
        w: WorkerIdx,
        outcome: Outcome,
        params: &BalanceParams,
        now: MonoNs,
        random: u64,
    ) {
        let _ = self.release_known(ticket, w, outcome, None, params, now, random);
    }

    /// The rest of a release: all but what the breaker has to hear of a failure.
    pub(super) fn settle(
        &self,
        mut ticket: Ticket,
        w: WorkerIdx,
        outcome: Outcome,
        params: &BalanceParams,
        now: MonoNs,
        changes: &mut Changes,
    ) {
        self.signal_seen(&mut ticket, w);
        let Some(peer) = self.peer(ticket.peer) else { return };
        if let Some(due) = peer.learn(&ticket, outcome, params, now) {
            changes.extend(peer.note(ticket.peer, Switch::Closed(due), now));
        }
        if matches!(outcome, Outcome::Answered | Outcome::Declined) {
            self.mute_response(peer, now);
        }
        let Some(worker) = peer.workers.get(usize::from(w.0)) else { return };
        // Last: from here on the record may be given to another peer.
        if worker.in_flight.load(Relaxed) > 0 {
            worker.in_flight.fetch_sub(1, SeqCst);
        } else {
            self.header.counters.unbalanced.fetch_add(1, Relaxed);
        }
    }

    /// The ticket's connection was kept, and closed or reset before any byte: whether that is
    /// excused, as a connection that the peer had closed while it was idle. Of two in a row without
    /// a response of the peer in between, the second is not.
    pub fn excuse_stale(&self, ticket: &Ticket) -> bool {
        ticket.why == Why::NoSlot || self.peer(ticket.peer).is_some_and(|peer| peer.stale.swap(1, Relaxed) == 0)
    }

    fn refused(&self, counter: &core::sync::atomic::AtomicU64, claim: Claim, kick: bool) -> Claimed {
        counter.fetch_add(1, Relaxed);
        Claimed::of(claim, kick)
    }

    /// Fills `scene` in place: it is some kilobytes, and a copy would cost more than the look.
    #[inline]
    pub(super) fn look(&self, upstream: &Upstream, scene: &mut Scene, params: &BalanceParams, now: MonoNs) {
        let high = self.workers_high();
        for entry in upstream.peer_at.iter().take(upstream.count()) {
            let at = entry.load(SeqCst).wrapping_sub(1);
            let Some(peer) = self.peers.get(usize::from(at)) else {
                scene.views.push(HOLE);
                scene.seen.push((u16::MAX, 0));
                continue;
            };
            let live = peer.live();
            scene.views.push(peer.view(live, high, params, now));
            scene.seen.push((at, live.generation()));
        }
    }

    #[cold]
    fn look_again(&self, upstream: &Upstream, scene: &mut Scene, index: usize, params: &BalanceParams, now: MonoNs) {
        let Some((at, peer)) = upstream.peer_at(index).and_then(|at| Some((at, self.peer(at)?))) else { return };
        let live = peer.live();
        if let (Some(view), Some(seen)) = (scene.views.get_mut(index), scene.seen.get_mut(index)) {
            *view = peer.view(live, self.workers_high(), params, now);
            *seen = (at.0, live.generation());
        }
    }

    /// Counts one request in, and out again if that was one too many or the record changed since it
    /// was looked at.
    fn take(
        &self,
        scene: &Scene,
        index: usize,
        w: WorkerIdx,
        why: Why,
        waits: bool,
        now: MonoNs,
    ) -> Result<Ticket, Lost> {
        let &(at, generation) = scene.seen.get(index).ok_or(Lost)?;
        let view = scene.views.get(index).ok_or(Lost)?;
        // A pick may let go of a limit that slow start alone set, but never of `max_conns`. An
        // explorer goes alone, whoever else finds the peer idle.
        let limit = |view: &PeerView| match (why, view.in_flight < view.slots) {
            (Why::Explore | Why::Unknown, _) => view.in_flight + 1,
            (_, true) => view.slots,
            (_, false) => view.max_conns,
        };
        let seat = Seat { at, generation, index: u8::try_from(index).unwrap_or(u8::MAX), slots: limit(view) };
        // What the rule does is told more closely: where nobody is known, nobody is the fastest.
        let why = match why {
            Why::Fastest if waits => Why::Waited,
            Why::Fastest if view.service_ns == 0 => Why::Unknown,
            why => why,
        };
        self.sit(self.peers.get(usize::from(at)).ok_or(Lost)?, &seat, w, why, now)
    }

    /// [`Self::take`] for a seat that is known.
    #[inline]
    pub(super) fn sit(&self, peer: &Peer, seat: &Seat, w: WorkerIdx, why: Why, now: MonoNs) -> Result<Ticket, Lost> {
        let &Seat { at, generation, index, slots } = seat;
        let worker = peer.workers.get(usize::from(w.0)).ok_or(Lost)?;
        let own = worker.in_flight.fetch_add(1, SeqCst) + 1;
        let trial = why == Why::Trial;
        if !self.may_keep(peer, generation, slots, own) || (trial && !peer.breaker.begin_trial(now)) {
            worker.in_flight.fetch_sub(1, SeqCst);
            return Err(Lost);
        }
        worker.pending.store(worker.pending.load(Relaxed).wrapping_add(pending_word(now)), Relaxed);
        peer.counters.picks[why as usize].fetch_add(1, Relaxed);
        Ok(Ticket {
            peer: PeerIdx(at),
            generation,
            index,
            start: now,
            why,
            trial,
            pending: true,
            closed: false,
            early: Early::Nothing,
        })
    }

    /// Whether a request that has just counted itself in may stay, by what `live` and the columns
    /// say now.
    #[inline]
    fn may_keep(&self, peer: &Peer, generation: u32, slots: u32, own: u32) -> bool {
        let live = peer.live();
        let slots = match live.max_conns() {
            0 => slots,
            most if slots == 0 => most,
            most => slots.min(most),
        };
        let high = self.workers_high();
        // Alone, a worker has seen all there is.
        let fits = slots == 0 || if high == 1 { own <= slots } else { peer.in_flight(high) <= slots };
        fits && live.generation() == generation && live.takes()
    }

    fn settle_ties(&self, scene: &Scene, ties: u128, chosen: usize) {
        let peer = |index: usize| scene.seen.get(index).and_then(|seen| self.peers.get(usize::from(seen.0)));
        let weight = |index: usize| scene.views.get(index).map_or(0, |view| view.weight);
        settle(ties, chosen, weight, |index| &peer(index).unwrap_or(&self.peers[0]).credit);
    }
}
