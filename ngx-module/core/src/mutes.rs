//! Tells a peer that has stopped doing the work from one that is idle because it is fast: by the
//! rate of its mute responses.
//!
//! A *mute* response is one that says nothing of speed: a 3xx or 4xx, a response without a body.
//! What rate of them is usual depends on the clients, so a peer's is compared with the other peers'
//! over the same time: the test of two proportions with Yates' correction, one-sided at p < 0.001,
//! over the last hundred requests or so. One whose rate is unusual is unknown again
//! ([`crate::pick`]): whatever it was learned to be, that was at another work. It is not ejected.
//!
//! Nothing is counted but mute responses: requests are, elsewhere. The window is shortened when a
//! mute response comes, all peers' alike, so other responses cost nothing. Pure. At equal rates
//! chance makes a peer unknown once in some thousand mute responses, and its next sample makes it
//! known again.

use crate::time::MonoNs;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A window that has so many requests of one peer is shortened.
pub const WINDOW: u64 = 100;
/// Fewer requests of either side prove nothing.
const REQUESTS_MIN: u64 = 5;
/// The normal distribution's quantile for p = 0.001.
const Z: f64 = 3.09;

/// Requests that were answered, and the mute responses among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers.
    pub answered: u64,
    /// Of these, the mute ones.
    pub mute: u64,
}

impl Tally {
    /// Of what was counted since `base`.
    #[must_use]
    pub fn since(self, base: Self) -> Self {
        let answered = self.answered.saturating_sub(base.answered);
        Self { answered, mute: self.mute.saturating_sub(base.mute).min(answered) }
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { answered: self.answered + other.answered, mute: self.mute + other.mute }
    }

    /// Where to count from so that this window is as long as one in which the busiest peer has
    /// `WINDOW / 2` requests and now has `busiest`.
    #[must_use]
    pub fn shortened(self, window: Self, busiest: u64) -> Self {
        let keep = |count: u64| count.saturating_mul(WINDOW / 2) / busiest.max(1);
        let base = |count: u64, window: u64| count.saturating_sub(keep(window));
        Self { answered: base(self.answered, window.answered), mute: base(self.mute, window.mute) }
    }
}

/// A peer's mute responses. All-zero bytes are a valid start.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Mutes {
    /// All of them.
    count: AtomicU64,
    /// Where the window begins.
    base_answered: AtomicU64,
    base_mute: AtomicU64,
    /// When the peer was made unknown for the last time, ns; 0 = never.
    unknown_at: AtomicU64,
}

impl Mutes {
    /// One more.
    pub fn add(&self) {
        self.count.fetch_add(1, Relaxed);
    }

    /// All of them so far.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Where the window begins.
    pub fn base(&self) -> Tally {
        Tally { answered: self.base_answered.load(Relaxed), mute: self.base_mute.load(Relaxed) }
    }

    /// Begins the window at `base`. A lost race shifts it.
    pub fn set_base(&self, base: Tally) {
        self.base_answered.store(base.answered, Relaxed);
        self.base_mute.store(base.mute, Relaxed);
    }

    /// The peer is made unknown at `now`.
    pub fn set_unknown(&self, now: MonoNs) {
        self.unknown_at.store(now.0, Relaxed);
    }

    /// Whether the peer was made unknown after this moment: what was asked before is of the work
    /// that it did then.
    #[inline]
    pub fn is_outdated(&self, start: MonoNs) -> bool {
        start.0 < self.unknown_at.load(Relaxed)
    }

    /// Forgets all.
    pub fn reset(&self) {
        self.unknown_at.store(0, Relaxed);
        self.count.store(0, Relaxed);
        self.set_base(Tally::default());
    }
}

/// Whether `peer` is mute more often than `others` by more than chance.
#[must_use]
pub fn is_unusual(peer: Tally, others: Tally) -> bool {
    if peer.answered < REQUESTS_MIN || others.answered < REQUESTS_MIN {
        return false;
    }
    let (n, m) = (peer.answered as f64, others.answered as f64);
    let pooled = (peer.mute + others.mute) as f64 / (n + m);
    let gap = peer.mute as f64 / n - others.mute as f64 / m - (1.0 / n + 1.0 / m) / 2.0;
    gap > Z * (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt()
}
