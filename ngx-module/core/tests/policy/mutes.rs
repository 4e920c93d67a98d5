//! Which rates of mute responses are unusual.

use pincer_core::mutes::{Tally, WINDOW, is_unusual};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn tally(answered: u64, mute: u64) -> Tally {
    Tally { answered, mute }
}

#[test]
fn a_rate_is_unusual_only_beside_the_others() {
    assert!(is_unusual(tally(65, 15), tally(50, 0)));
    assert!(!is_unusual(tally(65, 15), tally(50, 10)));
    assert!(!is_unusual(tally(50, 0), tally(65, 15)), "one that is seldomer mute");
    assert!(!is_unusual(tally(100, 100), tally(100, 100)), "all are");
}

#[test]
fn few_answers_prove_nothing() {
    assert!(!is_unusual(tally(4, 4), tally(50, 0)));
    assert!(!is_unusual(tally(100, 100), tally(4, 0)));
    assert!(!is_unusual(Tally::default(), Tally::default()));
    assert!(is_unusual(tally(50, 50), tally(5, 0)));
}

#[test]
fn a_shortened_window_has_the_rates_of_the_whole() {
    let (base, now) = (tally(1_000, 10), tally(1_400, 110));
    let window = now.since(base);
    assert_eq!(window, tally(400, 100));
    let base = now.shortened(window, 400);
    assert_eq!(now.since(base), tally(WINDOW / 2, 12));
    let other = tally(500, 20);
    assert_eq!(other.since(other.shortened(tally(100, 20), 400)), tally(12, 2));
    assert_eq!(tally(3, 2).shortened(tally(900, 900), 10), tally(0, 0), "counts that were lost do no harm");
}

#[test]
fn by_chance_a_usual_rate_is_called_unusual_less_than_once_in_five_hundred() {
    let mut rng = SmallRng::seed_from_u64(1);
    for rate in [0.02, 0.1, 0.3, 0.5] {
        let mut draw = |count: u64| tally(count, (0..count).filter(|_| rng.random_bool(rate)).count() as u64);
        let false_alarms = (0..5_000).filter(|_| is_unusual(draw(80), draw(240))).count();
        assert!(false_alarms <= 10, "rate {rate}: {false_alarms} of 5000");
    }
}
