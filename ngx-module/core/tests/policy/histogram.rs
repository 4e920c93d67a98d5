//! The histogram.

use pincer_core::histogram::{BOUNDS_NS, BUCKETS, Histogram, Snapshot};

#[test]
fn a_duration_on_a_bound_counts_under_it_and_one_beyond_all_bounds_in_the_last_bucket() {
    let histogram = Histogram::default();
    for bound in BOUNDS_NS {
        histogram.record(bound);
    }
    histogram.record(BOUNDS_NS[BUCKETS - 1] + 1);
    let copy = histogram.snapshot();
    assert_eq!((copy.buckets, copy.count), ([1; BUCKETS + 1], BUCKETS as u64 + 1));
    assert_eq!(copy.sum_ns, BOUNDS_NS.iter().sum::<u64>() + BOUNDS_NS[BUCKETS - 1] + 1);
}

#[test]
fn the_bounds_rise() {
    assert!(BOUNDS_NS.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_reset_histogram_is_empty() {
    let histogram = Histogram::default();
    histogram.record(1);
    histogram.reset();
    assert_eq!(histogram.snapshot(), Snapshot::default());
}
