//! Logs a cause at most five times a minute, however often it is met.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines of one cause in any `PERIOD`.
const LINES_MAX: u32 = 5;
const PERIOD: Duration = Duration::from_secs(60);

/// One cause.
#[derive(Debug, Default)]
pub struct Rarely(Mutex<Option<(Instant, u32)>>);

impl Rarely {
    /// Whether a line may be written at `now`.
    fn may(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let (began, lines) = state.filter(|(began, _)| now.duration_since(*began) < PERIOD).unwrap_or((now, 0));
        *state = Some((began, lines.saturating_add(1)));
        lines < LINES_MAX
    }

    /// Runs `log` if there is room for another line.
    pub fn say(&self, log: impl FnOnce()) {
        if self.may(Instant::now()) {
            log();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lines_a_minute() {
        let (cause, now) = (Rarely::default(), Instant::now());
        let lines = |from: u64| (from..from + 50).filter(|s| cause.may(now + Duration::from_secs(*s))).count();
        assert_eq!((lines(0), lines(60), lines(130)), (5, 5, 5));
    }
}
