//! Rates as people write them, and the exact time between two requests that they mean.
//!
//! Knows no clock. Times of limits are [`Ticks`]: 64 to a nanosecond, so that the time between
//! requests is rounded by under 0.02 % up to ten million requests a second and by under 2 % up to
//! [`RATE_MAX`]; it is rounded down, so a client that keeps the rate exactly is never refused. A
//! zone's ticks last nine years of uptime; then they stand still and nothing is refused any more.

use crate::time::{MonoNs, SECOND_NS};

/// The highest rate, in requests per second or minute.
pub const RATE_MAX: u32 = 1_000_000_000;

/// Ticks of one nanosecond.
pub const TICKS_PER_NS: u64 = 64;

/// A moment or a span on the monotonic clock, in 1/64 ns.
pub type Ticks = u64;

/// The moment `now` in ticks.
#[inline]
#[must_use]
pub const fn ticks(now: MonoNs) -> Ticks {
    now.0.saturating_mul(TICKS_PER_NS)
}

/// A span of ticks in whole nanoseconds, rounded up, so that who waits so long has waited long
/// enough.
#[inline]
#[must_use]
pub const fn span_ns(span: Ticks) -> u64 {
    span.div_ceil(TICKS_PER_NS)
}

/// The time that a rate counts requests over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Per {
    /// `r/s`.
    #[default]
    Second,
    /// `r/m`.
    Minute,
}

impl Per {
    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }
}

/// Requests per time, exactly as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rate {
    /// 0 = unlimited, else up to [`RATE_MAX`].
    pub requests: u32,
    /// Per what.
    pub per: Per,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { requests: 0, per: Per::Second };

    /// `requests` per second.
    #[must_use]
    pub const fn per_second(requests: u32) -> Self {
        Self { requests, per: Per::Second }
    }

    /// `requests` per minute.
    #[must_use]
    pub const fn per_minute(requests: u32) -> Self {
        Self { requests, per: Per::Minute }
    }

    /// Time between two requests; 0 when the rate is unlimited, else at least 1.
    #[must_use]
    pub const fn interval(self) -> Ticks {
        if self.requests == 0 {
            return 0;
        }
        let interval = self.per.seconds() * SECOND_NS * TICKS_PER_NS / self.requests as u64;
        if interval == 0 { 1 } else { interval }
    }

    /// The rate as one word of the zone.
    pub(crate) const fn word(self) -> u64 {
        (matches!(self.per, Per::Minute) as u64) << 32 | self.requests as u64
    }

    /// The rate of a word; any word is one.
    pub(crate) const fn from_word(word: u64) -> Self {
        let per = if word >> 32 & 1 == 1 { Per::Minute } else { Per::Second };
        Self { requests: (word & 0xffff_ffff) as u32, per }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_rates_inverse_and_never_longer() {
        for rate in [1, 3, 7, 10, 999, 65_537, 1_000_000, 9_999_999].map(Rate::per_second) {
            let exact = 1e9 * TICKS_PER_NS as f64 / f64::from(rate.requests);
            let interval = rate.interval() as f64;
            assert!(interval <= exact && interval >= exact * 0.999_8, "{rate:?}: {interval} of {exact}");
        }
        assert_eq!(Rate::per_minute(1).interval(), 60 * SECOND_NS * TICKS_PER_NS);
        assert_eq!(Rate::per_second(RATE_MAX).interval(), 64);
        assert_eq!(Rate::UNLIMITED.interval(), 0);
    }

    #[test]
    fn a_rate_comes_back_from_its_word() {
        for rate in [Rate::UNLIMITED, Rate::per_second(RATE_MAX), Rate::per_minute(7)] {
            assert_eq!(Rate::from_word(rate.word()), rate);
        }
    }
}
