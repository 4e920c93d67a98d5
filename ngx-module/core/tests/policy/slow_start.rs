//! The slow start.

use crate::load::{MS, S, START};
use pincer_core::slow_start::{SANE, SlowStart};
use pincer_core::time::MonoNs;

fn at(ns: u64) -> MonoNs {
    MonoNs(START + ns)
}

fn begun() -> SlowStart {
    let ramp = SlowStart::default();
    ramp.begin(0, at(0));
    ramp
}

#[test]
fn a_peer_that_was_there_from_the_start_does_not_ramp() {
    let ramp = SlowStart::default();
    assert_eq!((ramp.slots(7, 10 * S, at(0)), ramp.slots(0, 10 * S, at(0))), (7, 0));
}

#[test]
fn the_limit_doubles_with_each_success_up_to_max_conns() {
    let ramp = begun();
    let mut seen = vec![];
    for _ in 0..5 {
        seen.push(ramp.slots(6, 0, at(0)));
        ramp.success(6, 0, at(0));
    }
    assert_eq!(seen, [1, 2, 4, 6, 6]);
    assert!(!ramp.is_ramping());
}

#[test]
fn without_max_conns_the_ramp_ends_without_a_limit() {
    let ramp = begun();
    for _ in 0..7 {
        ramp.success(0, 0, at(0));
    }
    assert_eq!(ramp.slots(0, 0, at(0)), SANE / 2);
    ramp.success(0, 0, at(0));
    assert_eq!(ramp.slots(0, 0, at(0)), 0);
}

#[test]
fn a_configured_time_holds_the_limit_under_a_straight_line() {
    let ramp = begun();
    for _ in 0..20 {
        ramp.success(100, 10 * S, at(MS));
    }
    assert_eq!(ramp.slots(100, 10 * S, at(0)), 1);
    assert_eq!(ramp.slots(100, 10 * S, at(5 * S)), 50);
    assert_eq!(ramp.slots(100, 10 * S, at(10 * S)), 100);
    assert!(ramp.is_ramping());
    ramp.success(100, 10 * S, at(10 * S));
    assert!(!ramp.is_ramping());
}

#[test]
fn a_peer_without_successes_stays_at_one_however_long() {
    assert_eq!(begun().slots(100, 10 * S, at(3_600 * S)), 1);
}
