//! Small questions that the module asks outside the request path's hot loops. Cost: linear in an
//! upstream's peers.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{BalanceParams, Peer, PeerIdx, Signal, Upstream, UpstreamIdx, Zone};
use crate::estimate::HALF_LIFE_NS;
use crate::pick::{Admission, PeerSet, THETA, WHY_NAMES};
use crate::time::MonoNs;

/// Peers that [`Zone::pick_text`] names.
const FULL_NAMES_MAX: usize = 4;

impl Default for BalanceParams {
    /// What `pincer_balance` without parameters means.
    fn default() -> Self {
        Self { signal: Signal::FirstByte, half_life_ns: HALF_LIFE_NS, slow_start_ns: 0, theta: THETA }
    }
}

impl Upstream {
    /// Attempts that a request may make, at least one. A `server` line that is written again counts
    /// again, as it does for nginx's round robin; a peer that takes no requests does not count.
    pub fn tries(&self) -> u32 {
        self.tries.load(Relaxed).max(1)
    }
}

impl Peer {
    /// `server` lines that name it.
    fn lines(&self) -> u32 {
        self.configured.lines.load(Relaxed).max(1)
    }
}

impl<'a> Zone<'a> {
    /// The upstream at `u`; `None` for an index that this zone never gave out.
    pub fn upstream(&self, u: UpstreamIdx) -> Option<&'a Upstream> {
        self.upstreams.get(usize::from(u.0))
    }

    /// The peer at `p`; `None` for an index that this zone never gave out.
    pub fn peer(&self, p: PeerIdx) -> Option<&'a Peer> {
        self.peers.get(usize::from(p.0))
    }
}

impl Zone<'_> {
    /// Counts an upstream's tries anew, after a change of its peers.
    pub(super) fn count_tries(&self, upstream: &Upstream) {
        let taking = self.linked(upstream).filter(|(_, _, peer)| peer.live().takes());
        let tries = taking.fold(0, |sum: u32, (_, _, peer)| sum.saturating_add(peer.lines()));
        upstream.tries.store(tries, SeqCst);
    }

    /// A request of `u` has been sent to the peers `tried`, to each of them `round` times or, if
    /// none has so many lines, less often. The peers that are not for it in the next round: those
    /// without another line. `None` while a peer is left in this round, or none is in the next.
    pub fn next_round(&self, u: UpstreamIdx, tried: PeerSet, round: u32) -> Option<PeerSet> {
        let upstream = self.upstream(u)?;
        let taking = || self.linked(upstream).filter(|(_, _, peer)| peer.live().takes());
        if taking().any(|(index, _, _)| tried >> index & 1 == 0) {
            return None;
        }
        let spent = taking().filter(|(_, _, peer)| peer.lines() <= round);
        let spent = spent.fold(0, |set: PeerSet, (index, _, _)| set | 1 << index);
        (spent != tried).then_some(spent)
    }

    /// Whether `u` has a peer besides `index` that was not `tried` and whose breaker lets requests
    /// in.
    pub fn has_another(&self, u: UpstreamIdx, tried: PeerSet, index: u8, now: MonoNs) -> bool {
        self.upstream(u).is_some_and(|upstream| {
            let mut others = self.linked(upstream).filter(|(other, _, _)| *other != usize::from(index));
            others.any(|(other, _, peer)| {
                tried >> other & 1 == 0 && peer.live().takes() && peer.breaker.admission(now) == Admission::Open
            })
        })
    }

    /// Appends why a peer was picked, a word of [`WHY_NAMES`] by its index, and which peers of
    /// which upstream were full: `fastest;full=10.0.0.1:80+10.0.0.2:80`. Names of
    /// [`FULL_NAMES_MAX`], then the number of the others. They are the names that the peers have
    /// now.
    pub fn pick_text(&self, why: Option<usize>, full: Option<(UpstreamIdx, PeerSet)>, text: &mut String) {
        text.push_str(why.and_then(|why| WHY_NAMES.get(why)).unwrap_or(&"-"));
        let Some((upstream, set)) = full.and_then(|(u, set)| Some((self.upstream(u)?, set))) else { return };
        let mut name = [0; super::NAME_MAX];
        let full = self.linked(upstream).filter(|(index, _, _)| set >> index & 1 == 1);
        for (count, (_, _, peer)) in full.take(FULL_NAMES_MAX).enumerate() {
            text.push_str(if count == 0 { ";full=" } else { "+" });
            text.push_str(&String::from_utf8_lossy(peer.name(&mut name)));
        }
        let others = (set.count_ones() as usize).saturating_sub(FULL_NAMES_MAX);
        if others > 0 {
            text.push('+');
            text.push_str(&others.to_string());
        }
    }

    /// The peer of `u` that has this socket address.
    pub fn peer_find(&self, u: UpstreamIdx, sockaddr: &[u8]) -> Option<PeerIdx> {
        let upstream = self.upstream(u)?;
        let mut buffer = [0; super::SOCKADDR_MAX];
        self.linked(upstream).find(|(_, _, peer)| peer.sockaddr(&mut buffer) == sockaddr).map(|(_, at, _)| at)
    }
}
