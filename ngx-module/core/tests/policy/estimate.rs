//! The learned service time.

use crate::load::{MS, S, START};
use pincer_core::estimate::{Estimate, HALF_LIFE_NS, effective_ns};
use pincer_core::time::MonoNs;
use proptest::prelude::*;

fn at(ns: u64) -> MonoNs {
    MonoNs(START + ns)
}

fn taught(samples: &[(u64, u64)]) -> Estimate {
    let estimate = Estimate::default();
    for &(now, value) in samples {
        estimate.record(value, HALF_LIFE_NS, at(now));
    }
    estimate
}

fn steady(count: u64, value: u64) -> Vec<(u64, u64)> {
    (0..count).map(|i| (i * 20 * MS, value)).collect()
}

fn is_near(value: u64, expected: u64, part: f64) -> bool {
    (value as f64 - expected as f64).abs() <= expected as f64 * part
}

#[test]
fn an_estimate_without_samples_knows_nothing() {
    let estimate = Estimate::default();
    assert_eq!((estimate.mean_ns(), estimate.recent_ns(), estimate.usual_ns(), estimate.samples()), (0, 0, 0, 0));
    assert_eq!((estimate.silent_ns(at(0)), estimate.span_ns()), (0, 0));
}

#[test]
fn equal_samples_have_their_value_as_mean_and_a_small_error() {
    let estimate = taught(&steady(200, 100 * MS));
    assert!(is_near(estimate.mean_ns(), 100 * MS, 1e-4));
    assert!(is_near(estimate.usual_ns(), 100 * MS, 1e-4));
    assert!(estimate.error_ns() < 3 * MS);
}

#[test]
fn few_samples_have_a_large_error() {
    assert!(taught(&[(0, 100 * MS)]).error_ns() > 30 * MS);
}

#[test]
fn a_mean_that_hears_nothing_never_decays() {
    let estimate = taught(&steady(10, 100 * MS));
    assert!(is_near(estimate.mean_ns(), 100 * MS, 1e-4));
    estimate.record(200 * MS, HALF_LIFE_NS, at(3_600 * S));
    assert!(is_near(estimate.mean_ns(), 200 * MS, 1e-3), "after an hour the old samples weigh nothing");
}

#[test]
fn samples_weigh_half_after_a_half_life() {
    let estimate = taught(&[(0, 100 * MS), (10 * S, 200 * MS)]);
    let half = Estimate::default();
    half.record(100 * MS, 10 * S, at(0));
    half.record(200 * MS, 10 * S, at(10 * S));
    assert!(is_near(half.mean_ns(), (100 * MS + 2 * 200 * MS) / 3, 1e-3));
    assert!(estimate.mean_ns() > half.mean_ns());
}

#[test]
fn the_half_life_is_never_shorter_than_sixteen_services() {
    let minutes = Estimate::default();
    minutes.record(60 * S, S, at(0));
    minutes.record(180 * S, S, at(60 * S));
    assert!(is_near(minutes.mean_ns(), 121 * S, 0.02), "{}", minutes.mean_ns());
}

#[test]
fn a_busy_peer_that_turns_slow_is_noticed_after_four_samples() {
    let mut samples = steady(5_000, 100 * MS);
    samples.extend((0..4).map(|i| (100 * S + i, S)));
    assert!(is_near(taught(&samples).mean_ns(), S, 1e-3));
}

#[test]
fn a_peer_that_has_healed_is_believed_after_three_samples_like_its_usual_ones() {
    let mut samples = steady(500, 100 * MS);
    samples.extend((0..20).map(|i| (10 * S + i * 100 * MS, S)));
    assert!(taught(&samples).mean_ns() > 900 * MS);
    samples.extend((0..3).map(|i| (20 * S + i * 100 * MS, 100 * MS)));
    assert!(is_near(taught(&samples).mean_ns(), 100 * MS, 1e-3));
}

#[test]
fn what_samples_say_spans_the_time_since_the_mean_was_last_replaced() {
    let mut samples = steady(500, 100 * MS);
    assert!(is_near(taught(&samples).span_ns(), 499 * 20 * MS, 0.01));
    samples.extend((0..4).map(|i| (20 * S + i * S, S)));
    assert_eq!(taught(&samples).span_ns(), 0);
    samples.push((30 * S, S));
    assert_eq!((taught(&samples).span_ns(), taught(&samples).silent_ns(at(31 * S))), (7 * S, S));
}

#[test]
fn a_few_slow_samples_are_overturned_by_as_many_fast_ones_and_one_more() {
    for slow in 1..=5 {
        let samples: Vec<_> = (0..slow).map(|i| (i, 300 * MS)).collect();
        let fast = |count: u64| (0..count).map(|i| (i + 2 * MS, 20 * MS)).collect::<Vec<_>>();
        let mean = |count| taught(&[samples.clone(), fast(count)].concat()).mean_ns();
        assert!(mean(slow / 2) > 100 * MS, "{slow}: {}", mean(slow / 2));
        assert!(is_near(mean(slow + 1), 20 * MS, 1e-3), "{slow}: {}", mean(slow + 1));
    }
}

#[test]
fn a_light_mean_is_replaced_by_a_run_under_a_third_of_it_that_outweighs_the_rest() {
    let light: Vec<_> = (0..4).map(|i| (i, 300 * MS)).collect();
    let of = |value| taught(&[light.clone(), (0..5).map(|i| (i + 2 * MS, value)).collect()].concat()).mean_ns();
    assert!(is_near(of(60 * MS), 60 * MS, 1e-3), "{}", of(60 * MS));
    assert!(of(99 * MS) > 150 * MS, "{}", of(99 * MS));
    let heavy = taught(&[steady(40, 300 * MS), (0..8).map(|i| (S + i, 80 * MS)).collect()].concat()).mean_ns();
    assert!(heavy > 200 * MS, "{heavy}");
}

#[test]
fn one_wild_sample_does_not_make_a_peer_slow() {
    let mut samples = steady(500, 100 * MS);
    samples.push((10 * S, S));
    assert!(taught(&samples).mean_ns() < 115 * MS);
}

#[test]
fn a_sample_from_before_the_last_one_ages_nothing() {
    let estimate = taught(&[(10 * S, 100 * MS), (9 * S, 300 * MS)]);
    assert!(is_near(estimate.mean_ns(), 200 * MS, 1e-3));
    assert_eq!(estimate.silent_ns(at(11 * S)), S);
}

#[test]
fn age_shows_a_hang_and_a_usual_age_does_not_look_slow() {
    assert_eq!(effective_ns(100, 350), 100);
    assert!(effective_ns(100, 4_000) >= 1_000);
}

#[test]
fn concurrent_samples_are_all_counted() {
    let estimate = Estimate::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    estimate.record(100 * MS, HALF_LIFE_NS, at(0));
                }
            });
        }
    });
    assert_eq!(estimate.samples(), 100);
    assert!(is_near(estimate.mean_ns(), 100 * MS, 1e-3));
}

#[test]
fn a_reset_estimate_is_all_zero_again() {
    let estimate = taught(&steady(5, MS));
    estimate.reset();
    assert_eq!(format!("{estimate:?}"), format!("{:?}", Estimate::default()));
}

proptest! {
    #[test]
    fn the_mean_stays_within_its_samples(samples in prop::collection::vec((0..1_000 * S, 1..600 * S), 1..200)) {
        let estimate = taught(&samples);
        let (low, high) = (samples.iter().map(|s| s.1).min().unwrap(), samples.iter().map(|s| s.1).max().unwrap());
        let mean = estimate.mean_ns() as f64;
        prop_assert!(mean >= low as f64 * 0.999 - 1.0 && mean <= high as f64 * 1.001 + 1.0, "{low} {mean} {high}");
        prop_assert!(estimate.mean_ns() > 0);
    }
}

#[test]
fn samples_that_come_fast_are_all_in_the_mean_and_in_its_error() {
    let (fast, slow) = (Estimate::default(), Estimate::default());
    for n in 0..400 {
        let value = MS * (80 + n % 5 * 10);
        fast.record(value, HALF_LIFE_NS, at(n * MS / 10));
        slow.record(value, HALF_LIFE_NS, at(n * 30 * MS));
    }
    assert!(is_near(fast.mean_ns(), 100 * MS, 0.02), "{}", fast.mean_ns());
    assert!(fast.samples() >= 120, "{}", fast.samples());
    assert!(is_near(fast.error_ns(), slow.error_ns(), 0.2), "{} {}", fast.error_ns(), slow.error_ns());
    assert!(is_near(fast.usual_ns(), slow.usual_ns(), 0.02), "{} {}", fast.usual_ns(), slow.usual_ns());
}

#[test]
fn a_replica_that_breaks_under_fast_samples_is_believed_as_soon_as_under_slow_ones() {
    let estimate = Estimate::default();
    for n in 0..200 {
        estimate.record(MS, HALF_LIFE_NS, at(n * MS / 20));
    }
    let renewed = (0..4).map(|n| estimate.record(50 * MS, HALF_LIFE_NS, at(10 * MS + n))).collect::<Vec<_>>();
    assert_eq!(renewed, [false, false, false, true]);
    assert!(is_near(estimate.mean_ns(), 50 * MS, 0.01), "{}", estimate.mean_ns());
}
