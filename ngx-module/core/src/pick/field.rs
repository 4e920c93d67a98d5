//! The peers a decision is made among, with the service time each is credited with.
//!
//! Either all of them have a sample or none has ([`super::unknown`] looks after the mixed case);
//! without any all are alike.

use super::view::{PEERS_MAX, PeerSet, PeerView, has_slot};
use crate::estimate::{DEGRADED, effective_ns};
use crate::time::MILLISECOND_NS;
use arrayvec::ArrayVec;

/// Service time credited to all when nobody has a sample, ns. Any constant does.
const UNLEARNED_NS: u64 = 100 * MILLISECOND_NS;
/// Peers within so many ns are ties whatever their ratio: less than that is the noise of
/// scheduling, not a replica's speed.
const TIE_NS: u64 = 2 * MILLISECOND_NS;
/// As [`TIE_NS`], for a slower peer whose mean rests on a few samples: one of them may have met a
/// stall of this or of the replica's machine. Without it the first answer of a fast pool decides
/// about a peer until its next look, two seconds and some thousand requests later.
const STALL_NS: u64 = 50 * MILLISECOND_NS;
/// A mean whose standard error is over this part of it rests on a few samples.
const FEW_PART: u64 = 3;
/// Standard errors of the means that a difference must exceed to be believed.
const ERRORS: u64 = 2;
/// Standard errors of both means, for samples that vary as much as their mean, that a difference
/// must exceed if a request is to wait for longer than beside a peer of like speed;
const SURE_ERRORS: f64 = 2.0;
/// and samples of the slower and of the faster one, at least.
const SURE_SAMPLES: (u32, u32) = (4, 8);

/// Indices of the bits that are set, rising. By halves: the upper one is nearly always empty, and
/// half words are half the work.
#[inline]
pub(super) fn bits(set: PeerSet) -> impl Iterator<Item = usize> {
    let half = |shift: usize| {
        let mut left = u64::try_from(set >> shift & PeerSet::from(u64::MAX)).unwrap_or(0);
        std::iter::from_fn(move || {
            let i = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (i < 64).then_some(i + shift)
        })
    };
    half(0).chain(half(64))
}

/// See the file's header.
pub(super) struct Field<'a> {
    pub(super) peers: &'a [PeerView],
    pub(super) set: PeerSet,
    /// Those of `set` that are ties of the best.
    pub(super) like_best: PeerSet,
    service_ns: ArrayVec<u64, PEERS_MAX>,
    learned: bool,
    best: usize,
}

impl<'a> Field<'a> {
    #[inline]
    pub(super) fn new(peers: &'a [PeerView], set: PeerSet) -> Self {
        let mut field = Self { peers, set, like_best: 0, service_ns: ArrayVec::new(), learned: true, best: 0 };
        let mut least_ns = u64::MAX;
        for (i, peer) in peers.iter().take(PEERS_MAX).enumerate() {
            let service_ns = effective_ns(peer.service_ns, peer.pending_age_ns);
            field.service_ns.push(service_ns);
            if set >> i & 1 == 1 {
                field.learned &= peer.service_ns != 0;
                if service_ns < least_ns {
                    (least_ns, field.best) = (service_ns, i);
                }
            }
        }
        if !field.learned {
            field.service_ns.iter_mut().for_each(|service_ns| *service_ns = UNLEARNED_NS);
        }
        for i in bits(set) {
            field.like_best |= PeerSet::from(field.is_tie(i, field.best)) << i;
        }
        field
    }

    /// Whether the peers have samples.
    pub(super) fn is_learned(&self) -> bool {
        self.learned
    }

    /// Service time credited to peer `i`, ns.
    pub(super) fn service_ns(&self, i: usize) -> u64 {
        self.service_ns[i]
    }

    /// The peer of least credited service time; any index if the set is empty.
    pub(super) fn best(&self) -> usize {
        self.best
    }

    /// Whether two peers are of like speed: within 25 %, and twice the standard errors of the two
    /// means on top, but never beyond a factor of two; or within [`TIE_NS`], or within [`STALL_NS`]
    /// where few samples say so. Without the errors, chance would split equal peers of varied work
    /// into fast and slow ones.
    #[inline]
    pub(super) fn is_tie(&self, one: usize, other: usize) -> bool {
        let (low, high) = if self.service_ns[one] < self.service_ns[other] { (one, other) } else { (other, one) };
        let (low_ns, gap_ns) = (self.service_ns[low], self.service_ns[high] - self.service_ns[low]);
        let is_of_few = || self.peers[high].error_ns > self.service_ns[high] / FEW_PART;
        if gap_ns <= low_ns / 4 || gap_ns <= TIE_NS || (gap_ns <= STALL_NS && is_of_few()) {
            return true;
        }
        let beyond_ns = (gap_ns - low_ns / 4) / ERRORS;
        let (low_error_ns, high_error_ns) = (self.error_like_ns(low, high), self.peers[high].error_ns as f64);
        gap_ns < low_ns && (beyond_ns as f64).powi(2) <= low_error_ns * low_error_ns + high_error_ns * high_error_ns
    }

    /// Whether chance cannot be why `high` is slower than `low`: by what both usually are, and are
    /// now. One that has been asked little, was ill, or is better than usual proves nothing.
    pub(super) fn is_surely_slower(&self, high: usize, low: usize) -> bool {
        let (high_peer, low_peer) = (&self.peers[high], &self.peers[low]);
        if high_peer.samples < SURE_SAMPLES.0 || low_peer.samples < SURE_SAMPLES.1 {
            return false;
        }
        let error = |samples: u32| SURE_ERRORS / f64::from(samples).sqrt();
        let least_ns = self.service_ns[high].min(high_peer.usual_ns) as f64 * (1.0 - error(high_peer.samples)).max(0.5);
        let most_ns = self.service_ns[low].max(low_peer.usual_ns) as f64 * (1.0 + error(low_peer.samples));
        least_ns > 1.25 * most_ns
    }

    /// Standard error of the mean of `low` if it is that of `high` in truth: a peer that has met
    /// easy work so far has met work that varies little, too.
    fn error_like_ns(&self, low: usize, high: usize) -> f64 {
        let (low_ns, high_ns) = (self.service_ns[low].max(1) as f64, self.service_ns[high] as f64);
        self.peers[low].error_ns as f64 * high_ns / low_ns
    }

    /// Whether peer `i` is slower than it usually is: it may have been ill, and healed since.
    pub(super) fn is_degraded(&self, i: usize) -> bool {
        self.service_ns[i] as f32 > DEGRADED * self.peers[i].usual_ns as f32
    }

    /// Time a request holds a slot of peer `i`, ns; grows with S_eff when that grows by age.
    pub(super) fn hold_ns(&self, i: usize) -> u64 {
        self.peers[i].hold_ns.max(self.service_ns[i])
    }

    pub(super) fn is_free(&self, i: usize) -> bool {
        has_slot(&self.peers[i])
    }

    /// The peers of `set`, beginning with a different one for each `turn`.
    pub(super) fn rotated(&self, set: PeerSet, turn: u64) -> impl Iterator<Item = usize> {
        let low = (1 << (turn % self.peers.len().clamp(1, PEERS_MAX) as u64)) - 1;
        bits(set & !low).chain(bits(set & low))
    }
}
