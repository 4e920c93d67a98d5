//! What a pick will say for the next moments, worked out once: the peers of the fastest speed, if nothing else is to be decided.
//!
//! Grouping peers by speed is most of a pick's work and changes only as fast as the means do, so a busy worker does it once for many
//! requests ([`crate::zone::Plan`]) and only shares among the group, by the numbers of that very moment. Whatever is out of the ordinary (a trial, a
//! young or ill peer, backups, speeds to be weighed against each other) has no plan and goes the whole way.
//!
//! Pure, like the pick. Cost: that of a pick.

use super::field::{Field, bits};
use super::{PeerSet, PeerView, Ranks};

/// The group that the next requests go to as long as one of it is free; `None` when each needs a pick of its own.
///
/// While any of the group is free and owed a request, [`super::pick`] on the same views takes one of this group too: its anchor is the fastest
/// free peer, which is in the group, and no full peer outside of it is faster.
#[must_use]
pub fn plan(peers: &[PeerView]) -> Option<PeerSet> {
    let ranks = Ranks::of(peers, 0);
    if ranks.open == 0 || ranks.trial != 0 {
        return None;
    }
    let field = Field::new(peers, ranks.open);
    let best = field.best();
    let group = bits(ranks.open).filter(|&i| field.is_tie(i, best)).fold(0, |set: PeerSet, i| set | 1 << i);
    let is_young = |i: usize| peers[i].slots != peers[i].max_conns;
    if bits(group).any(is_young) {
        return None;
    }
    // Without slots, groups of other speeds compete by their load.
    if group != ranks.open && bits(group).any(|i| peers[i].max_conns == 0) {
        return None;
    }
    // One that was never sampled, or is unlike its usual self, may be explored at once.
    let is_news = |i: usize| peers[i].recent_ns == 0 || field.is_degraded(i);
    if field.is_learned() && bits(ranks.open & !group).any(is_news) {
        return None;
    }
    Some(group)
}
