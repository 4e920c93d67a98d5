//! How long a request may wait beside a free slot of like speed.
//!
//! For a short time it does, where the shares by weight say that another peer's turn is next
//! ([`super::share`]), or where the free slot is that of a peer whose speed nobody knows. The bound
//! is the greater of [`PATIENCE_NS`] and a tenth of the service time; it counts from the moment at
//! which the request, or one behind it, began to wait, and holds even if nothing else happens:
//! [`look_again_ns`] says when to look. Pure.

use super::field::bits;
use super::{Demand, PeerView, Ranks, has_slot};
use crate::time::MILLISECOND_NS;

/// Nobody waits less long than this beside a free slot, if shares are to be kept by it, ns.
const PATIENCE_NS: u64 = 50 * MILLISECOND_NS;
/// The part of a service time that a request may wait beside a free slot.
const PART: u64 = 10;

const fn bound_ns(peer: &PeerView) -> u64 {
    let part_ns = peer.service_ns / PART;
    if part_ns > PATIENCE_NS { part_ns } else { PATIENCE_NS }
}

/// Whether the request has waited long enough beside the free slot of `peer`.
pub(super) const fn is_over(peer: &PeerView, demand: &Demand) -> bool {
    demand.waited_ns >= bound_ns(peer)
}

/// After what time a request that waits is to be looked at again though nothing happens, ns: when
/// the first bound beside a free slot runs out.
#[must_use]
pub fn look_again_ns(peers: &[PeerView], demand: &Demand) -> Option<u64> {
    let ranks = Ranks::of(peers, demand.tried);
    let open = if ranks.open == 0 { ranks.backup } else { ranks.open };
    let left = |i: usize| bound_ns(&peers[i]).checked_sub(demand.waited_ns).filter(|&ns| ns > 0);
    bits(open).filter(|&i| has_slot(&peers[i])).filter_map(left).min()
}
