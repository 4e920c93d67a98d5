//! The wait rule, and the cost of peers without known slots.
//!
//! Let f be the free peer of least service time S, F the full peers of S < 0.8 · S_f, R their drain
//! rate (Σ slots / time a slot is held), k the length of the queue. The head of the queue goes to f
//! if and only if F is empty or k / R ≥ θ · (S_f − S_min): else a slot of F comes soon enough to be
//! worth it. The two times are in the signal's unit; the drain rate is in slots. A request that has
//! waited for as long as a faster peer would save it waits no longer: the slots are held for longer
//! than is known (no stream has ended yet).
//!
//! Without `max_conns` a peer has no slots: the cost of a group of such peers of like S is S · (1 +
//! n / w), n their requests whose signal has not come (a stream that flows does not delay the next
//! one's first token), w their weight in mean weights. For equal peers that is least connections.
//! Groups are looked at in rising S and only while S alone is under the best cost found, so a pool
//! of one speed is one pass.
//!
//! Never chooses within a tie: that is [`super::share`].

use super::field::{Field, bits};
use super::share::Choice;
use super::view::{Demand, PeerSet};
use super::{patience, share};

/// Peers of like S around the free one that is fastest.
struct Group {
    /// All of them, full ones too.
    members: PeerSet,
    /// The fastest that is free.
    anchor: usize,
    cost_ns: f64,
    has_slots: bool,
}

pub(super) fn choose(field: &Field, demand: &Demand, theta: f64) -> Choice {
    let Some(group) = cheapest(field) else { return Choice::AllFull };
    let is_best = group.members >> field.best() & 1 == 1;
    if demand.can_wait && group.has_slots && !is_best && is_worth_waiting(field, demand, theta, &group) {
        return Choice::Wait;
    }
    share::choose(field, demand, group.members)
}

fn cheapest(field: &Field) -> Option<Group> {
    let mut left: PeerSet = 0;
    for i in bits(field.set) {
        left |= PeerSet::from(field.is_free(i)) << i;
    }
    let mut best: Option<Group> = None;
    let mut anchor = Some(field.best()).filter(|&i| left >> i & 1 == 1).or_else(|| fastest(field, left));
    while let Some(i) = anchor {
        let anchor_ns = field.service_ns(i) as f64;
        if best.as_ref().is_some_and(|group| anchor_ns >= group.cost_ns) {
            break;
        }
        let group = group_of(field, left, i);
        left &= !group.members;
        let is_final = group.has_slots;
        if best.as_ref().is_none_or(|other| group.cost_ns < other.cost_ns) {
            best = Some(group);
        }
        // its cost is its S, and all that follow have a greater one
        anchor = if is_final { None } else { fastest(field, left) };
    }
    best
}

fn fastest(field: &Field, set: PeerSet) -> Option<usize> {
    bits(set).min_by_key(|&i| field.service_ns(i))
}

fn group_of(field: &Field, left: PeerSet, anchor: usize) -> Group {
    let mut members = field.like_best;
    if anchor != field.best() {
        let full = bits(field.set).filter(|&i| !field.is_free(i)).fold(0, |set: PeerSet, i| set | 1 << i);
        members = bits(left | full).filter(|&i| field.is_tie(i, anchor)).fold(0, |set, i| set | 1 << i);
    }
    let has_slots = bits(members).any(|i| field.peers[i].max_conns != 0);
    let mut group = Group { members, anchor, cost_ns: field.service_ns(anchor) as f64, has_slots };
    if !has_slots {
        let (mut total, mut pending, mut weight) = (0_u64, 0_u64, 0_u64);
        for i in bits(field.set) {
            let (peer, is_member) = (&field.peers[i], u64::from(members >> i & 1 == 1));
            total += u64::from(peer.weight);
            weight += is_member * u64::from(peer.weight);
            pending += is_member * u64::from(peer.pending);
        }
        let mean = total as f64 / f64::from(field.set.count_ones());
        group.cost_ns *= 1.0 + pending as f64 * mean / weight as f64;
    }
    group
}

/// Whether a slot of the faster peers, all of which are full, comes soon enough.
fn is_worth_waiting(field: &Field, demand: &Demand, theta: f64, group: &Group) -> bool {
    let chosen_ns = group.cost_ns;
    // For a short time what the means say will do; beyond it there has to be proof.
    let has_waited = patience::is_over(field.service_ns(group.anchor), demand);
    let is_slower = |i: usize| !has_waited || field.is_surely_slower(group.anchor, i);
    let (mut drain_per_ns, mut least_ns) = (0.0, f64::MAX);
    for i in bits(field.set & !group.members) {
        let service_ns = field.service_ns(i) as f64;
        let peer = &field.peers[i];
        if !field.is_free(i) && peer.max_conns != 0 && service_ns < chosen_ns && is_slower(i) {
            drain_per_ns += f64::from(peer.slots) / field.hold_ns(i) as f64;
            least_ns = least_ns.min(service_ns);
        }
    }
    let gain_ns = chosen_ns - least_ns;
    drain_per_ns > 0.0
        && f64::from(demand.queued) < theta * gain_ns * drain_per_ns
        && (demand.waited_ns as f64) < gain_ns
}
