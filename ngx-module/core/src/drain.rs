//! How fast a queue empties: grants per second of the time in which something waited, over the last
//! [`HALF_LIFE_S`] and more.
//!
//! A ratio of two sums that halve together, so it is right from the second grant on, needs no idle
//! queue to be told apart (idle time is in neither sum), and never decays to zero. The time since
//! the last grant counts too: a queue that stands still gets slower by the second. Lock-free: both
//! sums share one word; `at` is swapped, so concurrent grants split the time between them without a
//! gap. Cost: about 20 ns a grant. All-zero bytes are the empty rate.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::time::{MonoNs, SECOND_NS};

/// Time of waiting after which a grant counts half, seconds: some services of a language model.
const HALF_LIFE_S: f32 = 10.0;
/// The longest wait that is advised, seconds: the openai clients do not believe more.
pub const RETRY_AFTER_MAX_S: u32 = 60;

/// The cell. All-zero bytes are a queue that nobody ever left.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Drain {
    /// Two f32: grants above, seconds in which something waited below.
    sums: AtomicU64,
    /// Time of the last grant, or when the queue began to fill after it was empty.
    at: AtomicU64,
}

impl Drain {
    /// The queue was empty, and is not any more.
    pub fn begin(&self, now: MonoNs) {
        self.at.store(now.0, Relaxed);
    }

    /// A request left the queue for a peer.
    pub fn grant(&self, now: MonoNs) {
        let seconds = seconds(now, MonoNs(self.at.swap(now.0, Relaxed)));
        let _ = self.sums.fetch_update(Relaxed, Relaxed, |word| {
            let (grants, waited) = aged(word, seconds);
            Some(pack(grants + 1.0, waited))
        });
    }

    /// Grants per second; `None` before the first.
    pub fn per_second(&self, now: MonoNs) -> Option<f32> {
        let open = seconds(now, MonoNs(self.at.load(Relaxed)));
        let (grants, waited) = aged(self.sums.load(Relaxed), open);
        (grants > 0.0).then(|| grants / waited.max(1e-6))
    }

    /// Whole seconds after which a queue in which `waiting` requests are ahead has let them go: 1
    /// to [`RETRY_AFTER_MAX_S`], which is also the answer while nothing is known.
    pub fn retry_after_s(&self, waiting: u32, now: MonoNs) -> u32 {
        let Some(rate) = self.per_second(now) else { return RETRY_AFTER_MAX_S };
        let seconds = f64::from(waiting) / f64::from(rate);
        (1..RETRY_AFTER_MAX_S).find(|whole| seconds <= f64::from(*whole)).unwrap_or(RETRY_AFTER_MAX_S)
    }

    /// Forgets everything (a record is reused for another upstream).
    pub fn reset(&self) {
        self.sums.store(0, Relaxed);
        self.at.store(0, Relaxed);
    }
}

fn seconds(now: MonoNs, earlier: MonoNs) -> f32 {
    now.since(earlier) as f32 / SECOND_NS as f32
}

/// Grants and seconds after `seconds` more without a grant.
fn aged(word: u64, seconds: f32) -> (f32, f32) {
    let half = |bits: u64| f32::from_bits(u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0));
    let keep = (-seconds / HALF_LIFE_S).exp2();
    (half(word >> 32) * keep, half(word) * keep + seconds)
}

fn pack(grants: f32, waited: f32) -> u64 {
    u64::from(grants.to_bits()) << 32 | u64::from(waited.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoNs {
        MonoNs(1_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn the_rate_is_that_of_the_grants_whatever_idles_in_between() {
        let drain = Drain::default();
        for burst in 0..5 {
            let begin = burst * 3_600_000;
            drain.begin(at(begin));
            (1..=50).for_each(|n| drain.grant(at(begin + n * 100)));
        }
        let rate = drain.per_second(at(4 * 3_600_000 + 5_000)).unwrap();
        assert!((9.5..10.5).contains(&rate), "{rate}");
        assert_eq!(drain.retry_after_s(95, at(4 * 3_600_000 + 5_000)), 10);
    }

    #[test]
    fn a_change_of_speed_is_followed_and_a_standstill_shows() {
        let drain = Drain::default();
        drain.begin(at(0));
        (1..=1_000).for_each(|n| drain.grant(at(n * 10)));
        (1..=60).for_each(|n| drain.grant(at(10_000 + n * 1_000)));
        let rate = drain.per_second(at(70_000)).unwrap();
        assert!((0.9..3.0).contains(&rate), "{rate}");
        assert!(drain.per_second(at(130_000)).unwrap() < 0.2);
    }

    #[test]
    fn advice_is_at_least_a_second_and_bounded() {
        let drain = Drain::default();
        assert_eq!(drain.retry_after_s(5, at(0)), RETRY_AFTER_MAX_S);
        drain.begin(at(0));
        drain.grant(at(1));
        assert_eq!(drain.retry_after_s(0, at(1)), 1);
        assert_eq!(drain.retry_after_s(1, at(1)), 1);
        assert_eq!(drain.retry_after_s(u32::MAX, at(2)), RETRY_AFTER_MAX_S);
    }
}
