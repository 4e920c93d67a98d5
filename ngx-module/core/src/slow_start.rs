//! Slow start of one peer (placeholder header).

use crate::time::MonoNs;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The cell. All-zero bytes: not ramping, open to `max_conns`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SlowStart {
    began: AtomicU64,
    limit: AtomicU32,
    spare: AtomicU32,
}

impl SlowStart {
    /// Starts the ramp: a peer was added to a running upstream, or its breaker closed after a trial.
    pub fn begin(&self, now: MonoNs) {
        let _ = (now, &self.began, &self.limit, &self.spare);
    }
    /// One more success: doubles the limit.
    pub fn success(&self) {}
    /// Requests the peer may have in flight now; 0 = no limit. `slow_start_ns` 0 = by successes only.
    #[must_use]
    pub fn slots(&self, max_conns: u32, slow_start_ns: u64, now: MonoNs) -> u32 {
        let _ = (slow_start_ns, now);
        max_conns
    }
    /// Ends the ramp.
    pub fn reset(&self) {}
}
