//! Service time of a peer, learned from samples (placeholder header).

use crate::time::MonoNs;
use std::sync::atomic::AtomicU64;

/// Lock-free mean of samples with a half-life. All-zero bytes are the empty estimate.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Estimate {
    sums: AtomicU64,
    last_at: AtomicU64,
    trend: AtomicU64,
}

impl Estimate {
    /// Folds one sample in.
    pub fn record(&self, value_ns: u64, half_life_ns: u64, now: MonoNs) {
        let _ = (value_ns, half_life_ns, now, &self.sums, &self.last_at, &self.trend);
    }
    /// The mean in ns; 0 = no sample yet.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        0
    }
    /// The last sample in ns; 0 = none.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        0
    }
    /// Effective number of samples in the mean (rounded; decayed as of the last sample).
    #[must_use]
    pub fn samples(&self) -> u32 {
        0
    }
    /// Whether no sample came for a while, so that an exploration may be spent on this peer.
    #[must_use]
    pub fn explore_due(&self, now: MonoNs) -> bool {
        let _ = now;
        false
    }
    /// Forgets everything (a record is reused for another peer).
    pub fn reset(&self) {}
}

/// S_eff: the mean, or what the age of requests still without their signal shows, if that is worse. 0 = unknown.
#[must_use]
pub fn effective_ns(mean_ns: u64, pending_mean_age_ns: u64) -> u64 {
    mean_ns.max(pending_mean_age_ns)
}
