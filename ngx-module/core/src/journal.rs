//! Which changes of the link to the control plane are worth a line in the error log.
//!
//! A cause is said once for each place (an address) until the link was said to stand again. A cause
//! that comes when too many lines were written is not forgotten but said when it comes the next
//! time after that. Numbers in a cause do not count: a certificate that expired says at each
//! attempt by how many seconds. Pure: the time comes in. Cost: a walk over the causes known. Bound:
//! [`LINES_MAX`] lines in any minute, [`CAUSES_MAX`] causes remembered, of which the oldest is
//! forgotten first.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::time::{MonoNs, SECOND_NS};

/// Lines in [`WINDOW_NS`].
pub const LINES_MAX: usize = 5;

/// Of these, lines that are kept for saying that the link stands, so that the last word is true.
const RESERVED: usize = 1;

/// One minute, in nanoseconds.
const WINDOW_NS: u64 = 60 * SECOND_NS;

/// Causes remembered: four for each of 16 addresses.
const CAUSES_MAX: usize = 64;

/// What was said so far. The default has said nothing.
#[derive(Debug, Default)]
pub struct Journal {
    /// Hashes of the causes said since the link was said to stand.
    causes: VecDeque<u64>,
    /// When the last lines were written, at most [`LINES_MAX`].
    lines: VecDeque<MonoNs>,
    /// The last word was that the link stands.
    stands: bool,
}

impl Journal {
    /// An attempt or a stream ended at `place` for `cause`: whether to say so.
    pub fn failed(&mut self, place: usize, cause: &str, now: MonoNs) -> bool {
        let cause = fingerprint(place, cause);
        if self.causes.contains(&cause) || !self.may_write(LINES_MAX - RESERVED, now) {
            return false;
        }
        if self.causes.len() >= CAUSES_MAX {
            self.causes.pop_front();
        }
        self.causes.push_back(cause);
        self.stands = false;
        true
    }

    /// The link stands: whether to say so. To be asked again while it stands: what had to be left
    /// out is said later.
    pub fn stands(&mut self, now: MonoNs) -> bool {
        if self.stands || !self.may_write(LINES_MAX, now) {
            return false;
        }
        self.causes.clear();
        self.stands = true;
        true
    }

    /// Whether fewer than `lines_max` lines were written in the last minute; then one more counts
    /// as written.
    fn may_write(&mut self, lines_max: usize, now: MonoNs) -> bool {
        while self.lines.front().is_some_and(|line| now.since(*line) >= WINDOW_NS) {
            self.lines.pop_front();
        }
        let may = self.lines.len() < lines_max;
        if may {
            self.lines.push_back(now);
        }
        may
    }
}

/// The cause without its numbers.
fn fingerprint(place: usize, cause: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    for word in cause.split(|character: char| character.is_ascii_digit()).filter(|word| !word.is_empty()) {
        word.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: u64) -> MonoNs {
        MonoNs((1_000 + second) * SECOND_NS)
    }

    #[test]
    fn each_cause_is_said_once_at_each_place_until_the_link_stands_again() {
        let mut journal = Journal::default();
        assert!(journal.failed(0, "refused", at(0)));
        assert!(!journal.failed(0, "refused", at(1)));
        assert!(journal.failed(1, "refused", at(2)));
        assert!(journal.failed(0, "expired", at(3)));
        assert!((4..10_000).all(|second| !journal.failed(0, "refused", at(second))));
        assert!(journal.stands(at(10_000)) && !journal.stands(at(10_001)));
        assert!(journal.failed(0, "refused", at(10_002)));
    }

    #[test]
    fn a_cause_that_only_counts_is_the_same_cause() {
        let mut journal = Journal::default();
        assert!(journal.failed(0, "expired 9 seconds ago, at 1700000000", at(0)));
        assert!(!journal.failed(0, "expired 10 seconds ago, at 1700000000", at(100)));
        assert!(!journal.failed(0, "expired 1000 seconds ago, at 1700000000", at(1_000)));
    }

    #[test]
    fn a_cause_for_which_there_was_no_room_is_said_a_minute_later() {
        let mut journal = Journal::default();
        let said = (0..16).filter(|place| journal.failed(*place, "refused", at(0))).count();
        assert_eq!(said, LINES_MAX - RESERVED);
        assert!(!journal.failed(9, "refused", at(59)));
        assert!(journal.failed(9, "refused", at(60)));
    }

    #[test]
    fn however_much_went_wrong_there_is_a_line_for_the_end_of_it() {
        let mut journal = Journal::default();
        assert_eq!((0..16).filter(|place| journal.failed(*place, "refused", at(0))).count(), LINES_MAX - RESERVED);
        assert!(journal.stands(at(1)));
        assert!(!journal.failed(0, "lost", at(2)), "the minute has its lines");
        assert!(!journal.stands(at(3)), "it is the last word already");
    }

    proptest! {
        #[test]
        fn never_more_lines_in_a_minute_whatever_happens(events in prop::collection::vec((0_u64..20, 0_usize..4, 0_u8..5), 0..300)) {
            let (mut journal, mut now, mut said) = (Journal::default(), 0, Vec::new());
            for (pause, place, what) in events {
                now += pause;
                let cause = ["refused", "expired", "hangs", "lost"].get(usize::from(what));
                let says = match cause {
                    Some(cause) => journal.failed(place, cause, at(now)),
                    None => journal.stands(at(now)),
                };
                if says {
                    said.push(now);
                }
            }
            for (index, first) in said.iter().enumerate() {
                let within = said[index..].iter().filter(|line| **line < first + 60).count();
                prop_assert!(within <= LINES_MAX);
            }
        }

        #[test]
        fn the_last_word_of_a_link_that_stays_up_is_that_it_stands(
            events in prop::collection::vec((0_u64..20, 0_usize..4, any::<bool>()), 0..100),
        ) {
            let (mut journal, mut now, mut word) = (Journal::default(), 0, false);
            for (pause, place, up) in events {
                now += pause;
                let said = if up { journal.stands(at(now)) } else { journal.failed(place, "lost", at(now)) };
                word = if said { up } else { word };
            }
            for _ in 0..13 {
                now += 5;
                word = journal.stands(at(now)) || word;
            }
            prop_assert!(word);
        }
    }
}
