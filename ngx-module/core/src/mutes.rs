//! Tells a peer that has stopped doing the work from one that is idle because it is fast: by the
//! rate of its mute answers.
//!
//! A *mute* answer is one that says nothing of speed: a 3xx or 4xx, an answer without a body. What
//! rate of them is usual depends on the clients, so a peer's is compared with the other peers' over
//! the same time: the test of two proportions with Yates' correction, one-sided at p < 0.001, over
//! the last hundred requests or so. One whose rate is unusual is unknown again ([`crate::pick`]):
//! whatever it was learned to be, that was at another work. It is not ejected.
//!
//! Nothing is counted but mute answers: requests are, elsewhere. The window is shortened when a
//! mute answer comes, all peers' alike, so other answers cost nothing. Pure. At equal rates chance
//! makes a peer unknown once in some thousand mute answers, and its next sample makes it known
//! again.

/// A window that has so many requests of one peer is shortened.
pub const WINDOW: u64 = 100;
/// Fewer requests of either side prove nothing.
const REQUESTS_MIN: u64 = 5;
/// The normal distribution's quantile for p = 0.001.
const Z: f64 = 3.09;

/// Requests that were answered, and the mute answers among them.
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
