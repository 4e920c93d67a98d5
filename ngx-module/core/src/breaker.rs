//! Circuit breaker of one peer (placeholder header).

use crate::pick::Admission;
use crate::time::MonoNs;
use std::sync::atomic::AtomicU64;

/// When failures open the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Pincer's own: 3 in a row, or over half of the last ten; out for 1 s, doubling up to 32 s.
    Adaptive,
    /// nginx's: `max_fails` failures within `fail_timeout_ns` take the peer out for `fail_timeout_ns`.
    Counted {
        /// Failures that take it out; ≥ 1.
        max_fails: u32,
        /// Window and time out, ns.
        fail_timeout_ns: u64,
    },
    /// `max_fails=0`: never out.
    Off,
}

impl Rule {
    /// The rule of a `server` line: explicit `max_fails` or `fail_timeout` have nginx's meaning, otherwise the adaptive rule.
    #[must_use]
    pub fn of_server(explicit: bool, max_fails: u32, fail_timeout_ms: u32) -> Self {
        if !explicit {
            Self::Adaptive
        } else if max_fails == 0 {
            Self::Off
        } else {
            Self::Counted { max_fails, fail_timeout_ns: u64::from(fail_timeout_ms) * crate::time::MILLISECOND_NS }
        }
    }
}

/// State for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests flow.
    Closed,
    /// None flow until a time.
    Open,
    /// One request is let through, or about to be.
    HalfOpen,
}

/// The cell. All-zero bytes are a closed breaker without history.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Breaker {
    word: AtomicU64,
    until: AtomicU64,
    window: AtomicU64,
}

impl Breaker {
    /// A request succeeded; `trial` = it was the half-open one. Returns true if that closed the breaker (start the slow start then).
    pub fn success(&self, trial: bool, now: MonoNs) -> bool {
        let _ = (trial, now, &self.word, &self.until, &self.window);
        false
    }
    /// A request failed; returns true if that opened the breaker.
    pub fn failure(&self, trial: bool, rule: Rule, random: u64, now: MonoNs) -> bool {
        let _ = (trial, rule, random, now);
        false
    }
    /// A trial ended without verdict (client gone, 429): the next request may try.
    pub fn trial_void(&self) {}
    /// Whether requests may go to the peer.
    #[must_use]
    pub fn admission(&self, now: MonoNs) -> Admission {
        let _ = now;
        Admission::Open
    }
    /// Claims the one trial; exactly one caller gets true.
    pub fn begin_trial(&self, now: MonoNs) -> bool {
        let _ = now;
        true
    }
    /// State for display.
    #[must_use]
    pub fn state(&self, now: MonoNs) -> State {
        let _ = now;
        State::Closed
    }
    /// Closes it and forgets everything.
    pub fn reset(&self) {}
}
