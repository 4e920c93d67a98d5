//! The time of day, held against a monotonic clock: a wall clock that steps is not believed at
//! once.
//!
//! NTP, a virtual machine that resumes, or a hand may set the clock of pincerd's machine wrong for
//! a while; then no API key may end early or late. A step is believed only after the clock has
//! stood `HOLD` where it stepped to. Until then time goes on from before the step. Pure but for
//! `Clock::now_s`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::metrics::Metrics;

/// How far the wall clock may be from the monotonic one, in seconds, before that is a step.
const STEP_S: i64 = 3;
/// How long a step must stand before it is believed.
const HOLD: Duration = Duration::from_secs(300);

/// What a reading said of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// It stepped by so many seconds.
    Stepped(i64),
    /// It is back.
    Back,
    /// The step has stood, and is believed.
    Believed(i64),
}

/// The time by the wall at a monotonic moment.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    wall_s: i64,
    since: Duration,
}

impl Anchor {
    fn now_s(self, since: Duration) -> i64 {
        self.wall_s.saturating_add(i64::try_from(since.saturating_sub(self.since).as_secs()).unwrap_or(i64::MAX))
    }
}

#[derive(Debug)]
struct State {
    trusted: Anchor,
    /// Where the wall clock stepped to.
    stepped: Option<Anchor>,
}

impl State {
    fn new(wall_s: i64) -> Self {
        Self { trusted: Anchor { wall_s, since: Duration::ZERO }, stepped: None }
    }

    /// The time in seconds since 1970, by the wall clock's `wall_s` at the monotonic moment
    /// `since`.
    fn read(&mut self, wall_s: i64, since: Duration) -> (i64, Option<News>) {
        let trusted_s = self.trusted.now_s(since);
        let here = Anchor { wall_s, since };
        if (wall_s - trusted_s).abs() < STEP_S {
            self.trusted = here;
            return (wall_s, self.stepped.take().map(|_| News::Back));
        }
        match self.stepped {
            Some(stepped) if (wall_s - stepped.now_s(since)).abs() < STEP_S => {
                if since.saturating_sub(stepped.since) < HOLD {
                    return (trusted_s, None);
                }
                *self = Self { trusted: here, stepped: None };
                (wall_s, Some(News::Believed(wall_s - trusted_s)))
            }
            _ => {
                self.stepped = Some(here);
                (trusted_s, Some(News::Stepped(wall_s - trusted_s)))
            }
        }
    }
}

/// The clock of the process.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    state: Mutex<State>,
}

/// Seconds since 1970 as the wall clock has them.
fn wall_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: Instant::now(), state: Mutex::new(State::new(wall_s())) }
    }
}

impl Clock {
    /// Seconds since 1970. Logs and counts a step.
    pub fn now_s(&self, metrics: &Metrics) -> i64 {
        let (now_s, news) = self.state.lock().read(wall_s(), self.began.elapsed());
        match news {
            Some(News::Stepped(by_s)) => {
                metrics.clock_steps.inc();
                tracing::warn!(
                    by_s,
                    "pincer: the wall clock stepped, time goes on from before until that has stood 5 minutes"
                );
            }
            Some(News::Back) => tracing::info!("pincer: the wall clock is back"),
            Some(News::Believed(by_s)) => {
                tracing::warn!(by_s, "pincer: the wall clock's step has stood, it is believed")
            }
            None => {}
        }
        now_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS_100: i64 = 100 * 86_400;

    fn read(state: &mut State, wall_s: i64, since_s: u64) -> (i64, Option<News>) {
        state.read(wall_s, Duration::from_secs(since_s))
    }

    #[test]
    fn a_clock_that_is_wrong_for_a_while_changes_no_time() {
        let mut state = State::new(1000);
        assert_eq!(read(&mut state, 1010, 10), (1010, None));
        assert_eq!(read(&mut state, 1011 + DAYS_100, 11), (1011, Some(News::Stepped(DAYS_100))));
        assert_eq!(read(&mut state, 1021 + DAYS_100, 21), (1021, None), "said once");
        assert_eq!(read(&mut state, 1022, 22), (1022, Some(News::Back)));
        assert_eq!(read(&mut state, 1023 - DAYS_100, 23), (1023, Some(News::Stepped(-DAYS_100))));
    }

    #[test]
    fn a_step_that_stands_is_believed_and_one_that_wanders_is_not() {
        let mut state = State::new(1000);
        assert_eq!(read(&mut state, 5000, 0), (1000, Some(News::Stepped(4000))));
        assert_eq!(read(&mut state, 9000, 299), (1299, Some(News::Stepped(7701))), "it stepped again");
        assert_eq!(read(&mut state, 9299, 598), (1598, None));
        assert_eq!(read(&mut state, 9301, 600), (9301, Some(News::Believed(7701))));
        assert_eq!(read(&mut state, 9302, 601), (9302, None));
    }

    #[test]
    fn a_clock_that_is_slewed_is_followed() {
        let mut state = State::new(0);
        for turn in 1..1000_i64 {
            let wall_s = turn * 101;
            assert_eq!(read(&mut state, wall_s, turn.unsigned_abs() * 100), (wall_s, None));
        }
    }
}
