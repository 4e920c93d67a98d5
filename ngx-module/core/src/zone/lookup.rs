//! Small questions that the module asks outside the request path's hot loops. Reads only. Cost: linear in an upstream's peers.

use super::{BalanceParams, PeerIdx, Signal, Upstream, UpstreamIdx, Zone};
use crate::estimate::HALF_LIFE_NS;
use crate::pick::THETA;

impl Default for BalanceParams {
    /// What `pincer_balance` without parameters means.
    fn default() -> Self {
        Self { signal: Signal::FirstByte, half_life_ns: HALF_LIFE_NS, slow_start_ns: 0, theta: THETA }
    }
}

impl Upstream {
    /// Entries of its peer table: an upper bound of the peers that a request can try.
    pub fn peers_len(&self) -> usize {
        self.count()
    }
}

impl Zone<'_> {
    /// The peer of `u` that has this socket address.
    pub fn peer_find(&self, u: UpstreamIdx, sockaddr: &[u8]) -> Option<PeerIdx> {
        let upstream = self.upstream(u)?;
        let mut buffer = [0; super::SOCKADDR_MAX];
        self.linked(upstream).find(|(_, _, peer)| peer.sockaddr(&mut buffer) == sockaddr).map(|(_, at, _)| at)
    }
}
