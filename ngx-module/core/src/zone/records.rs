//! Finds, reserves, links and unlinks records. All callers are serialised; every single store
//! leaves the zone valid.
//!
//! A peer record is free when no table entry leads to it: `home` names the entry, and the entry
//! must point back. So a record that a dying process left half written is free by itself, without
//! any clean-up list. Linking: record, `live`, table entry, count; unlinking: `live`, entry. Claims
//! that still hold an old entry notice by `live`. Cost: a walk over the records. Bound: the zone's
//! records.

use core::sync::atomic::Ordering::SeqCst;

use super::error::{ZoneError, printable};
use super::peer::Peer;
use super::{Layout, PeerIdx, Upstream, UpstreamIdx, Zone};
use crate::pick::PEERS_MAX;

impl<'a> Zone<'a> {
    /// The linked peers of an upstream, with their table indices.
    pub(super) fn linked(&self, upstream: &'a Upstream) -> impl Iterator<Item = (usize, PeerIdx, &'a Peer)> {
        let zone = *self;
        (0..upstream.count()).filter_map(move |index| {
            let at = upstream.peer_at(index)?;
            let peer = zone.peer(at).filter(|peer| peer.live().linked())?;
            Some((index, at, peer))
        })
    }

    /// Whether a table entry leads to this linked record.
    fn is_referenced(&self, at: PeerIdx, peer: &Peer) -> bool {
        let home = peer.home.load(SeqCst);
        let upstream =
            u16::try_from(home >> 16).ok().and_then(|u| u.checked_sub(1)).and_then(|u| self.upstream(UpstreamIdx(u)));
        let entry = upstream
            .filter(|upstream| upstream.is_used())
            .and_then(|upstream| upstream.peer_at(home as usize & 0xffff));
        entry == Some(at) && peer.live().linked()
    }

    /// Peer records that could be reserved now.
    pub(super) fn peers_free(&self) -> usize {
        let free = |(at, peer): &(u16, &Peer)| {
            !self.is_referenced(PeerIdx(*at), peer) && peer.under_way(super::WORKERS_MAX) == 0
        };
        (0..).zip(self.peers).filter(free).count()
    }

    /// Reserves `need` free records, each at the start of a new life; on a shortage gives all back
    /// and says so.
    ///
    /// Reserved records are referenced by nothing: dropping the list is the way to give them back.
    /// Heals first.
    pub(super) fn reserve_peers(&self, upstream: &[u8], need: usize) -> Result<Vec<PeerIdx>, ZoneError> {
        self.heal();
        let free =
            (0_u16..).zip(self.peers).filter(|(at, peer)| !self.is_referenced(PeerIdx(*at), peer) && peer.try_reuse());
        let reserved: Vec<PeerIdx> = free.map(|(at, _)| PeerIdx(at)).take(need).collect();
        if reserved.len() == need {
            return Ok(reserved);
        }
        Err(ZoneError::PeersFull {
            upstream: printable(upstream),
            need,
            free: reserved.len(),
            have: self.peers.len(),
            need_bytes: Layout::bytes_for(
                self.upstreams.len(),
                self.peers.len() + need - reserved.len(),
                self.classes.len(),
            ),
        })
    }

    /// Clears table entries that lead nowhere: what a death during an earlier change left behind.
    ///
    /// All tables, and before any record is reserved: an entry that outlived its peer must not come
    /// to lead to another upstream's.
    pub(super) fn heal(&self) {
        for (u, upstream) in self.upstreams_used() {
            self.heal_table(u, upstream);
        }
    }

    /// The upstream records in use.
    pub(super) fn upstreams_used(&self) -> impl Iterator<Item = (UpstreamIdx, &'a Upstream)> {
        let all = (0_u16..).zip(self.upstreams).map(|(index, upstream)| (UpstreamIdx(index), upstream));
        all.filter(|(_, upstream)| upstream.is_used())
    }

    fn heal_table(&self, u: UpstreamIdx, upstream: &Upstream) {
        for index in 0..upstream.count() {
            let leads =
                |at| self.peer(at).is_some_and(|peer| peer.live().linked() && peer.home.load(SeqCst) == home(u, index));
            if !upstream.peer_at(index).is_some_and(leads) {
                upstream.peer_at[index].store(0, SeqCst);
            }
        }
    }

    /// Puts a written record into the first hole of the upstream's table; `false` when the table is
    /// full.
    pub(super) fn link(&self, u: UpstreamIdx, upstream: &Upstream, at: PeerIdx) -> bool {
        let Some(peer) = self.peer(at) else { return false };
        let Some(index) = (0..PEERS_MAX).find(|index| upstream.peer_at(*index).is_none()) else { return false };
        peer.home.store(home(u, index), SeqCst);
        peer.publish_live();
        upstream.peer_at[index].store(at.0 + 1, SeqCst);
        upstream.peer_count.fetch_max(u32::try_from(index + 1).unwrap_or(0), SeqCst);
        true
    }

    /// Takes the peer at table index `index` out of its upstream.
    pub(super) fn unlink(&self, upstream: &Upstream, index: usize) {
        let peer = upstream.peer_at(index).and_then(|at| self.peer(at));
        if let Some(peer) = peer {
            peer.unlink();
        }
        upstream.peer_at[index].store(0, SeqCst);
        // Its counters end with it; the upstream's go on.
        if let Some(peer) = peer {
            upstream.counters.keep(&peer.counters);
        }
        upstream.failing.reset();
    }

    /// Lowers the count of a table that ends in holes.
    pub(super) fn trim(&self, upstream: &Upstream) {
        let last = (0..upstream.count()).rev().find(|index| upstream.peer_at(*index).is_some());
        upstream.peer_count.store(last.map_or(0, |index| u32::try_from(index + 1).unwrap_or(0)), SeqCst);
    }
}

fn home(u: UpstreamIdx, index: usize) -> u32 {
    (u32::from(u.0) + 1) << 16 | u32::try_from(index).unwrap_or(0) & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MonoNs;
    use crate::zone::{HeapZone, PeerSpec, Settings};

    const A: PeerSpec<'static> = PeerSpec {
        sockaddr: b"a",
        name: b"a",
        server: b"a",
        weight: 1,
        max_conns: 1,
        max_fails: 1,
        max_fails_explicit: false,
        fail_timeout_ms: 0,
        backup: false,
        down: false,
        lines: 1,
    };
    const B: PeerSpec<'static> = PeerSpec { sockaddr: b"b", name: b"b", ..A };

    fn configure(zone: &Zone<'_>, name: &[u8], peers: &[PeerSpec<'_>]) -> UpstreamIdx {
        let u = zone.upstream_reserve(name).unwrap();
        zone.upstream_configure(u, &Settings::default(), peers, MonoNs(1)).unwrap();
        u
    }

    #[test]
    fn a_death_between_the_two_stores_of_an_unlink_leads_no_upstream_to_another_ones_peer() {
        let heap = HeapZone::new(2, 2);
        let zone = heap.zone();
        let u = configure(&zone, b"one", &[A, B]);
        let upstream = zone.upstream(u).unwrap();
        let at = upstream.peer_at(0).unwrap();
        zone.peer(at).unwrap().unlink();
        configure(&zone, b"two", &[B]);
        assert_eq!(zone.linked(upstream).map(|(index, _, _)| index).collect::<Vec<_>>(), [1]);
        assert_eq!(upstream.peer_at(0), None);
    }

    #[test]
    fn a_death_before_the_table_entry_of_a_link_leaves_the_record_free() {
        let heap = HeapZone::new(1, 2);
        let zone = heap.zone();
        let u = configure(&zone, b"one", &[A]);
        let reserved = zone.reserve_peers(b"one", 1).unwrap()[0];
        let peer = zone.peer(reserved).unwrap();
        peer.home.store(home(u, 1), SeqCst);
        peer.publish_live();
        assert_eq!(zone.room().peers, 1);
        configure(&zone, b"one", &[A, B]);
        assert_eq!(zone.linked(zone.upstream(u).unwrap()).count(), 2);
    }
}
