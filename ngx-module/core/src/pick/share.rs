//! Shares among peers of like speed: load evened by slots and weight, the rest by smooth weighted round robin.
//!
//! "Fewest in flight per weight" alone would give an idle canary of weight 1 % every second request of two at once. So a peer's load is compared with
//! what is due to it: φ = (N + 1) · q / Σq, q = slots · weight, N the group's requests in flight, full peers included. A peer that is owed a whole
//! request (n + 1 ≤ φ) comes first, most owed first; then those owed a part of one (n < φ), by smooth weighted round robin (nginx's),
//! whose credits are kept over all picks of the group; then the others. With equal weights this is fewest in flight per slot with round robin in a
//! tie, exactly; idle, it is nginx's round robin, exactly; with 99 : 1 it is 1 % at any concurrency.
//!
//! If those that are owed are all full, weights have been set unlike `max_conns`: the request waits for them while the wait is under [`PATIENCE`]
//! service times, and goes over the share beyond that, because a lost slot costs everyone.

use super::field::{Field, bits};
use super::rule::Choice;
use super::{Demand, PeerSet};
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// Service times for which a request waits rather than go to a peer that has had its share. At a load of 0.8 on 8 slots, 1 lets a canary of 1 % have 7 %, 3 has 1.3 %.
const PATIENCE: f64 = 3.0;

/// How much the group owes a peer, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Whole,
    Part,
    None,
}

struct Candidate {
    peer: usize,
    claim: Claim,
    in_flight: u64,
    quota: u64,
    credit: i64,
}

impl Candidate {
    fn beats(&self, other: &Self) -> bool {
        if self.claim != other.claim {
            return self.claim < other.claim;
        }
        let (mine, theirs) = match self.claim {
            Claim::Part => (0, 0),
            Claim::Whole | Claim::None => {
                (self.in_flight.saturating_mul(other.quota), other.in_flight.saturating_mul(self.quota))
            }
        };
        mine < theirs || (mine == theirs && self.credit > other.credit)
    }
}

/// Chooses among `members`, of which at least one is free.
pub(super) fn choose(field: &Field, demand: &Demand, members: PeerSet) -> Choice {
    let unlimited = bits(members).any(|i| field.peers[i].slots == 0);
    let quota = |i: usize| {
        let peer = &field.peers[i];
        u64::from(peer.weight).saturating_mul(if unlimited { 1 } else { u64::from(peer.slots) })
    };
    let (mut quotas, mut in_flight) = (0_u64, 0_u64);
    for i in bits(members) {
        quotas = quotas.saturating_add(quota(i));
        in_flight += u64::from(field.peers[i].in_flight);
    }
    let mut best: Option<Candidate> = None;
    for i in bits(members).filter(|&i| field.is_free(i)) {
        let peer = &field.peers[i];
        let load = u64::from(peer.in_flight);
        let due = quota(i).saturating_mul(in_flight + 1);
        let claim = if (load + 1).saturating_mul(quotas) <= due {
            Claim::Whole
        } else if load.saturating_mul(quotas) < due {
            Claim::Part
        } else {
            Claim::None
        };
        let credit = peer.wrr_current.saturating_add(i64::from(peer.weight));
        let candidate = Candidate { peer: i, claim, in_flight: load, quota: quota(i), credit };
        if best.as_ref().is_none_or(|other| candidate.beats(other)) {
            best = Some(candidate);
        }
    }
    match best {
        None => Choice::AllFull,
        Some(over) if over.claim == Claim::None && demand.can_wait && is_short_wait(field, demand, members) => {
            Choice::Wait
        }
        Some(chosen) => Choice::Take { peer: chosen.peer, ties: members },
    }
}

/// Whether the full members work off the whole queue within [`PATIENCE`] service times.
fn is_short_wait(field: &Field, demand: &Demand, members: PeerSet) -> bool {
    let mut drained = 0.0;
    for i in bits(members).filter(|&i| !field.is_free(i)) {
        drained += f64::from(field.peers[i].slots) * field.service_ns(i) as f64 / field.hold_ns(i) as f64;
    }
    f64::from(demand.queued) < PATIENCE * drained
}

/// Smooth weighted round robin's bookkeeping after a pick: every peer of `ties` gains its weight, `chosen` pays the sum.
///
/// Additions commute, so workers may settle at the same time. A credit is held within twice the sum of weights: when load and not turn decided for
/// long, the debt is not paid back in one streak later.
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
        if new.abs() > 2 * total {
            cell.store(2 * total * new.signum(), Relaxed);
        }
    }
}
