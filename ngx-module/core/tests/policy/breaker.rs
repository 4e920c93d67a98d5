//! The circuit breaker.

use crate::load::{MS, S, START};
use pincer_core::breaker::{Breaker, Due, Rule, State, TRIAL_NS};
use pincer_core::pick::Admission;
use pincer_core::time::MonoNs;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

const RULE: Rule = Rule::Adaptive;

fn at(ns: u64) -> MonoNs {
    MonoNs(START + ns)
}

fn times(count: u32, mut act: impl FnMut() -> bool) {
    for _ in 0..count {
        let _ = act();
    }
}

fn opened(trials: u32) -> (Breaker, u64) {
    let breaker = Breaker::default();
    let mut now = 0;
    times(3, || breaker.failure(false, RULE, 0, at(now)));
    for k in 0..trials {
        now += S << k.min(5);
        assert!(breaker.begin_trial(at(now)), "trial {k}");
        assert!(breaker.failure(true, RULE, 0, at(now)));
    }
    (breaker, now)
}

#[test]
fn three_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let breaker = Breaker::default();
    for _ in 0..4 {
        assert!(!breaker.failure(false, RULE, 0, at(0)));
        assert!(!breaker.failure(false, RULE, 0, at(0)));
        times(3, || breaker.success(false, RULE));
    }
    assert_eq!(breaker.state(at(0)), State::Closed);
    assert!(!breaker.failure(false, RULE, 0, at(0)));
    assert!(!breaker.failure(false, RULE, 0, at(0)));
    assert!(breaker.failure(false, RULE, 0, at(0)));
    assert_eq!((breaker.state(at(0)), breaker.admission(at(0))), (State::Open, Admission::Ejected));
}

#[test]
fn six_failures_among_the_last_ten_open_it_without_three_in_a_row() {
    let breaker = Breaker::default();
    let outcomes = [true, true, false, true, true, false, true, false, true];
    for failed in outcomes {
        let opened = if failed { breaker.failure(false, RULE, 0, at(0)) } else { breaker.success(false, RULE) };
        assert!(!opened, "fewer than ten are not judged");
    }
    assert!(!breaker.success(false, RULE), "a success does not open it");
    let opened = (0..3).any(|_| {
        breaker.success(false, RULE);
        breaker.failure(false, RULE, 0, at(0)) || breaker.failure(false, RULE, 0, at(0))
    });
    assert!(opened);
}

#[test]
fn the_time_out_doubles_to_thirty_two_seconds() {
    for (times, out_ns) in [(0, S), (1, 2 * S), (2, 4 * S), (5, 32 * S), (9, 32 * S)] {
        let (breaker, now) = opened(times);
        assert_eq!(breaker.admission(at(now + out_ns - MS)), Admission::Ejected, "{times}");
        assert_eq!(breaker.admission(at(now + out_ns)), Admission::Trial, "{times}");
    }
}

#[test]
fn the_jitter_adds_up_to_a_quarter() {
    for random in [0, 1, 249, 250, 12_345, u64::MAX] {
        let breaker = Breaker::default();
        times(3, || breaker.failure(false, RULE, random, at(0)));
        assert_eq!(breaker.admission(at(S - MS)), Admission::Ejected);
        assert_eq!(breaker.admission(at(S + S / 4)), Admission::Trial);
    }
}

#[test]
fn exactly_one_of_many_wins_the_trial() {
    let (breaker, now) = opened(0);
    let wins = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| wins.fetch_add(u32::from(breaker.begin_trial(at(now + S))), Relaxed));
        }
    });
    assert_eq!(wins.load(Relaxed), 1);
    assert_eq!((breaker.state(at(now + S)), breaker.admission(at(now + S))), (State::HalfOpen, Admission::Ejected));
}

#[test]
fn a_trial_that_succeeds_closes_it_and_one_that_fails_opens_it_for_longer() {
    let (breaker, now) = opened(0);
    assert!(breaker.begin_trial(at(now + S)));
    assert!(breaker.success(true, RULE));
    assert_eq!(breaker.admission(at(now + S)), Admission::Open);
    let (breaker, now) = opened(1);
    assert_eq!(breaker.admission(at(now + S)), Admission::Ejected);
}

#[test]
fn requests_sent_before_it_opened_neither_close_nor_prolong_it() {
    let (breaker, now) = opened(0);
    assert!(!breaker.success(false, RULE));
    assert!(!breaker.failure(false, RULE, 0, at(now + 900 * MS)));
    assert_eq!(breaker.admission(at(now + S)), Admission::Trial);
}

#[test]
fn a_trial_whose_worker_died_does_not_wedge_it() {
    let (breaker, now) = opened(0);
    assert!(breaker.begin_trial(at(now + S)));
    assert!(!breaker.begin_trial(at(now + S + TRIAL_NS - MS)));
    assert_eq!(breaker.admission(at(now + S + TRIAL_NS)), Admission::Trial);
    assert!(breaker.begin_trial(at(now + S + TRIAL_NS)));
}

#[test]
fn a_trial_without_a_verdict_lets_the_next_request_try() {
    let (breaker, now) = opened(0);
    assert!(breaker.begin_trial(at(now + S)));
    breaker.cancel_trial();
    assert!(breaker.begin_trial(at(now + S)));
}

#[test]
fn a_peer_that_flaps_stays_out_longer_each_time_until_ten_requests_in_a_row_were_good() {
    let (breaker, now) = opened(2);
    assert!(breaker.begin_trial(at(now + 4 * S)) && breaker.success(true, RULE));
    times(3, || breaker.failure(false, RULE, 0, at(now + 5 * S)));
    assert_eq!(breaker.admission(at(now + 5 * S + 7 * S)), Admission::Ejected, "8 s this time");
    assert!(breaker.begin_trial(at(now + 13 * S)) && breaker.success(true, RULE));
    times(10, || breaker.success(false, RULE));
    times(3, || breaker.failure(false, RULE, 0, at(now + 20 * S)));
    assert_eq!(breaker.admission(at(now + 21 * S)), Admission::Trial, "1 s again");
}

#[test]
fn explicit_max_fails_and_fail_timeout_have_nginx_meaning() {
    let rule = Rule::of_server(true, 2, 10_000);
    let breaker = Breaker::default();
    assert!(!breaker.failure(false, rule, 9, at(0)));
    assert!(!breaker.failure(false, rule, 9, at(11 * S)), "the first has lapsed");
    assert!(breaker.failure(false, rule, 9, at(12 * S)));
    assert_eq!(breaker.admission(at(22 * S - MS)), Admission::Ejected);
    assert_eq!(breaker.admission(at(22 * S)), Admission::Trial);
    assert!(breaker.begin_trial(at(22 * S)) && breaker.failure(true, rule, 9, at(22 * S)));
    assert_eq!(breaker.admission(at(32 * S)), Admission::Trial, "fail_timeout does not double");
    assert_eq!(Rule::of_server(true, 0, 10_000), Rule::Off);
    assert_eq!(Rule::of_server(false, 1, 10_000), Rule::Adaptive);
}

#[test]
fn within_fail_timeout_a_success_does_not_reset_nginx_count() {
    let rule = Rule::of_server(true, 3, 10_000);
    let breaker = Breaker::default();
    for (at_s, opens) in [(0, false), (9, false), (18, true)] {
        times(5, || breaker.success(false, rule));
        assert_eq!(breaker.failure(false, rule, 0, at(at_s * S)), opens, "{at_s} s");
    }
    assert!(breaker.begin_trial(at(28 * S)) && breaker.success(true, rule));
    assert!(!breaker.failure(false, rule, 0, at(29 * S)), "the trial began the count anew");
}

#[test]
fn an_operators_hand_makes_a_peer_that_is_out_for_hours_due_for_its_trial() {
    let rule = Rule::of_server(true, 1, 10_000_000);
    let breaker = Breaker::default();
    breaker.due(Due::Set);
    assert_eq!(breaker.state(at(0)), State::Closed);
    assert!(breaker.failure(false, rule, 0, at(0)));
    assert_eq!(breaker.admission(at(9_000 * S)), Admission::Ejected);
    breaker.due(Due::Set);
    assert!(breaker.begin_trial(at(S)));
    breaker.due(Due::Set);
    assert!(!breaker.begin_trial(at(S)), "one trial, whoever reloads meanwhile");
    assert!(breaker.failure(true, rule, 0, at(S)));
    breaker.rule_changed();
    assert!(breaker.begin_trial(at(S)) && breaker.success(true, RULE));
}

#[test]
fn what_one_rule_counted_is_nothing_to_the_next() {
    let counted = Rule::of_server(true, 9, 10_000);
    let breaker = Breaker::default();
    times(7, || breaker.failure(false, counted, 0, at(0)));
    breaker.rule_changed();
    assert!(!breaker.failure(false, RULE, 0, at(0)) && !breaker.failure(false, RULE, 0, at(0)));
    breaker.rule_changed();
    assert!(!breaker.failure(false, Rule::of_server(true, 2, 10_000), 0, at(S)));
}

#[test]
fn max_fails_zero_never_takes_a_peer_out() {
    let breaker = Breaker::default();
    assert!((0..1_000).all(|_| !breaker.failure(false, Rule::Off, 0, at(0))));
    assert_eq!(breaker.admission(at(0)), Admission::Open);
}

#[test]
fn a_trial_whose_first_token_closed_it_opens_it_again_if_it_fails_after_all() {
    let (breaker, now) = opened(1);
    let now = at(now + 2 * S + S / 2);
    assert!(breaker.begin_trial(now));
    assert!(breaker.success(true, RULE));
    assert!(breaker.failure(true, RULE, 0, now));
    assert_eq!(breaker.admission(MonoNs(now.0 + 3 * S)), Admission::Ejected, "for four seconds, not for one");
}
