//! Releases a request whose fingerprint may be known, and says whose failure it was: see
//! [`super::failing`] for the rule.
//!
//! Cost: beside the table's scan, a pass over the upstream's peers when a breaker would open.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::changes::{Change, Changes, Switch};
use super::failing::{Entry, Fingerprint, Verdict};
use super::peer::Peer;
use super::{BalanceParams, Outcome, PeerIdx, Ticket, Upstream, UpstreamIdx, WorkerIdx, Zone};
use crate::breaker::{Opening, Rule};
use crate::mutes::{self, Tally};
use crate::pick::Why;
use crate::time::MonoNs;

/// What a peer answers tells about others' failures if it has answered within so many of them: two
/// runs that open a breaker.
const ANSWERS_WITHIN: u32 = 6;

impl Zone<'_> {
    /// Whether a response of `u` needs its fingerprint: some request failed lately.
    pub fn failed_lately(&self, u: UpstreamIdx, now: MonoNs) -> bool {
        self.upstream(u).is_some_and(|upstream| upstream.failing.is_recent(now))
    }

    /// [`Zone::release`] of a request whose fingerprint may be known. Returns the breakers that it
    /// opened and closed.
    #[expect(clippy::too_many_arguments, reason = "those of a release, and what tells the request")]
    pub fn release_known(
        &self,
        ticket: Ticket,
        w: WorkerIdx,
        outcome: Outcome,
        fingerprint: Option<Fingerprint>,
        params: &BalanceParams,
        now: MonoNs,
        random: u64,
    ) -> Changes {
        let mut changes = Changes::new();
        if ticket.why == Why::NoSlot {
            self.step_out(&ticket, w);
            return changes;
        }
        let outcome = match (outcome, fingerprint) {
            (Outcome::Failure, _) => self.failed(&ticket, fingerprint, now, random, &mut changes),
            (Outcome::Success { .. } | Outcome::Answered, Some(fingerprint)) => {
                self.answered(&ticket, fingerprint, now, random, &mut changes);
                outcome
            }
            _ => outcome,
        };
        self.settle(ticket, w, outcome, params, now, &mut changes);
        changes
    }

    /// The ticket's peer failed; returns what that failure is, as far as it is known.
    #[cold]
    fn failed(
        &self,
        ticket: &Ticket,
        fingerprint: Option<Fingerprint>,
        now: MonoNs,
        random: u64,
        changes: &mut Changes,
    ) -> Outcome {
        let Some(peer) = self.peer(ticket.peer) else { return Outcome::Failure };
        let known = self.home_of(peer).zip(fingerprint);
        if let Some((upstream, fingerprint)) = known
            && let Verdict::Elsewhere { take_back } = upstream.failing.note(fingerprint, ticket.index, now)
        {
            if let Some(entry) = take_back {
                changes.extend(self.take_back(upstream, &entry, now));
            }
            return Outcome::Excused;
        }
        if fingerprint.is_none() {
            self.home_of(peer).inspect(|upstream| upstream.failing.note_unsent(now));
        }
        let blamed = self.blame(peer, ticket.trial || ticket.closed, now, random);
        if let Some((opening, out_ms)) = blamed {
            known.inspect(|(upstream, fingerprint)| upstream.failing.note_opened(*fingerprint));
            changes.extend(peer.note(ticket.peer, Switch::Opened { opening, out_ms }, now));
        }
        Outcome::Failure
    }

    /// What the first peer of the entry failed was the request's fault.
    fn take_back(&self, upstream: &Upstream, entry: &Entry, now: MonoNs) -> Option<Change> {
        let (at, peer) = entry.peers[0].and_then(|index| self.peer_in(upstream, index))?;
        if !entry.opened {
            (0..entry.count).for_each(|_| peer.breaker.forgive(peer.rule()));
            return None;
        }
        if peer.breaker.pardon() { peer.note(at, Switch::Pardoned, now) } else { None }
    }

    /// The ticket's peer answers what others may have failed: then their failures are their own.
    fn answered(&self, ticket: &Ticket, fingerprint: Fingerprint, now: MonoNs, random: u64, changes: &mut Changes) {
        let index = ticket.index;
        let Some(upstream) = self.peer(ticket.peer).and_then(|peer| self.home_of(peer)) else { return };
        if let Some((_, peer)) = self.peer_in(upstream, index) {
            peer.answered.store(upstream.failing.count.load(Relaxed), Relaxed);
        }
        let Some(entry) = upstream.failing.take(fingerprint) else { return };
        let was_excused = entry.peers[1].is_some();
        // A breaker that had been opened opens again, whatever had counted before.
        let first = if entry.opened { Entry::COUNT_MAX } else { entry.count };
        for (other, count) in entry.peers.into_iter().zip([first, 1]) {
            let other = other.filter(|other| *other != index);
            let Some((at, peer)) = other.and_then(|other| self.peer_in(upstream, other)) else { continue };
            peer.contradicted.store(1, Relaxed);
            if was_excused && let Some((_, out_ms)) = (0..count).find_map(|_| self.blame(peer, false, now, random)) {
                changes.extend(peer.note(at, Switch::Contradicted { out_ms }, now));
            }
        }
    }

    /// A failure counts for the peer's breaker, which opens unless the pool needs the peer: why it
    /// did, and for how many ms.
    fn blame(&self, peer: &Peer, trial: bool, now: MonoNs, random: u64) -> Option<(Opening, u64)> {
        let opened = peer.breaker.failure_unless_held(trial, peer.rule(), random, now, || !self.is_held_in(peer));
        if opened.is_some() {
            peer.counters.breaker_openings.fetch_add(1, Relaxed);
        }
        opened
    }

    /// Whether `peer` stays in though it fails: without it less than half of its pool would be
    /// left, failures occur elsewhere too, and its own are not unusual beside the others' over the
    /// same time.
    fn is_held_in(&self, peer: &Peer) -> bool {
        let Some(upstream) = self.home_of(peer) else { return false };
        if peer.contradicted.load(Relaxed) != 0 {
            return false;
        }
        let (is_backup, count) = (peer.is_backup(), upstream.failing.count.load(Relaxed));
        let tally = |(failures, outcomes): (u32, u32)| Tally { answered: outcomes.into(), mute: failures.into() };
        let answers = |peer: &Peer| {
            let answered = peer.answered.load(Relaxed);
            answered != 0 && count.wrapping_sub(answered) <= ANSWERS_WITHIN
        };
        let (mut pool, mut left, mut failing, mut others) = (1, 0, false, Tally::default());
        for (_, _, other) in self.linked(upstream).filter(|(_, _, other)| !core::ptr::eq(*other, peer)) {
            if !other.live().takes() {
                continue;
            }
            let (failures, outcomes) = other.breaker.record(other.rule());
            let is_in = other.breaker.is_closed();
            if is_in && answers(other) {
                others = others.plus(tally((failures, outcomes)));
            }
            failing |= !is_in || failures > 0;
            if other.is_backup() == is_backup {
                pool += 1;
                left += u32::from(is_in);
            }
        }
        // nginx's rule does not count what is answered in between.
        let answers_too = matches!(peer.rule(), Rule::Counted { .. }) && answers(peer);
        let is_unusual = || !answers_too && mutes::is_unusual(tally(peer.breaker.record(peer.rule())), others);
        failing && 2 * left < pool && !is_unusual()
    }

    /// The upstream that a linked peer belongs to.
    fn home_of(&self, peer: &Peer) -> Option<&Upstream> {
        let upstream = u16::try_from(peer.home.load(SeqCst) >> 16).ok()?.checked_sub(1)?;
        self.upstream(UpstreamIdx(upstream)).filter(|upstream| upstream.is_used())
    }

    fn peer_in(&self, upstream: &Upstream, index: u8) -> Option<(PeerIdx, &Peer)> {
        let at = upstream.peer_at(usize::from(index))?;
        self.peer(at).filter(|peer| peer.live().linked()).map(|peer| (at, peer))
    }
}
