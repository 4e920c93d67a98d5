//! Slow start of one peer: a new or recovered replica gets one request at a time, then two, four, …
//! as each succeeds.
//!
//! A cold replica (empty caches, weights still loading) that is handed its full share at once fails
//! again. The limit doubles with every success (the first token, a WebSocket's 101: not the end of
//! the stream) until `max_conns`, or [`SANE`] without one; `slow_start=TIME` holds it under a
//! straight line over that time as well. What a peer has in flight when its ramp begins does not
//! count against it: a trial that streams for minutes holds nothing back. A pool that is new as a
//! whole does not ramp: nobody would serve.
//!
//! Cost: one load when not ramping. All-zero bytes: not ramping. Only a limit of slots: whether it
//! is obeyed is the claim's affair.

use crate::time::MonoNs;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Requests in flight at which a peer without `max_conns` has no limit any more.
pub const SANE: u32 = 256;

/// The cell. All-zero bytes: not ramping, open to `max_conns`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SlowStart {
    /// When the ramp began.
    began: AtomicU64,
    /// Requests in flight allowed by the successes so far; 0 = not ramping.
    limit: AtomicU32,
    /// Keeps the size a multiple of 8.
    spare: AtomicU32,
}

impl SlowStart {
    /// Starts the ramp: a peer was added to a running upstream, or its breaker closed after a
    /// trial. One request more than the `in_flight` that it has.
    pub fn begin(&self, in_flight: u32, now: MonoNs) {
        self.began.store(now.0, Relaxed);
        self.limit.store(in_flight.saturating_add(1), Relaxed);
    }

    /// One success more: doubles the limit. Ends the ramp when the limit no longer binds and the
    /// configured time is over.
    pub fn success(&self, max_conns: u32, slow_start_ns: u64, now: MonoNs) {
        let limit = self.limit.load(Relaxed);
        if limit == 0 {
            return;
        }
        let doubled = limit.saturating_mul(2);
        let over = now.since(MonoNs(self.began.load(Relaxed))) >= slow_start_ns;
        let next = if over && doubled >= cap(max_conns) { 0 } else { doubled.min(cap(max_conns)) };
        // a lost race is one doubling less
        let _ = self.limit.compare_exchange(limit, next, Relaxed, Relaxed);
    }

    /// Requests the peer may have in flight now; 0 = no limit (only if `max_conns` is 0).
    /// `slow_start_ns` 0 = by successes only.
    #[must_use]
    pub fn slots(&self, max_conns: u32, slow_start_ns: u64, now: MonoNs) -> u32 {
        let limit = self.limit.load(Relaxed);
        if limit == 0 {
            return max_conns;
        }
        let elapsed_ns = now.since(MonoNs(self.began.load(Relaxed)));
        let line = if elapsed_ns >= slow_start_ns {
            cap(max_conns)
        } else {
            let part = u128::from(cap(max_conns)) * u128::from(elapsed_ns) / u128::from(slow_start_ns);
            u32::try_from(part).unwrap_or(u32::MAX)
        };
        match limit.min(line).max(1) {
            SANE.. if max_conns == 0 => 0,
            slots => slots,
        }
    }

    /// Whether it ramps now.
    #[must_use]
    pub fn is_ramping(&self) -> bool {
        self.limit.load(Relaxed) != 0
    }

    /// Ends the ramp.
    pub fn reset(&self) {
        self.limit.store(0, Relaxed);
        self.began.store(0, Relaxed);
    }
}

const fn cap(max_conns: u32) -> u32 {
    if max_conns == 0 { SANE } else { max_conns }
}
