//! How long a request may wait beside a free slot of like speed.
//!
//! For a short time it does, where the shares by weight say that another peer's turn is next
//! ([`super::share`]), or where the free slot is that of a peer whose speed nobody knows. The bound
//! is the greater of [`PATIENCE_NS`] and a tenth of the service time; it counts from the moment at
//! which the request, or one behind it, began to wait, and holds even if nothing else happens:
//! [`look_again_ns`] says when to look. Pure.

use super::field::bits;
use super::ranks::Ranks;
use super::view::{Demand, PeerView, has_slot};
use crate::time::MILLISECOND_NS;

/// The bound on a wait beside a free slot, if services are short: 50 ms, less what an event loop
/// may be late by, ns.
const PATIENCE_NS: u64 = 45 * MILLISECOND_NS;
/// The part of a service time that a request may wait beside a free slot: a tenth, less the same.
const PART: u64 = 11;

const fn bound_ns(service_ns: u64) -> u64 {
    let part_ns = service_ns / PART;
    if part_ns > PATIENCE_NS { part_ns } else { PATIENCE_NS }
}

/// Whether the request has waited long enough beside a free slot; `service_ns` is that of the
/// fastest peer of like speed.
pub(super) const fn is_over(service_ns: u64, demand: &Demand) -> bool {
    demand.waited_ns >= bound_ns(service_ns)
}

/// After what time a request that waits is to be looked at again though nothing happens, ns: when
/// the first bound beside a free slot runs out.
#[must_use]
pub fn look_again_ns(peers: &[PeerView], demand: &Demand) -> Option<u64> {
    let ranks = Ranks::of(peers, demand.tried);
    let open = if ranks.open == 0 { ranks.backup } else { ranks.open };
    let is_any_free = bits(open).any(|i| has_slot(&peers[i]));
    // Of full ones too: one of them may be the fastest of its like.
    let left = |i: usize| bound_ns(peers[i].service_ns).checked_sub(demand.waited_ns).filter(|&ns| ns > 0);
    bits(open).filter(|_| is_any_free).filter_map(left).min()
}
