//! How many looks an upstream may spend.

use crate::load::{MS, S, START};
use pincer_core::looks::Looks;
use pincer_core::time::MonoNs;

/// Looks that are spent over `seconds` if every one that may be is, of `per_s` requests a second.
fn spent(seconds: u64, per_s: u64) -> u64 {
    let looks = Looks::default();
    let moments = (0..seconds * 1_000).filter(|ms| {
        let now = MonoNs(START + ms * MS);
        let requests = 1_000_000 + ms * per_s / 1_000;
        let may = looks.may(requests, now);
        assert_eq!(looks.take(requests, now), may);
        may
    });
    moments.count() as u64
}

#[test]
fn of_few_requests_a_look_in_five_seconds_is_spent_and_of_many_one_in_a_hundred() {
    for (per_s, most) in [(0, 12), (1, 12), (20, 12), (21, 12), (100, 60), (1_000, 600)] {
        let looks = spent(60, per_s);
        assert!((most - 1..=most).contains(&looks), "{per_s} a second: {looks}");
        assert!((most * 10 - 10..=most * 10).contains(&spent(600, per_s)), "{per_s} a second over ten minutes");
    }
}

#[test]
fn a_look_may_be_spent_at_once_and_the_next_one_after_five_seconds() {
    let looks = Looks::default();
    let at = |ns| MonoNs(START + ns);
    assert!(looks.take(7, at(0)) && !looks.may(8, at(5 * S - MS)) && looks.may(8, at(5 * S)));
    looks.reset();
    assert!(looks.may(8, at(0)));
}
