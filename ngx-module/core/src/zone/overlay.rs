//! Lays a revision of the control plane over what nginx.conf declares: all of it, or nothing.
//!
//! First everything is validated and the records of added peers are reserved; then peers are
//! changed one by one, each in one visible store; the revision comes last. A process that dies in
//! between leaves the lower revision, so the next feed applies the whole again. The content is not
//! trusted: names, ranges, counts and room are checked here (which addresses may be added is
//! checked by the caller). By the feed's holder only, under the caller's lock. Cost: a walk over
//! the peers. Bound: [`PEERS_MAX`] peers per upstream, [`UPSTREAMS_MAX`] upstreams,
//! [`super::classes::OVERLAY_CLASSES_MAX`] classes.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::configure::{SOCKADDR_RANGE, check_name, check_range};
use super::error::{OverlayError, ZoneError, printable};
use super::keys::KeySpec;
use super::peer::{Configured, MAX_CONNS_MAX, Peer, PeerState, WEIGHT_MAX};
use super::{ClassOverlay, PeerIdx, Upstream, Zone};
use crate::breaker::Due;
use crate::pick::PEERS_MAX;
use crate::time::MonoNs;

/// Upstreams of one revision, those of other nodes included.
pub const UPSTREAMS_MAX: usize = 4_096;

/// The whole state of a revision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overlay<'a> {
    /// Its number; never lower than the one in force. The same again is applied again.
    pub revision: u64,
    /// What it says, per upstream. Upstreams left out lose their overrides and added peers.
    pub upstreams: &'a [UpstreamOverlay<'a>],
    /// What it says, per class. Classes left out lose their overrides; added ones go.
    pub classes: &'a [ClassOverlay<'a>],
    /// All API keys; those left out are gone.
    pub keys: &'a [KeySpec<'a>],
}

/// What a revision says of one upstream.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamOverlay<'a> {
    /// Its name; unknown names are counted and otherwise ignored.
    pub name: &'a [u8],
    /// Peers with a say. Peers left out lose their overrides; added ones go.
    pub peers: &'a [PeerOverlay<'a>],
}

/// What a revision says of one peer; `None` leaves nginx.conf's value.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerOverlay<'a> {
    /// Its address as text, equal to a declared peer's name or the name of the peer to add.
    pub name: &'a [u8],
    /// 0 (no new requests) to [`WEIGHT_MAX`].
    pub weight: Option<u32>,
    /// 0 (unlimited) to [`MAX_CONNS_MAX`].
    pub max_conns: Option<u32>,
    /// Overrides `down` of nginx.conf, too.
    pub state: Option<PeerState>,
    /// The socket address of a peer to add, unless nginx.conf declares it. Without it an unknown
    /// name is counted and ignored.
    pub added: Option<&'a [u8]>,
    /// The revision in which an operator last set something of it; 0 = not told. Another one than
    /// before makes a peer whose breaker is open due for its trial.
    pub set_in: u64,
}

/// A peer to add: where, what, and the record reserved for it.
struct Addition<'a> {
    upstream: usize,
    peer: &'a PeerOverlay<'a>,
    record: PeerIdx,
}

impl<'z> Zone<'z> {
    /// Whether [`Zone::overlay_apply`] would accept it now. Changes nothing.
    pub fn overlay_check(&self, overlay: &Overlay<'_>) -> Result<(), OverlayError> {
        self.overlay_plan(overlay).map(|_| ())
    }

    /// Puts a revision into force. On an error everything is as before.
    ///
    /// `now` starts the ramp of added peers. Errors name the value, the need and the place.
    pub fn overlay_apply(&self, overlay: &Overlay<'_>, now: MonoNs) -> Result<(), OverlayError> {
        let additions = self.overlay_plan(overlay)?;
        self.keys_publish(overlay.keys)?;
        for (u, upstream) in self.upstreams_used() {
            let place = position(overlay, upstream);
            let peers = place.map_or(&[][..], |place| overlay.upstreams[place].peers);
            let leaving = self.override_linked(upstream, peers);
            // A pool that is new as a whole does not ramp.
            let is_running = self.serving(upstream).any(|(index, _)| !leaving.contains(&index));
            let mut leaving = leaving.into_iter();
            for addition in additions.iter().filter(|addition| Some(addition.upstream) == place) {
                self.write_added(addition, is_running.then_some(now));
                while !self.link(u, upstream, addition.record) {
                    let Some(index) = leaving.next() else { break };
                    self.unlink(upstream, index);
                }
            }
            leaving.for_each(|index| self.unlink(upstream, index));
            self.trim(upstream);
            self.count_tries(upstream);
        }
        self.classes_apply(overlay.classes, now);
        self.header.unknown.store(self.count_unknown(overlay), SeqCst);
        self.header.revision.store(overlay.revision, SeqCst);
        self.header.connection.applied();
        Ok(())
    }

    /// Validates all of it and reserves the records of peers to add.
    fn overlay_plan<'a>(&self, overlay: &Overlay<'a>) -> Result<Vec<Addition<'a>>, OverlayError> {
        let have = self.header.revision();
        if overlay.revision < have {
            return Err(OverlayError::Revision { have, got: overlay.revision });
        }
        check_upstreams(overlay)?;
        self.keys_check(overlay.keys)?;
        self.classes_check(overlay.classes)?;
        let mut additions = Vec::new();
        for (place, named) in overlay.upstreams.iter().enumerate() {
            check_peers(named)?;
            let Some(upstream) = self.upstream_find(named.name).and_then(|u| self.upstream(u)) else { continue };
            let fresh = named.peers.iter().filter(|peer| peer.added.is_some() && self.find(upstream, peer).is_none());
            additions.extend(fresh.map(|peer| Addition { upstream: place, peer, record: PeerIdx(u16::MAX) }));
            let added = additions.iter().filter(|addition| addition.upstream == place).count();
            let have = self.staying(upstream, named.peers) + added;
            if have > PEERS_MAX {
                return Err(ZoneError::TooManyPeers { upstream: printable(named.name), have, max: PEERS_MAX }.into());
            }
        }
        let place = additions.last().map_or(&[][..], |addition| overlay.upstreams[addition.upstream].name);
        let records = self.reserve_peers(place, additions.len())?;
        for (addition, record) in additions.iter_mut().zip(records) {
            addition.record = record;
        }
        Ok(additions)
    }

    /// The linked peer that an overlay's entry means.
    fn find(&self, upstream: &'z Upstream, wanted: &PeerOverlay<'_>) -> Option<&'z Peer> {
        self.linked(upstream).map(|(_, _, peer)| peer).find(|peer| means(wanted, peer))
    }

    /// Linked peers that remain after `peers` is applied.
    fn staying(&self, upstream: &'z Upstream, peers: &[PeerOverlay<'_>]) -> usize {
        self.linked(upstream).filter(|(_, _, peer)| !leaves(peer, peers)).count()
    }

    /// Overrides the peers that stay; returns the table indices of those that go.
    fn override_linked(&self, upstream: &'z Upstream, peers: &[PeerOverlay<'_>]) -> Vec<usize> {
        let nothing = PeerOverlay::default();
        let mut leaving = Vec::new();
        for (index, _, peer) in self.linked(upstream) {
            if leaves(peer, peers) {
                leaving.push(index);
                continue;
            }
            peer.write_overrides(peers.iter().find(|wanted| means(wanted, peer)).unwrap_or(&nothing));
            peer.publish_live();
        }
        leaving
    }

    /// `ramp_from`: when its ramp begins, if it has one.
    fn write_added(&self, addition: &Addition<'_>, ramp_from: Option<MonoNs>) {
        let (Some(peer), Some(sockaddr)) = (self.peer(addition.record), addition.peer.added) else { return };
        peer.write_identity(sockaddr, addition.peer.name);
        peer.configured.weight.store(1, SeqCst);
        peer.configured.max_conns.store(0, SeqCst);
        peer.configured.lines.store(1, SeqCst);
        peer.write_overrides(addition.peer);
        if let Some(now) = ramp_from {
            peer.slow_start.begin(0, now);
        }
    }

    fn count_unknown(&self, overlay: &Overlay<'_>) -> u64 {
        let unknown = |named: &UpstreamOverlay<'_>| match self.upstream_find(named.name).and_then(|u| self.upstream(u))
        {
            Some(upstream) => named.peers.iter().filter(|peer| self.find(upstream, peer).is_none()).count() as u64,
            None => 1,
        };
        overlay.upstreams.iter().map(unknown).sum::<u64>() + self.classes_unknown(overlay.classes)
    }
}

/// Whether the entry `wanted` is about `peer`: the same name and, for a peer to add, the same
/// address or a declared one.
fn means(wanted: &PeerOverlay<'_>, peer: &Peer) -> bool {
    let same_address = |sockaddr| peer.configured.is(Configured::DECLARED) || peer.sockaddr.equals(sockaddr);
    peer.name.equals(wanted.name) && wanted.added.is_none_or(same_address)
}

/// Whether a linked peer goes when `peers` is applied: not declared, and not added any more.
fn leaves(peer: &Peer, peers: &[PeerOverlay<'_>]) -> bool {
    let added = peers.iter().any(|wanted| wanted.added.is_some() && means(wanted, peer));
    !peer.configured.is(Configured::DECLARED) && !added
}

fn position(overlay: &Overlay<'_>, upstream: &Upstream) -> Option<usize> {
    overlay.upstreams.iter().position(|named| upstream.name.equals(named.name))
}

fn check_upstreams(overlay: &Overlay<'_>) -> Result<(), OverlayError> {
    if overlay.upstreams.len() > UPSTREAMS_MAX {
        return Err(OverlayError::TooManyUpstreams { have: overlay.upstreams.len(), max: UPSTREAMS_MAX });
    }
    let mut names: Vec<&[u8]> = overlay.upstreams.iter().map(|named| named.name).collect();
    names.sort_unstable();
    for name in &names {
        check_name("an upstream", name)?;
    }
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(OverlayError::DuplicateUpstream { upstream: printable(pair[0]) }),
        None => Ok(()),
    }
}

fn check_peers(named: &UpstreamOverlay<'_>) -> Result<(), OverlayError> {
    let have = named.peers.len();
    if have > PEERS_MAX {
        return Err(ZoneError::TooManyPeers { upstream: printable(named.name), have, max: PEERS_MAX }.into());
    }
    for (index, peer) in named.peers.iter().enumerate() {
        let range = |what, value: u64, bounds| check_range(what, value, bounds, peer.name, named.name);
        check_name("a peer", peer.name)?;
        range("weight", peer.weight.unwrap_or(0).into(), (0, WEIGHT_MAX.into()))?;
        range("max_conns", peer.max_conns.unwrap_or(0).into(), (0, MAX_CONNS_MAX.into()))?;
        range("address length", peer.added.map_or(1, |sockaddr| sockaddr.len() as u64), SOCKADDR_RANGE)?;
        if named.peers[..index].iter().any(|earlier| earlier.name == peer.name) {
            return Err(OverlayError::DuplicatePeer { peer: printable(peer.name), upstream: printable(named.name) });
        }
    }
    Ok(())
}

impl Peer {
    fn write_overrides(&self, wanted: &PeerOverlay<'_>) {
        let plus_one = |value: Option<u32>| value.map_or(0, |value| value + 1);
        let own = &self.overrides;
        let fields: [(&AtomicU32, u32); 3] = [
            (&own.weight, plus_one(wanted.weight)),
            (&own.max_conns, plus_one(wanted.max_conns)),
            (&own.state, plus_one(wanted.state.map(|state| state as u32))),
        ];
        let mut changed = own.set_in.swap(wanted.set_in, SeqCst) != wanted.set_in;
        for (field, value) in fields {
            changed |= field.swap(value, SeqCst) != value;
        }
        own.added.store(u32::from(wanted.added.is_some()), SeqCst);
        if changed {
            self.breaker.due(Due::Set);
        }
    }
}
