//! Shares among peers of like speed: load evened by slots and weight, the rest by smooth weighted
//! round robin.
//!
//! "Fewest in flight per weight" alone would give an idle canary of weight 1 % every second request
//! of two at once. So a peer's load is compared with what is due to it: φ = (N + 1) · q / Σq, q =
//! slots · weight, N the group's requests in flight, full peers included. A peer that is owed a
//! whole request (n + 1 ≤ φ) comes first, most owed first; then those owed a part of one (n < φ),
//! by smooth weighted round robin (nginx's), whose credits are kept over all picks of the group;
//! then the others. With equal weights this is fewest in flight per slot with round robin in a tie,
//! exactly; idle, it is nginx's round robin, exactly; with 99 : 1 it is 1 % at any concurrency.
//!
//! If the one whose turn it is is full, weights have been set unlike `max_conns` (with equal
//! weights a full peer is never owed anything): the request waits for it while the queue is under
//! [`PATIENCE`] service times long, but never beyond the bound of [`super::patience`], and goes
//! over the share then, because a lost slot costs everyone. In a group with a peer that has no
//! limit nobody waits.
//!
//! In a pool that is unknown as a whole (WebSockets, answers without a body) load tells little: a
//! peer that refuses at once, or closes what it has just opened, has none. There the round robin
//! decides, and load only within it: one that has had [`AHEAD`] requests more than its share takes
//! no more before the others have had theirs, unless they are full. So what a restart or chance
//! made uneven is evened for as long as that lasts, and who is always idle gets its share.

use super::field::{Field, bits};
use super::patience;
use super::view::{Demand, PeerSet, PeerView};
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// Service times for which a request waits rather than go to a peer that has had its share: at a
/// load of 0.8 on 8 slots a canary of 1 % then has 1.3 %.
const PATIENCE: f64 = 3.0;

/// Requests by which an unknown peer may be ahead of its share by weight. Its credit then is within
/// the bound of [`settle`].
const AHEAD: i64 = 2;

/// What the rule comes to.
pub(super) enum Choice {
    Take { peer: usize, ties: PeerSet },
    Wait,
    AllFull,
}

/// How much the group owes a peer, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Whole,
    Part,
    None,
}

/// One peer of a group of like speed, as sharing sees it.
#[derive(Clone, Copy, Debug)]
pub struct Entrant {
    /// Its index, for the caller.
    pub peer: usize,
    /// Requests in flight.
    pub in_flight: u64,
    /// slots · weight, or the weight where slots are unlimited; under 2^32.
    pub quota: u64,
    /// Smooth weighted round robin's credit, its weight added.
    pub credit: i64,
}

impl Entrant {
    /// How much a group with `quotas` in all, and `in_flight` requests, owes it. Both under 2^28,
    /// respectively 2^39, as they are by their bounds.
    #[inline]
    fn claim(&self, quotas: u64, in_flight: u64) -> Claim {
        let due = self.quota.saturating_mul(in_flight + 1);
        let had = self.in_flight.saturating_mul(quotas);
        if had.saturating_add(quotas) <= due {
            Claim::Whole
        } else if had < due {
            Claim::Part
        } else {
            Claim::None
        }
    }

    #[inline]
    fn beats(&self, claim: Claim, other: &Self, other_claim: Claim) -> bool {
        if claim != other_claim {
            return claim < other_claim;
        }
        let (mine, theirs) = match claim {
            Claim::Part => (0, 0),
            Claim::Whole | Claim::None => {
                (self.in_flight.saturating_mul(other.quota), other.in_flight.saturating_mul(self.quota))
            }
        };
        mine < theirs || (mine == theirs && self.credit > other.credit)
    }

    /// The one that is owed most; `None` if there is none, or (`owed_only`) none that is owed
    /// anything.
    #[inline]
    pub fn best(entrants: impl Iterator<Item = Self>, quotas: u64, in_flight: u64, owed_only: bool) -> Option<Self> {
        let mut best: Option<(Self, Claim)> = None;
        for entrant in entrants {
            let claim = entrant.claim(quotas, in_flight);
            if best.is_none_or(|(other, other_claim)| entrant.beats(claim, &other, other_claim)) {
                best = Some((entrant, claim));
            }
        }
        best.filter(|&(_, claim)| !owed_only || claim != Claim::None).map(|(entrant, _)| entrant)
    }
}

/// Chooses among `members`, of which at least one is free.
pub(super) fn choose(field: &Field, demand: &Demand, members: PeerSet) -> Choice {
    let (mut full, mut least_ns): (PeerSet, u64) = (0, u64::MAX);
    // Of peers of which nothing is known only what has shown its signal is a load: without that, a
    // peer that refuses at once is no idler than one that is asked.
    let load = |i: usize| {
        let peer = &field.peers[i];
        u64::from(if field.is_learned() { peer.in_flight } else { peer.in_flight.saturating_sub(peer.pending) })
    };
    let (mut unlimited, mut weights, mut places, mut in_flight) = (false, 0_u64, 0_u64, 0_u64);
    for i in bits(members) {
        let peer = &field.peers[i];
        unlimited |= peer.slots == 0;
        weights += u64::from(peer.weight);
        places = places.saturating_add(places_of(peer));
        in_flight += load(i);
        least_ns = least_ns.min(peer.service_ns);
        full |= PeerSet::from(!field.is_free(i)) << i;
    }
    let quotas = if unlimited { weights } else { places };
    let entrant = |i: usize| {
        let peer = &field.peers[i];
        let quota = if unlimited { u64::from(peer.weight) } else { places_of(peer) };
        let credit = peer.wrr_current.saturating_add(i64::from(peer.weight));
        Entrant { peer: i, in_flight: load(i), quota, credit }
    };
    let mut free = members & !full;
    if !field.is_learned() {
        let ahead = bits(free).filter(|&i| is_ahead(&field.peers[i], weights)).fold(0, |set: PeerSet, i| set | 1 << i);
        free &= !ahead;
        // All that are free are ahead of those that are full: the round robin alone decides.
        if let Some(peer) = bits(ahead).filter(|_| free == 0).max_by_key(|&i| entrant(i).credit) {
            return Choice::Take { peer, ties: members };
        }
    }
    let Some(best) = Entrant::best(bits(free).map(entrant), quotas, in_flight, false) else {
        return Choice::AllFull;
    };
    // Where a member has no limit, what the others' limits leave undone is for it to do.
    let may_wait =
        full != 0 && !unlimited && field.is_learned() && demand.can_wait && !patience::is_over(least_ns, demand);
    if may_wait && is_short_wait(field, demand, full) {
        let owed = Entrant::best(bits(full).map(entrant), quotas, in_flight, true);
        let claim = |entrant: &Entrant| entrant.claim(quotas, in_flight);
        if owed.is_some_and(|owed| owed.beats(claim(&owed), &best, claim(&best))) {
            return Choice::Wait;
        }
    }
    Choice::Take { peer: best.peer, ties: members }
}

/// Whether one request more would put the peer further ahead of its share than [`AHEAD`].
pub(super) const fn is_ahead(peer: &PeerView, weights: u64) -> bool {
    let weights = weights.cast_signed();
    peer.wrr_current.saturating_add(peer.weight as i64).saturating_sub(weights) < -AHEAD * weights
}

const fn places_of(peer: &PeerView) -> u64 {
    // both are under 2^32
    peer.weight as u64 * peer.slots as u64
}

/// Whether the full members work off the whole queue within [`PATIENCE`] service times.
fn is_short_wait(field: &Field, demand: &Demand, full: PeerSet) -> bool {
    let mut drained = 0.0;
    // One that hangs drains nothing, whatever it did before.
    let is_stuck =
        |i: &usize| field.peers[*i].pending_age_ns as f64 > PATIENCE * field.peers[*i].service_ns.max(1) as f64;
    for i in bits(full).filter(|i| !is_stuck(i)) {
        drained += f64::from(field.peers[i].slots) * field.service_ns(i) as f64 / field.hold_ns(i) as f64;
    }
    f64::from(demand.queued) < PATIENCE * drained
}

/// Smooth weighted round robin's bookkeeping after a pick: every peer of `ties` gains its weight,
/// `chosen` pays the sum.
///
/// Additions commute, so workers may settle at the same time. A credit is held within twice the sum
/// of weights: when load and not turn decided for long, the debt is not paid back in one streak
/// later.
pub fn settle<'a>(
    ties: PeerSet,
    chosen: usize,
    weight: impl Fn(usize) -> u32,
    credit: impl Fn(usize) -> &'a AtomicI64,
) {
    let total: i64 = bits(ties).map(|i| i64::from(weight(i))).sum();
    for i in bits(ties) {
        let gain = i64::from(weight(i)) - if i == chosen { total } else { 0 };
        let cell = credit(i);
        let new = cell.fetch_add(gain, Relaxed).saturating_add(gain);
        if new.abs() > AHEAD * total {
            cell.store(AHEAD * total * new.signum(), Relaxed);
        }
    }
}
