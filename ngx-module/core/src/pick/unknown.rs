//! Peers without a sample: unknown, not fast.
//!
//! Whatever its reason (it is new; all it says is 404, 204 or a redirect), nothing is known of such
//! a peer's speed, so nothing speaks for it: not even that it is idle, which a peer that refuses at
//! once always is. Where others are known it gets its weight's part of the requests, counted and
//! not by load, at most one at a time until its first sample. A pool that is unknown as a whole is
//! served at full width by the rule.
//!
//! The part is kept by smooth weighted round robin, with the credits that [`super::share`] uses:
//! each stranger for itself, the known peers together as one. So a pool that becomes known one by
//! one is spread as exactly as nginx spreads it. Pure. Cost: a pass over the peers while one is
//! unknown, one comparison a peer otherwise.

use super::field::bits;
use super::share;
use super::view::{PeerSet, PeerView, has_slot};

/// The peers of `open` without a sample, if others have one.
#[inline]
pub(super) fn strangers(peers: &[PeerView], open: PeerSet) -> PeerSet {
    let unknown = bits(open).filter(|&i| peers[i].service_ns == 0).fold(0, |set: PeerSet, i| set | 1 << i);
    if unknown == open { 0 } else { unknown }
}

/// Whether nothing is under way that may give the first sample. (A WebSocket that is open does not
/// count: it has shown its signal and gives none.)
pub(super) const fn is_idle(peer: &PeerView) -> bool {
    peer.pending == 0 && has_slot(peer)
}

/// Whether an unknown peer is idle and not far ahead of its share.
pub(super) fn is_owed(peers: &[PeerView], open: PeerSet, i: usize) -> bool {
    let weights = bits(open).map(|i| u64::from(peers[i].weight)).sum();
    is_idle(&peers[i]) && !share::is_ahead(&peers[i], weights)
}

/// The idle one of `strangers` whose turn it is; `None` when it is the turn of a known peer.
///
/// All credits together are zero, so what the known ones have is what the strangers lack. (Their
/// own credits do not tell: among peers of unlike speed they are held at their bounds. Nor do those
/// of strangers that are being asked: they gain credit until their first sample.)
#[inline]
pub(super) fn whose_turn(peers: &[PeerView], open: PeerSet, strangers: PeerSet) -> Option<usize> {
    let credit = |i: usize| i128::from(peers[i].wrr_current);
    let weight = |i: usize| i128::from(peers[i].weight);
    let idle = || bits(strangers).filter(|&i| is_idle(&peers[i]));
    let stranger = idle().max_by_key(|&i| credit(i) + weight(i))?;
    let known = bits(open & !strangers).map(weight).sum::<i128>() - idle().map(credit).sum::<i128>();
    (credit(stranger) + weight(stranger) > known).then_some(stranger)
}
