//! How many looks an upstream may spend.

use crate::load::{MS, S, START};
use pincer_core::looks::Kind::{Again, Due};
use pincer_core::looks::{Kind, Looks};
use pincer_core::time::MonoNs;

/// Looks that are spent over `seconds` if every one that may be is, of `per_s` requests a second.
fn spent(kind: Kind, seconds: u64, per_s: u64) -> u64 {
    let looks = Looks::default();
    let moments = (0..seconds * 1_000).filter(|ms| {
        let now = MonoNs(START + ms * MS);
        let requests = 1_000_000 + ms * per_s / 1_000;
        let may = looks.may(kind, requests, now);
        assert_eq!(looks.take(kind, requests, now), may);
        may
    });
    moments.count() as u64
}

#[test]
fn of_few_requests_a_look_in_five_seconds_is_spent_and_of_many_one_in_a_hundred() {
    for (per_s, most) in [(0, 12), (1, 11), (20, 11), (21, 11), (100, 60), (1_000, 600)] {
        let least = most * 8 / 10;
        let looks = spent(Due, 60, per_s);
        assert!((least..=most).contains(&looks), "{per_s} a second: {looks}");
        let looks = spent(Due, 600, per_s);
        assert!((least * 9..=most * 10).contains(&looks), "{per_s} a second over ten minutes: {looks}");
    }
}

#[test]
fn a_look_may_be_spent_at_once_and_the_next_one_after_five_seconds() {
    let looks = Looks::default();
    let at = |ns| MonoNs(START + ns);
    assert!(looks.take(Due, 7, at(0)) && !looks.may(Due, 8, at(5 * S - MS)) && looks.may(Due, 8, at(5 * S)));
    looks.reset();
    assert!(looks.may(Due, 8, at(0)));
}

#[test]
fn what_a_minute_has_left_may_be_spent_at_once_on_a_peer_that_was_found_well() {
    let looks = Looks::default();
    let at = |ns| MonoNs(START + ns);
    assert!(looks.take(Due, 7, at(0)));
    // Of the eleven five are kept for those that are due.
    assert!((0..5).all(|_| looks.take(Again, 7, at(MS))) && !looks.take(Again, 7, at(MS)));
    assert!((1..6).all(|n| looks.take(Due, 7, at(n * 5 * S))));
    assert!(!looks.may(Due, 7, at(59 * S)) && !looks.may(Again, 7, at(59 * S)));
    assert!(looks.take(Again, 7, at(80 * S)), "a third of the window before is over");
    assert!(!looks.take(Again, 7, at(80 * S)) && looks.may(Due, 7, at(80 * S)));
}

#[test]
fn no_minute_has_more_looks_than_it_may() {
    let looks = Looks::default();
    let mut spent = vec![];
    for ms in 0..300_000 {
        let now = MonoNs(START + ms * MS);
        let kind = if ms % 7_000 < 100 { Again } else { Due };
        if looks.take(kind, ms / 50, now) {
            spent.push(ms);
        }
        let within = spent.iter().filter(|&&at| at + 60_000 > ms).count();
        assert!(within <= 13, "{within} at {ms} ms");
    }
    assert!(spent.len() >= 50, "{}", spent.len());
}
