//! A peer as a claim sees it, and what a release teaches it.
//!
//! `pending` packs the number of requests without their signal and the sum of their starts into one
//! word, so that their mean age is read consistently; sums of such words over workers are such
//! words again. Decides nothing: the estimates, the breaker and the ramp do.
//! Cost: two loads per worker and a dozen more. Bound: 65,535 requests of one peer without their
//! signal; beyond, ages are wrong, nothing else.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::WORKERS_MAX;
use super::peer::{Live, Peer};
use super::ticket::{BalanceParams, Early, Outcome, Signal, Ticket};
use crate::breaker::Due;
use crate::pick::{Admission, PeerView, STALE_NS, STALLED, STALLED_NS, STALLED_SERVICES};
use crate::time::MonoNs;

/// A hole in the table, as the pick sees it.
pub(super) const HOLE: PeerView = PeerView {
    identity: 0,
    in_flight: 0,
    pending: 0,
    pending_age_ns: 0,
    slots: 1,
    max_conns: 1,
    weight: 0,
    service_ns: 0,
    error_ns: 0,
    usual_ns: 0,
    recent_ns: 0,
    recent_most_ns: 0,
    hold_ns: 0,
    wrr_current: 0,
    admission: Admission::Shut,
    backup: false,
    silent_ns: 0,
    stalled: false,
    span_ns: 0,
    samples: 0,
};

/// What a request that starts at `start` adds to its column's `pending`.
pub(super) fn pending_word(start: MonoNs) -> u64 {
    ((start.0 / 1_000) << 16).wrapping_add(1)
}

impl Peer {
    #[inline(always)]
    pub(super) fn view(&self, live: Live, high: usize, params: &BalanceParams, now: MonoNs) -> PeerView {
        if !live.takes() {
            return HOLE;
        }
        let (in_flight, pending) = self.columns(high);
        let count = (pending & COUNT_MASK) as u32;
        let estimate = self.estimate(params.signal);
        let service_ns = self.means.service_ns.load(Relaxed);
        let since_sample_ns = estimate.silent_ns(now);
        // A peer that has shown a signal since then does not hang, whatever one request does.
        let pending_age_ns = match mean_age_ns(pending, now) {
            age_ns if service_ns != 0 => age_ns.min(since_sample_ns),
            age_ns => age_ns,
        };
        // A busy peer is not looked at: no need to read its evidence. One or two requests that hang
        // do not make it busy.
        let is_busy =
            count > 0 && (count >= STALLED || pending_age_ns < STALE_NS.max(service_ns.saturating_mul(HUNG_SERVICES)));
        let (silent_ns, span_ns, recent_most_ns) = match is_busy {
            false => (since_sample_ns, estimate.span_ns(), estimate.recent_most_ns()),
            true => (0, 0, 0),
        };
        // Of many one would have shown its signal soon. That they are new requests that came at
        // once is told by their mean age.
        let services = STALLED_SERVICES.0 + STALLED_SERVICES.1 / u64::from(count.max(1));
        let long_ns = service_ns.saturating_mul(services).max(STALLED_NS);
        let stalled =
            count >= STALLED && service_ns != 0 && pending_age_ns >= long_ns / 2 && since_sample_ns >= long_ns;
        PeerView {
            identity: self.identity.load(Relaxed),
            in_flight,
            pending: count,
            pending_age_ns,
            slots: self.slow_start.slots(live.max_conns(), params.slow_start_ns, now),
            max_conns: live.max_conns(),
            weight: live.weight(),
            service_ns,
            stalled,
            error_ns: self.means.error_ns.load(Relaxed),
            usual_ns: self.means.usual_ns.load(Relaxed),
            recent_ns: self.means.recent_ns.load(Relaxed),
            hold_ns: self.means.hold_ns.load(Relaxed),
            wrr_current: self.credit.load(Relaxed),
            admission: self.breaker.admission(now),
            backup: live.is(Live::BACKUP),
            recent_most_ns,
            silent_ns,
            span_ns,
            samples: estimate.usual_samples(),
        }
    }

    /// Requests in flight and the sum of the `pending` words, over the first `high` workers.
    #[inline]
    fn columns(&self, high: usize) -> (u32, u64) {
        self.workers.iter().take(high).fold((0, 0), |(in_flight, pending), worker| {
            (
                u32::wrapping_add(in_flight, worker.in_flight.load(SeqCst)),
                u64::wrapping_add(pending, worker.pending.load(Relaxed)),
            )
        })
    }

    /// Returns what closed the breaker, if it closed.
    pub(super) fn learn(&self, ticket: &Ticket, outcome: Outcome, params: &BalanceParams, now: MonoNs) -> Option<Due> {
        let trial = ticket.trial;
        match outcome {
            Outcome::Success { first_byte_ns, header_ns, last_byte_ns, held_ns } => {
                let renewed = match (ticket.early, first_byte_ns) {
                    (Early::Nothing, Some(first_byte_ns)) => self.learn_first_byte(ticket, first_byte_ns, params, now),
                    (early, _) => early == Early::Renewed,
                };
                self.sample(ticket, renewed, header_ns, last_byte_ns, held_ns, params, now);
                return self.learn_end(ticket, params, now);
            }
            Outcome::Failure => {
                self.counters.failures.fetch_add(1, Relaxed);
            }
            Outcome::Excused => {
                self.counters.failures.fetch_add(1, Relaxed);
                if trial {
                    self.breaker.cancel_trial();
                }
            }
            Outcome::Answered => {
                self.counters.neutral.fetch_add(1, Relaxed);
                return self.learn_end(ticket, params, now);
            }
            Outcome::Declined | Outcome::Neutral => {
                self.counters.neutral.fetch_add(1, Relaxed);
                if trial {
                    self.breaker.cancel_trial();
                }
            }
        }
        None
    }

    /// Returns whether the mean was replaced.
    pub(super) fn learn_first_byte(
        &self,
        ticket: &Ticket,
        first_byte_ns: u64,
        params: &BalanceParams,
        now: MonoNs,
    ) -> bool {
        self.first_byte_times.record(first_byte_ns);
        if self.mutes.is_outdated(ticket.start) {
            return false;
        }
        let renewed = self.first_byte.record(first_byte_ns, params.half_life_ns, now);
        if params.signal == Signal::FirstByte {
            self.publish_soon(params.signal, now);
        }
        renewed
    }

    /// The peer gave a response: what was held against it for want of one is forgotten.
    fn vindicate(&self) {
        for mark in [&self.stale, &self.contradicted] {
            if mark.load(Relaxed) != 0 {
                mark.store(0, Relaxed);
            }
        }
    }

    /// The first token of a good response, or a WebSocket's 101, is here: it ends a trial, and it
    /// is what doubles the limit of a ramp. Returns what closed the breaker, if it closed.
    pub(super) fn learn_early(&self, trial: bool, params: &BalanceParams, now: MonoNs) -> Option<Due> {
        self.vindicate();
        let closed = if trial { self.breaker.success_of(true, self.rule()) } else { None };
        if closed.is_some() {
            // The trial among them, which may go on for long.
            self.slow_start.begin(self.in_flight(WORKERS_MAX), now);
        } else if self.slow_start.is_ramping() {
            self.slow_start.success(self.live().max_conns(), params.slow_start_ns, now);
        }
        closed
    }

    /// The end of a request that was no failure. What its first token did is not done again.
    fn learn_end(&self, ticket: &Ticket, params: &BalanceParams, now: MonoNs) -> Option<Due> {
        self.vindicate();
        let closed = self.breaker.success_of(ticket.trial, self.rule());
        if closed.is_some() {
            // Without the trial, which ends now.
            self.slow_start.begin(self.in_flight(WORKERS_MAX).saturating_sub(1), now);
        } else if ticket.early == Early::Nothing && self.slow_start.is_ramping() {
            self.slow_start.success(self.live().max_conns(), params.slow_start_ns, now);
        }
        closed
    }

    #[expect(clippy::too_many_arguments, reason = "all times of a request")]
    fn sample(
        &self,
        ticket: &Ticket,
        mut renewed: bool,
        header_ns: Option<u64>,
        last_byte_ns: Option<u64>,
        held_ns: u64,
        params: &BalanceParams,
        now: MonoNs,
    ) {
        let half_life_ns = params.half_life_ns;
        self.service_times.record(held_ns);
        if self.mutes.is_outdated(ticket.start) {
            return;
        }
        match params.signal {
            Signal::FirstByte => self.hold.follow(held_ns, renewed, half_life_ns, now),
            Signal::Header => {
                renewed = header_ns.is_some_and(|value_ns| self.header.record(value_ns, half_life_ns, now));
                self.hold.follow(held_ns, renewed, half_life_ns, now);
            }
            Signal::LastByte => {
                if let Some(last_byte_ns) = last_byte_ns {
                    self.hold.record(last_byte_ns, half_life_ns, now);
                }
            }
        }
        // With `first_byte` the means were published when it came, but for the very first time a
        // slot was held.
        if params.signal != Signal::FirstByte || self.means.hold_ns.load(Relaxed) == 0 {
            self.publish_soon(params.signal, now);
        }
    }
}

/// After so many services without a signal a request hangs, and tells nothing more about its peer.
const HUNG_SERVICES: u64 = 8;

/// The count in a `pending` word, or in a sum of them.
pub(super) const COUNT_MASK: u64 = 0xffff;

/// Mean age of what a sum of `pending` words counts; 0 when it counts nothing.
#[inline]
fn mean_age_ns(pending: u64, now: MonoNs) -> u64 {
    let count = pending & COUNT_MASK;
    if count == 0 {
        return 0;
    }
    // Starts are summed modulo 2^48 µs; so is the sum of ages, which is small but may be a hair
    // below zero.
    let ages_us = (count.wrapping_mul(now.0 / 1_000) << 16).wrapping_sub(pending & !COUNT_MASK) >> 16;
    if ages_us >> 47 == 0 { ages_us / count * 1_000 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    fn sum(starts_us: &[u64]) -> u64 {
        starts_us.iter().fold(0, |sum, us| u64::wrapping_add(sum, pending_word(MonoNs(us * US))))
    }

    #[test]
    fn what_has_not_shown_its_signal_counts_by_its_mean_age() {
        let now = MonoNs(10_000_000 * US);
        assert_eq!(mean_age_ns(0, now), 0);
        assert_eq!(mean_age_ns(sum(&[9_000_000, 8_000_000]), now), 1_500_000 * US);
    }

    #[test]
    fn the_mean_age_survives_the_sum_of_starts_wrapping_around() {
        let days_us = 86_400_000_000 * 3_000;
        let starts: Vec<u64> = (0..500).map(|i| days_us - i).collect();
        assert_eq!(mean_age_ns(sum(&starts), MonoNs((days_us + 1_000_000) * US)) / US, 1_000_000 + 249);
    }

    #[test]
    fn a_start_a_hair_ahead_of_now_is_no_age_at_all() {
        assert_eq!(mean_age_ns(sum(&[1_000_001]), MonoNs(1_000_000 * US)), 0);
    }
}
