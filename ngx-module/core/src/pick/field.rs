//! The peers a decision is made among, with the service time each is credited with.
//!
//! A peer that has no sample is credited with the median of those that have one; if none has, all are alike.

use super::{PEERS_MAX, PeerSet, PeerView, has_slot};
use crate::estimate::effective_ns;
use crate::time::MILLISECOND_NS;
use arrayvec::ArrayVec;

/// Service time credited to all when nobody has a sample, ns. Any constant does.
const UNLEARNED_NS: u64 = 100 * MILLISECOND_NS;
/// Peers within so many ns are ties whatever their ratio: less than that is the noise of scheduling, not a replica's speed.
const TIE_NS: u64 = 2 * MILLISECOND_NS;

/// Whether two service times are ties: within 25 % of the lesser, or within [`TIE_NS`].
pub(super) const fn is_tie(one_ns: u64, other_ns: u64) -> bool {
    let (low, high) = if one_ns < other_ns { (one_ns, other_ns) } else { (other_ns, one_ns) };
    high - low <= low / 4 || high - low <= TIE_NS
}

/// Indices of the bits that are set, rising.
pub(super) fn bits(mut set: PeerSet) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let i = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (i < PEERS_MAX).then_some(i)
    })
}

/// See the file's header.
pub(super) struct Field<'a> {
    pub(super) peers: &'a [PeerView],
    pub(super) set: PeerSet,
    service_ns: ArrayVec<u64, PEERS_MAX>,
    learned: bool,
    least_ns: u64,
}

impl<'a> Field<'a> {
    pub(super) fn new(peers: &'a [PeerView], set: PeerSet) -> Self {
        let mut field = Self { peers, set, service_ns: ArrayVec::new(), learned: false, least_ns: u64::MAX };
        let (mut any, mut all) = (false, true);
        for i in bits(set) {
            any |= peers[i].service_ns != 0;
            all &= peers[i].service_ns != 0;
        }
        field.learned = any;
        let default_ns = if all { 0 } else { median_ns(peers, set) };
        for (i, peer) in peers.iter().take(PEERS_MAX).enumerate() {
            let mean_ns = if peer.service_ns == 0 { default_ns } else { peer.service_ns };
            let service_ns = if any { effective_ns(mean_ns, peer.pending_age_ns) } else { UNLEARNED_NS };
            field.service_ns.push(service_ns);
            if set & (1 << i) != 0 {
                field.least_ns = field.least_ns.min(service_ns);
            }
        }
        field
    }

    /// Whether any peer has a sample.
    pub(super) fn is_learned(&self) -> bool {
        self.learned
    }

    /// Service time credited to peer `i`, ns.
    pub(super) fn service_ns(&self, i: usize) -> u64 {
        self.service_ns[i]
    }

    /// Whether peer `i` is three times as slow as it usually is: it may have been ill, and healed since.
    pub(super) fn is_degraded(&self, i: usize) -> bool {
        self.service_ns[i] / 3 > self.peers[i].usual_ns
    }

    /// The least credited service time, ns.
    pub(super) fn least_ns(&self) -> u64 {
        self.least_ns
    }

    /// Time a request holds a slot of peer `i`, ns; grows with S_eff when that grows by age.
    pub(super) fn hold_ns(&self, i: usize) -> u64 {
        self.peers[i].hold_ns.max(self.service_ns[i])
    }

    pub(super) fn is_free(&self, i: usize) -> bool {
        has_slot(&self.peers[i])
    }

    /// The eligible peers, beginning with a different one for each `turn`.
    pub(super) fn rotated(&self, turn: usize) -> impl Iterator<Item = usize> {
        let low = (1 << (turn % self.peers.len().clamp(1, PEERS_MAX))) - 1;
        bits(self.set & !low).chain(bits(self.set & low))
    }
}

fn median_ns(peers: &[PeerView], set: PeerSet) -> u64 {
    let mut known: ArrayVec<u64, PEERS_MAX> = bits(set).map(|i| peers[i].service_ns).filter(|&ns| ns != 0).collect();
    known.sort_unstable();
    known.get(known.len() / 2).copied().unwrap_or(UNLEARNED_NS)
}
