//! Histogram of durations in shared memory: fixed bounds that suit responses from a millisecond to
//! five minutes.
//!
//! Recording is two additions; a reader copies the buckets and takes their sum as the count, so a
//! copy never contradicts itself, though it may miss what is recorded meanwhile. The bounds are
//! part of the metrics' contract and never depend on the data.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets with an upper bound; one more counts what lies above.
pub const BUCKETS: usize = 17;
/// Upper bounds, inclusive, in ns: 1 ms to 300 s, 1-2.5-5 a decade.
pub const BOUNDS_NS: [u64; BUCKETS] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    25_000_000_000,
    50_000_000_000,
    100_000_000_000,
    300_000_000_000,
];

/// The cell. All-zero bytes are the empty histogram.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

/// A copy of the counts. Not cumulative; `count` is their sum, so a copy is always consistent with
/// itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Per bucket, the last one above all bounds.
    pub buckets: [u64; BUCKETS + 1],
    /// Samples.
    pub count: u64,
    /// Sum of all samples, ns.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, value_ns: u64) {
        let bucket = BOUNDS_NS.partition_point(|&bound| bound < value_ns);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(value_ns, Relaxed);
    }

    /// Copies the counts.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut copy = Snapshot { sum_ns: self.sum_ns.load(Relaxed), ..Snapshot::default() };
        for (to, from) in copy.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Relaxed);
            copy.count += *to;
        }
        copy
    }

    /// Empties it (a record is reused for another peer).
    pub fn reset(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
        self.sum_ns.store(0, Relaxed);
    }
}
