//! Holds the requests of a key to a rate: the generic cell rate algorithm in its virtual scheduling
//! form (ITU-T I.371), on one number.
//!
//! The number is the theoretical arrival time (TAT): when the next request would come if the key
//! kept its rate exactly. A request that comes `excess` requests before it is in the burst; that is
//! nginx's `excess` of `limit_req`, so `burst` and `delay` mean what they mean there: an idle key
//! gets one request and `burst` more at once, and over a time t never more than
//! rate · t + burst + 1. A TAT in the past is a full allowance, whatever its value. A debt is a
//! time, so one made at a low rate would shut its key out for as long after a change to a high one:
//! then [`Gcra::lowered`] is what is left of it. Pure integers. Cost: some twenty instructions.
//! Bound: debts up to 2^63 ticks; all sums saturate.

use super::rate::{TICKS_PER_NS, Ticks, span_ns};
use super::settings::DELAY_NONE;
use crate::time::MILLISECOND_NS;

/// Debts so little above the whole allowance are not lowered: who has read the clock and is held up
/// then sees debts that others have made since.
const HELD_UP_MAX: Ticks = 20 * MILLISECOND_NS * TICKS_PER_NS;

/// What a key is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    /// Time between two requests, at least 1.
    pub interval: Ticks,
    /// Requests above the rate that are not refused.
    pub burst: u32,
    /// Of these, those that pass at once; [`DELAY_NONE`] = all.
    pub delay: u32,
}

/// A request is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The key's new TAT.
    pub tat: Ticks,
    /// How long the request must wait first; 0 = not at all.
    pub wait: Ticks,
}

/// It is not; nothing changes. It would be after so many ticks if no other came; `Ticks::MAX` =
/// never, since it costs more than the whole burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub Ticks);

impl Gcra {
    /// Whether a request that costs `cost` (0 counts as 1) may come at `now`, when the key's TAT is
    /// `tat`.
    #[inline]
    pub fn admit(&self, tat: Ticks, now: Ticks, cost: u32) -> Result<Admitted, Refused> {
        let start = tat.max(now);
        let next = start.saturating_add(self.cost(cost));
        let most = self.capacity();
        let debt = next - now;
        if debt > most {
            let never = self.cost(cost) > most;
            return Err(Refused(if never { Ticks::MAX } else { debt - most }));
        }
        let wait = if self.delay == DELAY_NONE {
            0
        } else {
            (start - now).saturating_sub(self.interval.saturating_mul(self.delay.into()))
        };
        Ok(Admitted { tat: next, wait })
    }

    /// The TAT of a key that owes more at `now` than these terms let anybody owe, lowered to that;
    /// `None` for all others. For debts from before these terms were in force: what was used up is
    /// used up still, and comes back at the new rate, 20 ms later at most. A debt may be that much
    /// higher.
    #[cold]
    #[must_use]
    pub fn lowered(&self, tat: Ticks, now: Ticks) -> Option<Ticks> {
        let most = now.saturating_add(self.capacity()).saturating_add(HELD_UP_MAX);
        (tat > most).then_some(most)
    }

    /// The TAT after a request that was admitted with `admitted` is taken back at `now`.
    ///
    /// Gives back what of its cost has not yet passed: what has, the key has had. At once that is
    /// all of it; so a request that is taken back never lets in more than if it had not come.
    #[inline]
    #[must_use]
    pub fn give_back(tat: Ticks, admitted: Ticks, cost: Ticks, now: Ticks) -> Ticks {
        tat.saturating_sub(cost.min(admitted.saturating_sub(now)))
    }

    /// What a request of `cost` adds to the TAT.
    #[inline]
    #[must_use]
    pub fn cost(&self, cost: u32) -> Ticks {
        self.interval.saturating_mul(cost.max(1).into())
    }

    /// Requests that would be let in at `now`, one after the other.
    #[must_use]
    pub fn remaining(&self, tat: Ticks, now: Ticks) -> u64 {
        self.capacity().saturating_sub(tat.saturating_sub(now)) / self.interval.max(1)
    }

    /// Time until the whole allowance is there again, ns.
    #[must_use]
    pub fn reset_ns(tat: Ticks, now: Ticks) -> u64 {
        span_ns(tat.saturating_sub(now))
    }

    /// The greatest debt: of an allowance that is used up.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> Ticks {
        self.interval.saturating_mul(u64::from(self.burst) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::{Rate, TICKS_PER_NS, ticks};
    use super::*;
    use crate::time::{MILLISECOND_NS, MonoNs, SECOND_NS};
    use proptest::prelude::*;

    const START: u64 = 1_000 * SECOND_NS;

    fn gcra(rate: Rate, burst: u32, delay: u32) -> Gcra {
        Gcra { interval: rate.interval(), burst, delay }
    }

    fn at(ns: u64) -> Ticks {
        ticks(MonoNs(START + ns))
    }

    #[test]
    fn an_idle_key_gets_one_request_and_the_burst_and_then_one_for_each_interval() {
        let limit = gcra(Rate::per_second(10), 5, DELAY_NONE);
        let mut tat = 0;
        for _ in 0..6 {
            tat = limit.admit(tat, at(0), 1).unwrap().tat;
        }
        assert_eq!(limit.admit(tat, at(0), 1).unwrap_err(), Refused(100 * MILLISECOND_NS * TICKS_PER_NS));
        assert_eq!(limit.remaining(tat, at(0)), 0);
        assert!(limit.admit(tat, at(100 * MILLISECOND_NS) - 1, 1).is_err());
        tat = limit.admit(tat, at(100 * MILLISECOND_NS), 1).unwrap().tat;
        assert!(limit.admit(tat, at(100 * MILLISECOND_NS), 1).is_err());
        assert_eq!(Gcra::reset_ns(tat, at(100 * MILLISECOND_NS)), 600 * MILLISECOND_NS);
        assert_eq!(limit.remaining(tat, at(10 * SECOND_NS)), 6);
    }

    #[test]
    fn a_burst_waits_as_nginx_lets_it_wait() {
        // limit_req rate=10r/s burst=5: the excess waits 100 ms each; with delay=2 the first two do
        // not.
        for (delay, waits) in [(0, [0, 100, 200, 300, 400, 500]), (2, [0, 0, 0, 100, 200, 300]), (DELAY_NONE, [0; 6])] {
            let limit = gcra(Rate::per_second(10), 5, delay);
            let mut tat = 0;
            for wait in waits {
                let admitted = limit.admit(tat, at(0), 1).unwrap();
                assert_eq!(span_ns(admitted.wait), wait * MILLISECOND_NS, "delay {delay}");
                tat = admitted.tat;
            }
        }
    }

    #[test]
    fn a_cost_above_the_whole_burst_is_refused_for_ever() {
        let limit = gcra(Rate::per_second(1), 3, 0);
        assert_eq!(limit.admit(0, at(0), 5), Err(Refused(Ticks::MAX)));
        let all = limit.admit(0, at(0), 4).unwrap();
        assert_eq!((limit.remaining(all.tat, at(0)), limit.remaining(0, at(0))), (0, 4));
        assert_eq!(limit.admit(all.tat, at(0), 4), Err(Refused(4 * SECOND_NS * TICKS_PER_NS)));
    }

    #[test]
    fn what_is_owed_from_before_a_change_keeps_nobody_out_for_longer_than_the_new_terms_would() {
        let (slow, quick) = (gcra(Rate::per_minute(1), 100, DELAY_NONE), gcra(Rate::per_second(100), 20, DELAY_NONE));
        let mut tat = 0;
        while let Ok(admitted) = slow.admit(tat, at(0), 1) {
            assert_eq!(slow.lowered(tat, at(0)), None);
            tat = admitted.tat;
        }
        assert_eq!(slow.lowered(tat, at(0)), None, "its own debts are never lowered");
        assert!(quick.admit(tat, at(0), 1).is_err());
        let lowered = quick.lowered(tat, at(0)).unwrap();
        assert_eq!(quick.lowered(lowered, at(0)), None);
        assert_eq!(quick.remaining(lowered, at(0)), 0, "used up is used up");
        assert!(quick.admit(lowered, at(60 * MILLISECOND_NS), 1).is_ok());
        assert_eq!(quick.remaining(lowered, at(SECOND_NS)), 21);
    }

    /// nginx 1.22's `ngx_http_limit_req_lookup`, with exact fractions instead of thousandths and
    /// milliseconds: excess before this request.
    struct Nginx {
        excess: f64,
        last: Option<u64>,
    }

    impl Nginx {
        fn admits(&mut self, now: u64, per_ns: f64, burst: u32) -> bool {
            let excess = self.last.map_or(0.0, |last| (self.excess - (now - last) as f64 * per_ns + 1.0).max(0.0));
            if excess > f64::from(burst) + 1e-7 {
                return false;
            }
            (self.excess, self.last) = (excess, Some(now));
            true
        }
    }

    proptest! {
        #[test]
        fn admits_exactly_what_nginx_would_with_exact_fractions(
            rate in 1_u32..1_000,
            minute in any::<bool>(),
            burst in 0_u32..30,
            steps in prop::collection::vec(0_u64..40, 1..300),
        ) {
            let rate = if minute { Rate::per_minute(rate) } else { Rate::per_second(rate) };
            let limit = gcra(rate, burst, 0);
            let interval_ns = limit.interval as f64 / TICKS_PER_NS as f64;
            let (mut tat, mut now, mut nginx) = (0, 0, Nginx { excess: 0.0, last: None });
            for step in steps {
                // Steps of tenths of an interval, off the exact boundary, where fractions and ticks
                // may round differently.
                now += step * limit.interval / (10 * TICKS_PER_NS) + 1;
                let ours = limit.admit(tat, at(now), 1);
                prop_assert_eq!(ours.is_ok(), nginx.admits(now, 1.0 / interval_ns, burst), "at {}", now);
                if let Ok(admitted) = ours {
                    tat = admitted.tat;
                }
            }
        }

        #[test]
        fn over_any_time_at_most_the_rate_and_the_burst_is_let_in_and_a_greedy_key_gets_it(
            requests in 1_u32..5_000,
            burst in 0_u32..200,
            step_us in 1_u64..2_000,
        ) {
            let limit = gcra(Rate::per_second(requests), burst, DELAY_NONE);
            let (mut tat, mut admitted, mut now) = (0, 0_u64, 0);
            while now < 10 * SECOND_NS && admitted < 100_000 {
                while let Ok(one) = limit.admit(tat, at(now), 1) {
                    tat = one.tat;
                    admitted += 1;
                }
                now += step_us * 1_000;
            }
            let earned = (now - step_us * 1_000) as f64 / 1e9 * f64::from(requests) + f64::from(burst) + 1.0;
            prop_assert!(admitted as f64 <= earned + 0.01, "{} of {}", admitted, earned);
            // What is earned between two looks must fit into the burst, or nobody could ask for it.
            if u64::from(burst) * SECOND_NS >= u64::from(requests) * step_us * 1_000 {
                prop_assert!(admitted as f64 >= earned - 1.01, "{} of {}", admitted, earned);
            }
        }

        #[test]
        fn a_request_taken_back_never_lets_in_more_than_if_it_had_not_come(
            burst in 0_u32..5,
            steps in prop::collection::vec((0_u64..250, 0_u8..4), 1..60),
            taken_at in 0_usize..50,
        ) {
            let limit = gcra(Rate::per_second(10), burst, DELAY_NONE);
            let (mut with, mut without, mut now) = (0, 0, 0);
            let mut open: Option<Ticks> = None;
            for (index, (step, action)) in steps.into_iter().enumerate() {
                now += step * MILLISECOND_NS;
                if index == taken_at {
                    if let Ok(admitted) = limit.admit(with, at(now), 1) {
                        with = admitted.tat;
                        open = Some(admitted.tat);
                    }
                } else if action == 0 {
                    if let Some(admitted) = open.take() {
                        with = Gcra::give_back(with, admitted, limit.cost(1), at(now));
                    }
                } else if let Ok(admitted) = limit.admit(with, at(now), 1) {
                    with = admitted.tat;
                    // What is let in beside it would be let in without it, too.
                    let alone = limit.admit(without, at(now), 1);
                    prop_assert!(alone.is_ok());
                    without = alone.unwrap().tat;
                }
                prop_assert!(limit.remaining(with, at(now)) <= limit.remaining(without, at(now)));
            }
        }

        #[test]
        fn taken_back_at_once_it_leaves_no_trace(burst in 0_u32..50, cost in 1_u32..60, used in 0_u32..50) {
            let limit = gcra(Rate::per_second(7), burst, DELAY_NONE);
            let mut tat = 0;
            for _ in 0..used {
                tat = limit.admit(tat, at(5), 1).map_or(tat, |admitted| admitted.tat);
            }
            if let Ok(admitted) = limit.admit(tat, at(5), cost) {
                let after = Gcra::give_back(admitted.tat, admitted.tat, limit.cost(cost), at(5));
                prop_assert_eq!(after, tat.max(at(5)));
            }
        }
    }
}
