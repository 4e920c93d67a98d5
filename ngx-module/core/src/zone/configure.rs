//! Puts what nginx.conf declares into the zone, at the start and again at every reload.
//!
//! Peers that stay keep all that was learned, counted and overridden; they are recognised by their
//! socket address. One whose breaker is open is due for its trial: who reloads may have mended it.
//! Checks everything before it changes anything, links new peers before it unlinks old ones
//! wherever the table has room, and never leaves an upstream without peers in between. By the
//! master only, under the caller's lock. Bound: [`PEERS_MAX`] peers per upstream, added ones
//! included.

use core::sync::atomic::Ordering::SeqCst;

use super::error::{ZoneError, printable};
use super::peer::{Configured, Live, MAX_CONNS_MAX, NAME_MAX, Peer, SOCKADDR_MAX, WEIGHT_MAX};
use super::ticket::Signal;
use super::{Layout, Upstream, UpstreamIdx, Zone};
use crate::breaker::Due;
use crate::pick::PEERS_MAX;
use crate::time::MonoNs;

/// One address of a `server` line.
#[derive(Clone, Copy, Debug)]
pub struct PeerSpec<'a> {
    /// Its socket address, 1 to [`SOCKADDR_MAX`] bytes.
    pub sockaddr: &'a [u8],
    /// Its text (`10.0.0.1:8080`), 1 to [`NAME_MAX`] bytes: what operators and the control plane
    /// call it.
    pub name: &'a [u8],
    /// The `server` parameter as written; cut to [`NAME_MAX`] bytes, for display only.
    pub server: &'a [u8],
    /// 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// 0 = unlimited, else up to [`MAX_CONNS_MAX`].
    pub max_conns: u32,
    /// nginx's meaning, if explicit.
    pub max_fails: u32,
    /// Whether `max_fails` or `fail_timeout` is written in nginx.conf; otherwise the breaker's own
    /// rule holds.
    pub max_fails_explicit: bool,
    /// nginx's meaning, ms.
    pub fail_timeout_ms: u32,
    /// Only when no primary is eligible.
    pub backup: bool,
    /// Out of service, unless the control plane sets a state.
    pub down: bool,
    /// `server` lines that name it: a request may be sent to it so often.
    pub lines: u32,
}

/// What the zone must know of an upstream besides its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `pincer_queue size=`; 0 = no queue. For display.
    pub queue_size: u32,
    /// `pincer_balance signal=`.
    pub signal: Signal,
}

/// Records that are free now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Upstream records.
    pub upstreams: usize,
    /// Peer records.
    pub peers: usize,
    /// Class records.
    pub classes: usize,
}

impl<'z> Zone<'z> {
    /// Records that are free, or will be after [`Self::retire`].
    pub fn room(&self) -> Room {
        let mut room = Room { upstreams: 0, peers: self.peers_free(), classes: self.classes_free() };
        for upstream in self.upstreams {
            if !upstream.is_used() {
                room.upstreams += 1;
            } else if self.is_retired(upstream) {
                room.upstreams += 1;
                room.peers += self.linked(upstream).count();
            }
        }
        room
    }

    /// Frees the upstreams and classes that only configurations had which no worker runs any more.
    /// After all of the new one's are reserved.
    pub fn retire(&self, now: MonoNs) {
        for upstream in self.upstreams.iter().filter(|upstream| upstream.is_used() && self.is_retired(upstream)) {
            self.empty(upstream);
        }
        self.retire_classes(now);
    }

    fn is_retired(&self, upstream: &Upstream) -> bool {
        let newest = self.header.generation();
        let oldest = self.oldest_generation().unwrap_or(newest).min(newest);
        upstream.generation.load(SeqCst) < oldest
    }

    fn empty(&self, upstream: &Upstream) {
        for at in 0..upstream.count() {
            self.unlink(upstream, at);
        }
        upstream.vacate();
    }

    /// The upstream called `name`, if the zone has it.
    pub fn upstream_find(&self, name: &[u8]) -> Option<UpstreamIdx> {
        let found = (0..).zip(self.upstreams).find(|(_, upstream)| upstream.is_used() && upstream.name.equals(name));
        found.map(|(index, _)| UpstreamIdx(index))
    }

    /// Finds or creates the upstream `name` and marks it as part of the newest configuration.
    ///
    /// An upstream that only configurations had which no worker runs any more makes room when none
    /// is free.
    pub fn upstream_reserve(&self, name: &[u8]) -> Result<UpstreamIdx, ZoneError> {
        check_name("an upstream", name)?;
        let generation = self.header.generation();
        if let Some(u) = self.upstream_find(name) {
            self.upstreams[usize::from(u.0)].generation.store(generation, SeqCst);
            return Ok(u);
        }
        let unused = |upstream: &Upstream| !upstream.is_used();
        let retired = |upstream: &Upstream| self.is_retired(upstream);
        let index = self.upstreams.iter().position(unused).or_else(|| self.upstreams.iter().position(retired));
        let Some(index) = index else {
            let have = self.upstreams.len();
            let need_bytes = Layout::bytes_for(have + 1, self.peers.len(), self.classes.len());
            return Err(ZoneError::UpstreamsFull { name: printable(name), have, need_bytes });
        };
        let upstream = &self.upstreams[index];
        self.empty(upstream);
        upstream.occupy(name, generation);
        Ok(UpstreamIdx(u16::try_from(index).unwrap_or(u16::MAX)))
    }

    /// Makes `declared` the configured peers of `u`. Peers that the control plane added stay.
    ///
    /// On an error nothing has changed. `now` starts the ramp of peers that join others which serve
    /// and stay.
    pub fn upstream_configure(
        &self,
        u: UpstreamIdx,
        settings: &Settings,
        declared: &[PeerSpec<'_>],
        now: MonoNs,
    ) -> Result<(), ZoneError> {
        let upstream = self.upstream(u).filter(|upstream| upstream.is_used());
        let upstream = upstream.ok_or(ZoneError::NoSuchUpstream { index: u.0 })?;
        let name = upstream.name.to_vec();
        for spec in declared {
            check_spec(&name, spec)?;
        }
        let plan = self.plan(upstream, declared);
        let have = declared.len() + plan.added;
        if have > PEERS_MAX {
            return Err(ZoneError::TooManyPeers { upstream: printable(&name), have, max: PEERS_MAX });
        }
        let reserved = self.reserve_peers(&name, plan.fresh.len())?;
        for (spec, peer) in &plan.stay {
            peer.write_spec_again(spec);
            peer.publish_live();
        }
        // A pool that is new as a whole does not ramp: nobody would serve.
        let is_running = self.serving(upstream).any(|(index, _)| !plan.leaving.contains(&index));
        let mut leaving = plan.leaving.into_iter();
        for (spec, at) in plan.fresh.iter().zip(reserved) {
            let Some(peer) = self.peer(at) else { continue };
            peer.write_identity(spec.sockaddr, spec.name);
            peer.write_spec(spec);
            if is_running {
                peer.slow_start.begin(0, now);
            }
            while !self.link(u, upstream, at) {
                let Some(index) = leaving.next() else { break };
                self.unlink(upstream, index);
            }
        }
        leaving.for_each(|index| self.unlink(upstream, index));
        self.trim(upstream);
        self.count_tries(upstream);
        self.apply_settings(upstream, settings);
        Ok(())
    }

    /// The primaries that take requests, as far as configuration decides: table index and record.
    pub(super) fn serving(&self, upstream: &'z Upstream) -> impl Iterator<Item = (usize, &'z Peer)> {
        let serves = |peer: &Peer| peer.live().takes() && !peer.live().is(Live::BACKUP);
        self.linked(upstream).filter(move |(_, _, peer)| serves(peer)).map(|(index, _, peer)| (index, peer))
    }

    fn apply_settings(&self, upstream: &'z Upstream, settings: &Settings) {
        upstream.queue_size.store(settings.queue_size, SeqCst);
        upstream.signal.store(settings.signal as u32, SeqCst);
        for (_, _, peer) in self.linked(upstream) {
            peer.publish_means(settings.signal);
        }
    }

    fn plan<'s>(&self, upstream: &'z Upstream, declared: &'s [PeerSpec<'s>]) -> Plan<'z, 's> {
        let mut linked: Vec<_> = self.linked(upstream).map(|(index, _, peer)| (index, peer)).collect();
        let mut plan = Plan::default();
        for spec in declared {
            match linked.iter().position(|(_, peer)| peer.sockaddr.equals(spec.sockaddr)) {
                Some(found) => plan.stay.push((spec, linked.remove(found).1)),
                None => plan.fresh.push(spec),
            }
        }
        for (index, peer) in linked {
            if peer.overrides.added.load(SeqCst) == 0 {
                plan.leaving.push(index);
            } else {
                plan.added += 1;
                peer.configured.flags.fetch_and(!Configured::DECLARED, SeqCst);
                peer.breaker.due(Due::Reloaded);
            }
        }
        plan
    }
}

/// What a configuration changes in one upstream.
#[derive(Default)]
struct Plan<'z, 's> {
    /// Peers that it keeps.
    stay: Vec<(&'s PeerSpec<'s>, &'z Peer)>,
    /// Peers that it does not have yet.
    fresh: Vec<&'s PeerSpec<'s>>,
    /// Table indices of the peers that it loses.
    leaving: Vec<usize>,
    /// Peers that stay because the control plane added them.
    added: usize,
}

impl Peer {
    /// Names a reserved record; the identity is what the consistent hash places.
    pub(super) fn write_identity(&self, sockaddr: &[u8], name: &[u8]) {
        self.sockaddr.store(sockaddr);
        self.name.store(name);
        self.server.store(name);
        self.identity.store(fnv1a(name), SeqCst);
    }

    /// [`Self::write_spec`] for a peer that stays.
    fn write_spec_again(&self, spec: &PeerSpec<'_>) {
        let rule = self.rule();
        self.write_spec(spec);
        if self.rule() == rule {
            self.breaker.due(Due::Reloaded);
        } else {
            self.breaker.rule_changed();
        }
    }

    fn write_spec(&self, spec: &PeerSpec<'_>) {
        let conf = &self.configured;
        self.server.store(spec.server);
        conf.weight.store(spec.weight, SeqCst);
        conf.max_conns.store(spec.max_conns, SeqCst);
        conf.max_fails.store(spec.max_fails, SeqCst);
        conf.fail_timeout_ms.store(spec.fail_timeout_ms, SeqCst);
        conf.lines.store(spec.lines, SeqCst);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = Configured::DECLARED
            | flag(spec.backup, Configured::BACKUP)
            | flag(spec.down, Configured::DOWN)
            | flag(spec.max_fails_explicit, Configured::FAILS_EXPLICIT);
        conf.flags.store(flags, SeqCst);
    }
}

/// FNV-1a, 64 bits: spreads a handful of names; not for anything that an attacker chooses.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Refuses an empty or overlong name.
pub(super) fn check_name(what: &'static str, name: &[u8]) -> Result<(), ZoneError> {
    if (1..=NAME_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(ZoneError::Name { what, name: printable(name), bytes: name.len(), max: NAME_MAX })
}

/// Refuses a number out of `min..=max`, naming the peer and upstream.
pub(super) fn check_range(
    what: &'static str,
    value: u64,
    (min, max): (u64, u64),
    peer: &[u8],
    upstream: &[u8],
) -> Result<(), ZoneError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ZoneError::Range { what, value, min, max, peer: printable(peer), upstream: printable(upstream) })
}

/// Bounds of a socket address's length.
pub(super) const SOCKADDR_RANGE: (u64, u64) = (1, SOCKADDR_MAX as u64);

/// Whether an upstream could be configured so in a zone with room: for the check of a
/// configuration, before there is a zone.
pub fn check_declared(upstream: &[u8], declared: &[PeerSpec<'_>]) -> Result<(), ZoneError> {
    check_name("an upstream", upstream)?;
    declared.iter().try_for_each(|spec| check_spec(upstream, spec))?;
    let have = declared.len();
    if have <= PEERS_MAX {
        return Ok(());
    }
    Err(ZoneError::TooManyPeers { upstream: printable(upstream), have, max: PEERS_MAX })
}

fn check_spec(upstream: &[u8], spec: &PeerSpec<'_>) -> Result<(), ZoneError> {
    let range = |what, value: u64, bounds| check_range(what, value, bounds, spec.name, upstream);
    check_name("a peer", spec.name)?;
    range("weight", spec.weight.into(), (1, WEIGHT_MAX.into()))?;
    range("max_conns", spec.max_conns.into(), (0, MAX_CONNS_MAX.into()))?;
    range("address length", spec.sockaddr.len() as u64, SOCKADDR_RANGE)
}
