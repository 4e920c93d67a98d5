//! Which peer a key belongs to: a consistent hash with bounded loads.
//!
//! Rendezvous hashing (Thaler and Ravishankar 1998) ranks the peers for a key by weighted scores,
//! without a ring to keep: a peer that comes or goes moves only its own keys, and a peer of weight
//! w owns w / Σw of them. Bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): a peer over 1.25 ×
//! its share of the requests in flight, this one included, or without a free slot, is passed over
//! for the next in rank, so a popular key spreads as far as it must. Does not look at speed: a slow
//! peer fills up and is passed over.
//!
//! Cost: one hash per peer, and a logarithm if weights differ.

use crate::pick::{PEERS_MAX, PeerSet, PeerView};

/// Load bound: times the mean, in quarters.
const BOUND_QUARTERS: u64 = 5;

/// The peer for `key` among `eligible`; None if all are full.
///
/// If every peer that has a free slot is over the bound (others are full), the best-ranked free one
/// is taken.
#[must_use]
pub fn choose(peers: &[PeerView], eligible: PeerSet, key: u64) -> Option<usize> {
    let members = || peers.iter().enumerate().filter(|&(i, _)| i < PEERS_MAX && eligible >> i & 1 == 1);
    let (mut load, mut weights, mut count, mut heaviest) = (1_u64, 0_u64, 0_u64, 0);
    for (_, peer) in members() {
        load += u64::from(peer.in_flight);
        weights += u64::from(peer.weight);
        count += 1;
        heaviest = heaviest.max(peer.weight);
    }
    let even = weights == count * u64::from(heaviest);
    let mut best: Option<(bool, f64, usize)> = None;
    for (i, peer) in members() {
        if peer.slots != 0 && peer.in_flight >= peer.slots {
            continue;
        }
        // 1.25 · load · share, rounded up: at least one request is always within the bound
        let due = (BOUND_QUARTERS * load).saturating_mul(u64::from(peer.weight));
        let rank = ((4 * weights).saturating_mul(u64::from(peer.in_flight)) < due, score(key, peer, even), i);
        if best.is_none_or(|other| (rank.0, rank.1) > (other.0, other.1)) {
            best = Some(rank);
        }
    }
    best.map(|(_, _, peer)| peer)
}

/// Weighted rendezvous score: weight / −ln(u), u uniform in (0, 1); with even weights u itself,
/// which has the same order.
fn score(key: u64, peer: &PeerView, even: bool) -> f64 {
    let uniform = ((mix(key ^ mix(peer.identity)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    if even { uniform } else { f64::from(peer.weight) / -uniform.ln() }
}

/// splitmix64's finaliser: every input bit changes every output bit with probability one half.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
