//! How long to wait before the next attempt to reach one of several replicas: exponential, with
//! half of it left to chance.
//!
//! After "Exponential Backoff And Jitter" (Brooker, 2015), *equal jitter*: half of the delay is
//! certain, so a broken replica is never hammered, and half is random, so that a fleet does not
//! come back in step. Every replica is tried once before the delay grows. Where nobody listens an
//! attempt costs nobody anything, so it is made about once a second: a control plane that restarts
//! is found at once, however long it was away. Pure: randomness comes in. Bound:
//! [`REPEATED_MS_MAX`].

/// Delay after the first failure, in milliseconds, before jitter.
pub const FIRST_MS: u64 = 50;

/// The longest delay while nobody listens, in milliseconds.
pub const ABSENT_MS_MAX: u64 = 1_000;

/// The longest delay while attempts cost the other side something, in milliseconds.
pub const REPEATED_MS_MAX: u64 = 10_000;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Refused by the other machine's kernel: nobody listens there.
    Absent,
    /// Any other way: a timeout, a handshake that failed, a stream that broke.
    Failed,
}

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// An attempt was of use: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Milliseconds to wait after a failure. `replicas` is how many are tried in turn (0 counts as
    /// 1); `random` is uniform.
    pub fn next_ms(&mut self, ending: Ending, replicas: u32, random: u64) -> u64 {
        let rounds = self.failures / replicas.max(1);
        self.failures = self.failures.saturating_add(1);
        let longest_ms = match ending {
            Ending::Absent => ABSENT_MS_MAX,
            Ending::Failed => REPEATED_MS_MAX,
        };
        let full_ms = FIRST_MS.checked_shl(rounds.min(16)).unwrap_or(longest_ms).min(longest_ms);
        let certain_ms = full_ms / 2;
        certain_ms + random % (full_ms - certain_ms + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: u64 = u64::MAX / 2;

    #[test]
    fn delays_double_from_fifty_milliseconds_to_the_bound_and_stay_there() {
        let mut backoff = Backoff::default();
        let floors: Vec<u64> = (0..40).map(|_| backoff.next_ms(Ending::Failed, 1, 0)).collect();
        assert_eq!(floors[..9], [25, 50, 100, 200, 400, 800, 1_600, 3_200, 5_000]);
        assert!(floors[8..].iter().all(|&floor| floor == REPEATED_MS_MAX / 2));
    }

    #[test]
    fn a_replica_that_nobody_serves_is_asked_about_once_a_second() {
        let mut backoff = Backoff::default();
        let last = (0..1_000).map(|_| backoff.next_ms(Ending::Absent, 1, 0)).last();
        assert_eq!(last, Some(ABSENT_MS_MAX / 2));
    }

    #[test]
    fn jitter_takes_every_value_of_the_upper_half_and_no_other() {
        let mut seen = std::collections::BTreeSet::new();
        for random in (0..1_000).chain([LONGEST, u64::MAX]) {
            seen.insert(Backoff::default().next_ms(Ending::Failed, 1, random));
        }
        assert!(seen.into_iter().eq(25..=50));
    }

    #[test]
    fn every_replica_is_tried_before_the_delay_grows() {
        let mut backoff = Backoff::default();
        let floors: Vec<u64> = (0..6).map(|_| backoff.next_ms(Ending::Failed, 3, 0)).collect();
        assert_eq!(floors, [25, 25, 25, 50, 50, 50]);
    }

    #[test]
    fn a_useful_attempt_starts_it_over() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next_ms(Ending::Failed, 0, 0);
        }
        backoff.reset();
        assert_eq!(backoff.next_ms(Ending::Failed, 0, 0), 25);
    }

    #[test]
    fn a_restart_of_two_seconds_is_noticed_within_one_more() {
        // Attempts at the latest moments that jitter allows: one falls into (2 s, 3 s].
        let mut backoff = Backoff::default();
        let mut at_ms = 0;
        while at_ms <= 2_000 {
            at_ms += backoff.next_ms(Ending::Absent, 1, 0).max(1) * 2;
        }
        assert!(at_ms <= 3_000, "{at_ms}");
    }
}
