//! What a class can be told, from nginx.conf or the control plane, and the ranges of it.
//!
//! One struct serves both: each field may be left out. Decides nothing; checks ranges. Bound: the
//! constants.

use super::rate::{RATE_MAX, Rate};

/// Priority of a class that sets none, and of a request without a class. The lower number goes
/// first.
pub const PRIORITY_DEFAULT: u8 = 100;
/// Share of a class that sets none, in percent, as far as the classes that set one leave so much.
pub const SHARE_DEFAULT: u8 = 5;
/// The highest burst, delay, concurrency and queue bound.
pub const COUNT_MAX: u32 = 1_000_000;
/// Delay of a class that delays nobody: nginx's `nodelay`.
pub const DELAY_NONE: u32 = u32::MAX;
/// The highest bandwidth, bytes per second: 1 TiB.
pub const BANDWIDTH_MAX: u64 = 1 << 40;
/// The highest share, and the highest sum of all shares that are set, in percent.
pub const SHARE_MAX: u8 = 100;
/// The longest queue timeout, ms: a day.
pub const QUEUE_TIMEOUT_MS_MAX: u32 = 86_400_000;

/// Fields of [`ClassSettings`], in the order of its words.
pub(crate) const FIELDS: usize = 9;

/// A class' settings; `None` = not said here, so what lies beneath holds: nginx.conf under the
/// control plane, the defaults under nginx.conf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSettings {
    /// Requests let in per time and key. Default: unlimited.
    pub rate: Option<Rate>,
    /// 0 to [`COUNT_MAX`]: requests above the rate that are not refused. Default 0.
    pub burst: Option<u32>,
    /// Of the burst, requests that pass at once; those after them wait as long as the rate demands.
    /// 0 (the default) = all wait, as with nginx's `limit_req`; [`DELAY_NONE`] = none waits, as
    /// with `nodelay`; else up to [`COUNT_MAX`].
    pub delay: Option<u32>,
    /// 0 (unlimited, the default) to [`COUNT_MAX`]: requests at once per key.
    pub concurrency: Option<u32>,
    /// 0 (unlimited, the default) to [`BANDWIDTH_MAX`]: bytes per second per key, over all its
    /// responses.
    pub bandwidth: Option<u64>,
    /// The lower one leaves a queue first. Default [`PRIORITY_DEFAULT`].
    pub priority: Option<u8>,
    /// 0 to [`SHARE_MAX`] percent of the slots that the class gets even if others go first. Default
    /// [`SHARE_DEFAULT`].
    pub share: Option<u8>,
    /// 0 (as many as the queue holds, the default) to [`COUNT_MAX`]: requests of the class that may
    /// wait in one queue.
    pub queue: Option<u32>,
    /// 0 (as long as the queue lets them, the default) to [`QUEUE_TIMEOUT_MS_MAX`]: how long they
    /// may wait, ms.
    pub queue_timeout_ms: Option<u32>,
}

/// A field out of range: its name, its value, and the most allowed.
pub(crate) type OutOfRange = (&'static str, u64, u64);

impl ClassSettings {
    /// The first field that is out of range.
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        let delay = self.delay.filter(|&delay| delay != DELAY_NONE);
        let count = |value: Option<u32>| u64::from(value.unwrap_or(0));
        let fields = [
            ("rate", count(self.rate.map(|rate| rate.requests)), RATE_MAX.into()),
            ("burst", count(self.burst), COUNT_MAX.into()),
            ("delay", count(delay), COUNT_MAX.into()),
            ("concurrency", count(self.concurrency), COUNT_MAX.into()),
            ("bandwidth", self.bandwidth.unwrap_or(0), BANDWIDTH_MAX),
            ("share", self.share.unwrap_or(0).into(), SHARE_MAX.into()),
            ("queue", count(self.queue), COUNT_MAX.into()),
            ("queue_timeout", count(self.queue_timeout_ms), QUEUE_TIMEOUT_MS_MAX.into()),
        ];
        fields.into_iter().find(|(_, value, max)| value > max).map_or(Ok(()), Err)
    }

    /// These settings where they say something, else those `beneath`.
    #[must_use]
    pub fn over(&self, beneath: &Self) -> Self {
        Self {
            rate: self.rate.or(beneath.rate),
            burst: self.burst.or(beneath.burst),
            delay: self.delay.or(beneath.delay),
            concurrency: self.concurrency.or(beneath.concurrency),
            bandwidth: self.bandwidth.or(beneath.bandwidth),
            priority: self.priority.or(beneath.priority),
            share: self.share.or(beneath.share),
            queue: self.queue.or(beneath.queue),
            queue_timeout_ms: self.queue_timeout_ms.or(beneath.queue_timeout_ms),
        }
    }

    pub(crate) fn words(&self) -> [Option<u64>; FIELDS] {
        [
            self.rate.map(Rate::word),
            self.burst.map(u64::from),
            self.delay.map(u64::from),
            self.concurrency.map(u64::from),
            self.bandwidth,
            self.priority.map(u64::from),
            self.share.map(u64::from),
            self.queue.map(u64::from),
            self.queue_timeout_ms.map(u64::from),
        ]
    }

    pub(crate) fn from_words(words: [Option<u64>; FIELDS]) -> Self {
        let [rate, burst, delay, concurrency, bandwidth, priority, share, queue, timeout] = words;
        let count = |word: Option<u64>| word.map(|word| u32::try_from(word).unwrap_or(u32::MAX));
        let small = |word: Option<u64>| word.map(|word| u8::try_from(word).unwrap_or(u8::MAX));
        Self {
            rate: rate.map(Rate::from_word),
            burst: count(burst),
            delay: count(delay),
            concurrency: count(concurrency),
            bandwidth,
            priority: small(priority),
            share: small(share),
            queue: count(queue),
            queue_timeout_ms: count(timeout),
        }
    }
}

/// What is in force for a class: every field has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Requests per time; 0 = unlimited.
    pub rate: Rate,
    /// Requests above the rate.
    pub burst: u32,
    /// Of these, those that pass at once; [`DELAY_NONE`] = all.
    pub delay: u32,
    /// 0 = unlimited.
    pub concurrency: u32,
    /// Bytes per second; 0 = unlimited.
    pub bandwidth: u64,
    /// The lower one goes first.
    pub priority: u8,
    /// Percent of the slots. The sum over all classes is at most 100.
    pub share: u8,
    /// 0 = no bound of its own.
    pub queue: u32,
    /// 0 = none of its own.
    pub queue_timeout_ms: u32,
}

impl ClassSettings {
    /// The settings with the defaults beneath; `share_default` is that of a class that sets none.
    pub(crate) fn effective(&self, share_default: u8) -> Effective {
        Effective {
            rate: self.rate.unwrap_or(Rate::UNLIMITED),
            burst: self.burst.unwrap_or(0),
            delay: self.delay.unwrap_or(0),
            concurrency: self.concurrency.unwrap_or(0),
            bandwidth: self.bandwidth.unwrap_or(0),
            priority: self.priority.unwrap_or(PRIORITY_DEFAULT),
            share: self.share.unwrap_or(share_default).min(SHARE_MAX),
            queue: self.queue.unwrap_or(0),
            queue_timeout_ms: self.queue_timeout_ms.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_from_their_words() {
        let full = ClassSettings {
            rate: Some(Rate::per_minute(90)),
            burst: Some(0),
            delay: Some(DELAY_NONE),
            concurrency: Some(COUNT_MAX),
            bandwidth: Some(BANDWIDTH_MAX),
            priority: Some(255),
            share: Some(0),
            queue: Some(7),
            queue_timeout_ms: Some(QUEUE_TIMEOUT_MS_MAX),
        };
        for settings in [full, ClassSettings::default()] {
            assert_eq!(ClassSettings::from_words(settings.words()), settings);
            assert_eq!(settings.check(), Ok(()));
        }
        assert_eq!(full.over(&ClassSettings { priority: Some(1), ..ClassSettings::default() }), full);
        assert_eq!(ClassSettings::default().over(&full), full);
    }

    #[test]
    fn the_first_field_out_of_range_is_named_with_its_value_and_bound() {
        let wrong = ClassSettings { burst: Some(COUNT_MAX + 1), share: Some(101), ..ClassSettings::default() };
        assert_eq!(wrong.check(), Err(("burst", 1_000_001, 1_000_000)));
        let wrong = ClassSettings { share: Some(101), ..ClassSettings::default() };
        assert_eq!(wrong.check(), Err(("share", 101, 100)));
    }
}
