//! What picks will say for the next moments, worked out once: the groups of like speed that
//! requests go to, if nothing else is to be decided.
//!
//! Grouping peers by speed is most of a pick's work and changes only as fast as the means do, so a
//! busy worker does it once for many requests ([`crate::zone::Plan`]) and only weighs and shares,
//! by the numbers of that very moment. Whatever is out of the ordinary (a trial, a young, unknown
//! or ill peer, backups, a mix of peers with and without slots) has no plan and goes the whole way.
//!
//! Pure, like the pick. Cost: that of a pick. Bound: [`GROUPS_MAX`] groups.

use super::field::{Field, bits};
use super::ranks::Ranks;
use super::view::{PeerSet, PeerView};
use super::{look, unknown};
use arrayvec::ArrayVec;

/// Groups of one plan, at most. A pool has two or three kinds of replicas.
pub const GROUPS_MAX: usize = 8;

/// Peers of like speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub members: PeerSet,
    /// The service time of the fastest, ns.
    pub service_ns: u64,
}

/// The groups that the next requests go to, fastest first; empty when each request needs a pick of
/// its own.
///
/// With `max_conns` it is the fastest group alone, for as long as one of it is free and owed a
/// request: [`super::pick`] on the same views takes one of it too, since the fastest free peer is
/// in it and no full peer outside of it is faster. Without any `max_conns` it is all groups, among
/// which [`super::rule`]'s cost decides.
///
/// `may_look_again`: whether the upstream may spend a look at a peer that has news; without one the
/// news changes nothing.
#[must_use]
pub fn plan(peers: &[PeerView], may_look_again: bool) -> ArrayVec<Group, GROUPS_MAX> {
    let ranks = Ranks::of(peers, 0);
    if ranks.open == 0 || ranks.trial != 0 {
        return ArrayVec::new();
    }
    if unknown::strangers(peers, ranks.open) != 0 {
        return ArrayVec::new();
    }
    let field = Field::new(peers, ranks.open);
    if !field.is_learned() {
        return ArrayVec::new();
    }
    let limited = bits(ranks.open).filter(|&i| peers[i].max_conns != 0).count();
    let groups = grouped(&field, if limited == 0 { GROUPS_MAX } else { 1 });
    let group = groups.first().map_or(0, |first| first.members);
    let is_young = |i: usize| peers[i].slots != peers[i].max_conns;
    let is_mixed = limited != 0 && limited != ranks.open.count_ones() as usize;
    let is_whole = limited != 0 || groups.iter().fold(0, |set: PeerSet, group| set | group.members) == ranks.open;
    // One that is unlike its usual self, or was like the best just now, may be asked at once.
    let is_news = |i: usize| field.is_degraded(i) || look::is_news(&field, i);
    let has_news = may_look_again && bits(ranks.open & !group).any(is_news);
    if bits(ranks.open).any(is_young) || is_mixed || !is_whole || has_news {
        return ArrayVec::new();
    }
    groups
}

/// The first `most` groups of like speed, fastest first.
fn grouped(field: &Field, most: usize) -> ArrayVec<Group, GROUPS_MAX> {
    let mut groups = ArrayVec::new();
    let mut left = field.set;
    while groups.len() < most {
        let Some(anchor) = bits(left).min_by_key(|&i| field.service_ns(i)) else { break };
        let members = bits(left).filter(|&i| field.is_tie(i, anchor)).fold(0, |set: PeerSet, i| set | 1 << i);
        left &= !members;
        groups.push(Group { members, service_ns: field.service_ns(anchor) });
    }
    groups
}
