//! How many lines about one peer go into the error log: however often its breaker opens and closes,
//! [`LINES_MAX`] within [`WINDOW_NS`].
//!
//! The last line of a window says that it is the last one, and the first line after it says how
//! many changes were left out, so no reader takes silence for calm. The whole state is one word,
//! changed by compare-and-swap, and all-zero memory is a peer of which nothing was said. Pure: the
//! time comes in. Cost: a compare-and-swap for each change, nothing for a request. Bound: two
//! windows side by side may have their lines within one minute.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::time::{MonoNs, SECOND_NS};

/// Lines in a window.
pub const LINES_MAX: u64 = 6;
/// One minute, in nanoseconds.
pub const WINDOW_NS: u64 = 60 * SECOND_NS;
/// Changes that are left out are counted up to here.
const UNSAID_MAX: u64 = 0xffff;

/// The cell:
/// `begin of the window in s:40 | lines in it:8 | changes left out since the last line:16`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Lines {
    word: AtomicU64,
}

/// A change that is worth a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Changes before it that were left out.
    pub unsaid: u16,
    /// No other one is written in this window.
    pub is_last: bool,
}

impl Lines {
    /// Something has changed: the line to write, or `None` if too many were written.
    pub fn say(&self, now: MonoNs) -> Option<Line> {
        // A second more, so that no window begins at 0.
        let now_s = now.0 / SECOND_NS + 1;
        let mut line = None;
        let _ = self.word.fetch_update(Relaxed, Relaxed, |word| {
            let (begin_s, lines, unsaid) = (word >> 24, word >> 16 & 0xff, word & UNSAID_MAX);
            let is_over = now_s.saturating_sub(begin_s) >= WINDOW_NS / SECOND_NS || begin_s == 0;
            let (begin_s, lines) = if is_over { (now_s, 0) } else { (begin_s, lines) };
            let may_say = lines < LINES_MAX;
            line = may_say
                .then(|| Line { unsaid: u16::try_from(unsaid).unwrap_or(u16::MAX), is_last: lines + 1 == LINES_MAX });
            let (lines, unsaid) = if may_say { (lines + 1, 0) } else { (lines, (unsaid + 1).min(UNSAID_MAX)) };
            Some(begin_s << 24 | lines << 16 | unsaid)
        });
        line
    }

    /// Forgets what was said: the record is reused.
    pub fn reset(&self) {
        self.word.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> MonoNs {
        MonoNs(ms * SECOND_NS / 1_000)
    }

    #[test]
    fn the_last_line_of_a_minute_says_so_and_the_next_one_says_what_was_left_out() {
        let lines = Lines::default();
        let said: Vec<_> = (0..100).map_while(|n| lines.say(at(n))).collect();
        let last = said.iter().position(|line| line.is_last);
        assert_eq!((said.len() as u64, last), (LINES_MAX, Some(said.len() - 1)));
        assert!(said.iter().all(|line| line.unsaid == 0));
        assert!((0..50).all(|_| lines.say(at(59_000)).is_none()));
        assert_eq!(lines.say(at(60_000)), Some(Line { unsaid: 51, is_last: false }));
        assert_eq!(lines.say(at(60_001)), Some(Line::default()));
    }

    #[test]
    fn what_is_left_out_is_counted_to_a_bound() {
        let lines = Lines::default();
        assert_eq!((0..200_000).filter_map(|_| lines.say(at(1))).count() as u64, LINES_MAX);
        assert_eq!(lines.say(at(99_000)).map(|line| line.unsaid), Some(u16::MAX));
    }

    proptest! {
        #[test]
        fn no_minute_has_more_lines_than_two_windows(pauses in prop::collection::vec(0_u64..30_000, 0..400)) {
            let lines = Lines::default();
            let (mut now, mut said) = (0, Vec::new());
            for pause in pauses {
                now += pause;
                said.extend(lines.say(at(now)).map(|_| now));
            }
            for (index, first) in said.iter().enumerate() {
                let within = said[index..].iter().filter(|line| **line < first + 60_000).count();
                prop_assert!(within as u64 <= 2 * LINES_MAX);
            }
        }
    }
}
