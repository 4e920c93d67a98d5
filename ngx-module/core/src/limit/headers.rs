//! What clients are told of a rate limit: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10, structured fields), `Retry-After`, and OpenAI's
//! `x-ratelimit-…-requests`.
//!
//! A policy is the rate over the smallest whole number of its unit that holds a burst: `10r/s` with
//! a burst of 20 is `q=30;w=3`, so that the remaining requests never exceed it and who keeps to it
//! is never refused. Writes into what it is given; allocates nothing. Cost: linear in the limits.

use core::fmt::{self, Write};

use super::gcra::Gcra;
use super::rate::{Rate, Ticks};
use crate::time::{MILLISECOND_NS, SECOND_NS};

/// One limit by rate as a client sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Requests per window: the policy's `q`, and `x-ratelimit-limit-requests`.
    pub limit: u64,
    /// The window, s: the policy's `w`.
    pub window_s: u64,
    /// Requests that would be let in now: `r`, and `x-ratelimit-remaining-requests`.
    pub remaining: u64,
    /// Time until all of the burst is there again, or for a refused request until it may come
    /// again, ns: `t`, and `x-ratelimit-reset-requests`.
    pub reset_ns: u64,
}

impl Quota {
    /// The view of a key whose TAT is `tat` at `now`; `None` for an unlimited rate.
    #[must_use]
    pub fn of(rate: Rate, gcra: &Gcra, tat: Ticks, now: Ticks) -> Option<Self> {
        let requests = u64::from(rate.requests);
        if requests == 0 {
            return None;
        }
        let units = (u64::from(gcra.burst) + 1).div_ceil(requests);
        Some(Self {
            limit: requests * units,
            window_s: rate.per.seconds() * units,
            remaining: gcra.remaining(tat, now),
            reset_ns: Gcra::reset_ns(tat, now),
        })
    }

    /// `t` in whole seconds, rounded up.
    #[must_use]
    pub const fn reset_s(&self) -> u64 {
        self.reset_ns.div_ceil(SECOND_NS)
    }
}

/// The value of `RateLimit-Policy`: `"vip";q=30;w=3, "default";q=10;w=1`. Nothing for no limits.
pub fn write_policy(out: &mut impl Write, limits: &[(&[u8], Quota)]) -> fmt::Result {
    for (index, (class, quota)) in limits.iter().enumerate() {
        out.write_str(if index == 0 { "" } else { ", " })?;
        write_name(out, class)?;
        write!(out, ";q={};w={}", quota.limit, quota.window_s)?;
    }
    Ok(())
}

/// The value of `RateLimit`: `"vip";r=4;t=2, "default";r=0;t=1`. Nothing for no limits.
pub fn write_state(out: &mut impl Write, limits: &[(&[u8], Quota)]) -> fmt::Result {
    for (index, (class, quota)) in limits.iter().enumerate() {
        out.write_str(if index == 0 { "" } else { ", " })?;
        write_name(out, class)?;
        write!(out, ";r={};t={}", quota.remaining, quota.reset_s())?;
    }
    Ok(())
}

/// `Retry-After` in whole seconds: rounded up, at least 1.
#[must_use]
pub const fn retry_after_s(ns: u64) -> u64 {
    let seconds = ns.div_ceil(SECOND_NS);
    if seconds == 0 { 1 } else { seconds }
}

/// The value of `x-ratelimit-reset-requests`, as Go prints durations: `1h2m3s`, `6m0s`, `1.5s`,
/// `20ms`, `0s`. Rounded up to a millisecond.
pub fn go_duration(out: &mut impl Write, ns: u64) -> fmt::Result {
    let ms = ns.div_ceil(MILLISECOND_NS);
    if ms > 0 && ms < 1_000 {
        return write!(out, "{ms}ms");
    }
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    if hours > 0 {
        write!(out, "{hours}h")?;
    }
    if hours > 0 || minutes > 0 {
        write!(out, "{minutes}m")?;
    }
    write!(out, "{}", rest / 1_000)?;
    let (mut fraction, mut digits) = (rest % 1_000, 3_usize);
    while digits > 0 && fraction % 10 == 0 {
        fraction /= 10;
        digits -= 1;
    }
    if digits > 0 {
        write!(out, ".{fraction:0digits$}")?;
    }
    out.write_char('s')
}

/// A structured field's string; what it cannot hold is `?`.
fn write_name(out: &mut impl Write, name: &[u8]) -> fmt::Result {
    out.write_char('"')?;
    for &byte in name {
        match byte {
            b'"' | b'\\' => write!(out, "\\{}", char::from(byte))?,
            b' '..=b'~' => out.write_char(char::from(byte))?,
            _ => out.write_char('?')?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::super::settings::DELAY_NONE;
    use super::*;

    fn quota(rate: Rate, burst: u32, used: u64) -> Quota {
        let gcra = Gcra { interval: rate.interval(), burst, delay: DELAY_NONE };
        let now = 1 << 40;
        Quota::of(rate, &gcra, now + used * gcra.interval, now).unwrap()
    }

    #[test]
    fn a_policy_is_the_rate_over_a_window_that_holds_the_burst() {
        let windows = [
            (Rate::per_second(10), 20, (30, 3)),
            (Rate::per_second(10), 9, (10, 1)),
            (Rate::per_second(10), 0, (10, 1)),
            (Rate::per_minute(7), 0, (7, 60)),
            (Rate::per_minute(1), 2, (3, 180)),
        ];
        for (rate, burst, window) in windows {
            let quota = quota(rate, burst, 0);
            assert_eq!((quota.limit, quota.window_s), window);
            assert_eq!((quota.remaining, quota.reset_ns), (u64::from(burst) + 1, 0));
            assert!(quota.remaining <= quota.limit);
        }
        assert_eq!(Quota::of(Rate::UNLIMITED, &Gcra { interval: 0, burst: 0, delay: 0 }, 0, 0), None);
    }

    #[test]
    fn the_fields_are_structured_lists_of_strings_with_parameters() {
        let limits =
            [(&b"vip"[..], quota(Rate::per_second(10), 20, 17)), (b"a\"b\\\xc3", quota(Rate::per_minute(60), 0, 1))];
        let (mut policy, mut state) = (String::new(), String::new());
        write_policy(&mut policy, &limits).unwrap();
        write_state(&mut state, &limits).unwrap();
        assert_eq!(policy, r#""vip";q=30;w=3, "a\"b\\?";q=60;w=60"#);
        assert_eq!(state, r#""vip";r=4;t=2, "a\"b\\?";r=0;t=1"#);
        let mut none = String::new();
        write_policy(&mut none, &[]).unwrap();
        assert_eq!(none, "");
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ms"),
            (20 * MILLISECOND_NS, "20ms"),
            (1_500 * MILLISECOND_NS, "1.5s"),
            (SECOND_NS, "1s"),
            (360 * SECOND_NS, "6m0s"),
            (3_723 * SECOND_NS + 40 * MILLISECOND_NS, "1h2m3.04s"),
            (999 * MILLISECOND_NS + 1, "1s"),
        ] {
            let mut out = String::new();
            go_duration(&mut out, ns).unwrap();
            assert_eq!(out, text);
        }
        assert_eq!((retry_after_s(0), retry_after_s(1), retry_after_s(SECOND_NS + 1)), (1, 1, 2));
    }
}
