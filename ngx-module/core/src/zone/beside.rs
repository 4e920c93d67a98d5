//! Requests that take no slot (`pincer_slot off`): heartbeats, lists of models, idle WebSockets.
//!
//! They are counted in a column of their own beside those that hold a slot, by the same protocol as
//! a claim, so they neither wait nor make others wait, and a record is not given to another peer
//! while one is under way. They say nothing of their peer: no sample, no failure, no trial. Among
//! the peers whose breakers are closed the one with the fewest of them for its weight is taken, and
//! between equals chance decides by weight; a key of affinity decides as it does for others.
//! Backups where no primary is in; where all are out, those that are out. Cost: a look at every
//! peer. Bound: [`PEERS_MAX`] peers.

use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::claim::Scene;
use super::ticket::Early;
use super::{BalanceParams, Claim, Claimed, Peer, PeerIdx, Ticket, Upstream, UpstreamIdx, WorkerIdx, Zone};
use crate::affinity;
use crate::pick::{Admission, Demand, PEERS_MAX, PeerSet, PeerView, Why};
use crate::time::MonoNs;

impl Zone<'_> {
    /// Finds a peer of `u` for a request of worker `w` that takes no slot. `Taken` or `NoPeer`; the
    /// ticket is released like any other.
    pub fn claim_beside(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        demand: &Demand,
        params: &BalanceParams,
        now: MonoNs,
    ) -> Claimed {
        let Some(upstream) = self.upstream(u) else { return Claimed::of(Claim::NoPeer, false) };
        let mut scene = Scene { views: ArrayVec::new(), seen: ArrayVec::new() };
        self.look(upstream, &mut scene, params, now);
        self.count_beside(upstream, &mut scene);
        let mut tried = demand.tried;
        while let Some(index) = choose(&scene.views, tried, demand.affinity, demand.random) {
            if let Some(ticket) = self.step_in(&scene, index, w, now) {
                return Claimed::of(Claim::Taken(ticket), false);
            }
            // It was taken out of service between the look and now.
            tried |= 1 << index;
        }
        upstream.counters.no_peer.fetch_add(1, Relaxed);
        Claimed::of(Claim::NoPeer, false)
    }

    /// Has the views count these requests instead of slots.
    fn count_beside(&self, upstream: &Upstream, scene: &mut Scene) {
        let high = self.workers_high();
        for (index, view) in scene.views.iter_mut().enumerate() {
            let peer = upstream.peer_at(index).and_then(|at| self.peer(at));
            (view.slots, view.max_conns) = (0, 0);
            view.in_flight = peer.map_or(0, |peer| peer.beside(high));
        }
    }

    /// Counts the request in, and out again if the record changed since it was looked at.
    fn step_in(&self, scene: &Scene, index: usize, w: WorkerIdx, now: MonoNs) -> Option<Ticket> {
        let &(at, generation) = scene.seen.get(index)?;
        let peer: &Peer = self.peers.get(usize::from(at))?;
        let worker = peer.workers.get(usize::from(w.0))?;
        worker.beside.fetch_add(1, SeqCst);
        let live = peer.live();
        if live.generation() != generation || !live.takes() {
            worker.beside.fetch_sub(1, SeqCst);
            return None;
        }
        peer.counters.picks[Why::NoSlot as usize].fetch_add(1, Relaxed);
        Some(Ticket {
            peer: PeerIdx(at),
            generation,
            index: u8::try_from(index).unwrap_or(u8::MAX),
            start: now,
            why: Why::NoSlot,
            trial: false,
            pending: false,
            closed: false,
            early: Early::Sampled,
        })
    }

    /// The request has ended, however it did.
    #[cold]
    pub(super) fn step_out(&self, ticket: &Ticket, w: WorkerIdx) {
        let Some(peer) = self.peer(ticket.peer) else { return };
        peer.counters.neutral.fetch_add(1, Relaxed);
        let Some(worker) = peer.workers.get(usize::from(w.0)) else { return };
        // Last: from here on the record may be given to another peer.
        if worker.beside.load(Relaxed) > 0 {
            worker.beside.fetch_sub(1, SeqCst);
        } else {
            self.header.counters.unbalanced.fetch_add(1, Relaxed);
        }
    }
}

/// The peer for one more request; `None` if no peer takes requests.
fn choose(peers: &[PeerView], tried: PeerSet, affinity: Option<u64>, random: u64) -> Option<usize> {
    let of = |may: fn(&PeerView) -> bool| {
        let eligible = |(index, peer): &(usize, &PeerView)| peer.weight != 0 && tried >> index & 1 == 0 && may(peer);
        let members = peers.iter().take(PEERS_MAX).enumerate().filter(eligible);
        members.fold(0, |set: PeerSet, (index, _)| set | 1 << index)
    };
    let ranks: [fn(&PeerView) -> bool; 3] = [
        |peer| peer.admission == Admission::Open && !peer.backup,
        |peer| peer.admission == Admission::Open,
        |peer| peer.admission != Admission::Shut,
    ];
    let set = ranks.into_iter().map(of).find(|set| *set != 0)?;
    affinity.map_or_else(|| least(peers, set, random), |key| affinity::choose(peers, set, key))
}

/// The peer of `set` with the fewest requests for its weight; between equals by chance, and weight.
fn least(peers: &[PeerView], set: PeerSet, random: u64) -> Option<usize> {
    let members = || peers.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
    let more = |one: &PeerView, other: &PeerView| {
        u64::from(one.in_flight) * u64::from(other.weight) > u64::from(other.in_flight) * u64::from(one.weight)
    };
    let (_, best) = members().reduce(|best, next| if more(best.1, next.1) { next } else { best })?;
    let equals = || members().filter(|(_, peer)| !more(peer, best));
    let weights: u64 = equals().map(|(_, peer)| u64::from(peer.weight)).sum();
    let mut left = affinity::mix(random) % weights.max(1);
    let chosen = equals().find(|(_, peer)| {
        let weight = u64::from(peer.weight);
        let is_it = left < weight;
        left = left.saturating_sub(weight);
        is_it
    });
    chosen.map(|(index, _)| index)
}
