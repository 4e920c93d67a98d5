//! Shares a bandwidth among all responses of a key: each reserves the next piece of time, and sends
//! when it has come.
//!
//! One number says until when the bandwidth is promised. A response that has used up its credit
//! reserves a quantum behind all others and may send once its turn comes; so whoever has enough to
//! send gets one quantum a round, whatever the others do: deficit round robin (Shreedhar and
//! Varghese 1995) with the queue laid out in time, by virtual clocks (Zhang 1990). Nobody has to
//! wake anybody, and nobody looks before its time. What is promised never exceeds the bandwidth; a
//! response that comes late loses nothing, since its turn stays its own. Nobody sends ahead of its
//! credit: who has a chunk to keep whole saves for it, so that what ended responses have sent is
//! paid for, and a thousand small ones get no more than a large one. Pure integers, no clock. Cost:
//! one division. Bound: a rate of zero is no limit; times saturate.

use crate::time::{MILLISECOND_NS, MonoNs, SECOND_NS};

/// A round among all active responses lasts about so long, ns: short enough to look smooth, long
/// enough that a timer of a millisecond is 2 %.
const ROUND_NS: u64 = 50 * MILLISECOND_NS;

/// What an idle bandwidth may be behind, ns: what responses that come late by less do not lose, and
/// all that an idle key may send above its rate.
const SLACK_NS: u64 = 50 * MILLISECOND_NS;

/// The least and the greatest quantum, bytes: half a packet, and what no buffer is larger than.
const QUANTUM_BYTES: (u64, u64) = (1 << 10, 8 << 20);

/// Quanta that one look may take from a bandwidth that was idle.
const QUANTA_MAX: usize = 16;

/// The longest that a response waits before it looks again, ns: so soon does a change of the rate
/// reach all of them.
const LOOK_AGAIN_NS: u64 = 200 * MILLISECOND_NS;

/// The shortest wait, ns: nginx's timers are no finer.
const WAIT_LEAST_NS: u64 = MILLISECOND_NS;

/// How much may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Bytes that may be sent now, up to what was wanted and not under what goes at once. 0 = none
    /// before `retry_after_ns` has passed.
    pub bytes: u64,
    /// When to ask again, ns; 0 with bytes.
    pub retry_after_ns: u64,
}

/// What one response has of its key's bandwidth. In the response's own memory; the default is a
/// fresh one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes that may be sent.
    credit: u64,
    /// Bytes that are added at `due`; 0 = none reserved.
    reserved: u64,
    due: MonoNs,
    /// The bandwidth that `due` was reckoned with.
    bandwidth: u64,
}

/// A bandwidth and the number of responses that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second, at least 1.
    pub bandwidth: u64,
    /// Responses of the key, at least 1.
    pub active: u32,
}

impl Pace {
    /// How much a response reserves at once.
    fn quantum(&self) -> u64 {
        let round = u128::from(self.bandwidth) * u128::from(ROUND_NS) / u128::from(SECOND_NS);
        let part = round / u128::from(self.active.max(1));
        u64::try_from(part).unwrap_or(u64::MAX).clamp(QUANTUM_BYTES.0, QUANTUM_BYTES.1)
    }

    /// How long `bytes` take, ns.
    fn time_of(&self, bytes: u64) -> u64 {
        let ns = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(self.bandwidth.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How far back an idle bandwidth may be used: a quantum, so that the first of many does not
    /// get it all, and not more than the slack.
    fn idle_since(&self, now: MonoNs) -> MonoNs {
        MonoNs(now.0.saturating_sub(self.time_of(self.quantum()).min(SLACK_NS)))
    }

    /// Promises `bytes` after all that is promised: when they may be sent, and until when the
    /// bandwidth is promised then.
    #[must_use]
    pub fn promise(&self, free_at: MonoNs, now: MonoNs, bytes: u64) -> (MonoNs, MonoNs) {
        let start = free_at.max(self.idle_since(now));
        (start, start.plus(self.time_of(bytes)))
    }

    /// Until when the bandwidth is promised after `bytes` of a promise are given back.
    #[must_use]
    pub fn give_back(&self, free_at: MonoNs, now: MonoNs, bytes: u64) -> MonoNs {
        MonoNs(free_at.0.saturating_sub(self.time_of(bytes))).max(self.idle_since(now).min(free_at))
    }

    /// A moment reckoned with the bandwidth `old`, at the bandwidth of today: what lies ahead takes
    /// so much longer or shorter.
    #[must_use]
    pub fn rescale(&self, moment: MonoNs, now: MonoNs, old: u64) -> MonoNs {
        let ahead = u128::from(moment.since(now)) * u128::from(old) / u128::from(self.bandwidth.max(1));
        if ahead == 0 { moment } else { now.plus(u64::try_from(ahead).unwrap_or(u64::MAX)) }
    }
}

impl Flow {
    /// What the response may do at `now`, with `wanted` bytes there of which at least `least` go at
    /// once or none, 0 counting as 1; `promise` takes the bytes to reserve and returns when they
    /// may be sent.
    ///
    /// Asks for a promise when the credit does not suffice; it has at most one outstanding. One of
    /// a whole quantum, however little is wanted: who always has a little more to send is not worse
    /// off than who has all of it. And of no more, whatever is to stay whole: the others' turns
    /// come as often as ever.
    pub fn ask(&mut self, pace: &Pace, now: MonoNs, wanted: u64, least: u64, promise: impl Fn(u64) -> MonoNs) -> Grant {
        self.arrive(pace, now);
        let least = least.max(1).min(wanted);
        for _ in 0..QUANTA_MAX {
            if self.credit >= least || self.reserved > 0 {
                break;
            }
            self.reserved = pace.quantum();
            self.due = promise(self.reserved);
            self.bandwidth = pace.bandwidth;
            self.arrive(pace, now);
        }
        if self.credit >= least {
            return Grant { bytes: wanted.min(self.credit), retry_after_ns: 0 };
        }
        Grant { bytes: 0, retry_after_ns: self.due.since(now).clamp(WAIT_LEAST_NS, LOOK_AGAIN_NS) }
    }

    /// `bytes` were sent: not more than granted.
    pub fn sent(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub(bytes);
    }

    /// Forgets all credit: there is no bandwidth to keep.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Bytes promised and not sent: the response ends, others may have them.
    pub fn end(&mut self) -> u64 {
        let unsent = self.reserved.saturating_add(self.credit);
        self.forget();
        unsent
    }

    /// Turns what is due into credit.
    fn arrive(&mut self, pace: &Pace, now: MonoNs) {
        if self.reserved == 0 {
            return;
        }
        if self.bandwidth != pace.bandwidth {
            self.due = pace.rescale(self.due, now, self.bandwidth);
            self.bandwidth = pace.bandwidth;
        }
        if self.due <= now {
            self.credit = self.credit.saturating_add(self.reserved);
            self.reserved = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const MIB: u64 = 1 << 20;

    /// Responses that always want `chunk` bytes, look when they are told plus `late`, and keep
    /// chunks whole if `whole`.
    struct Line {
        flow: Flow,
        chunk: u64,
        late: u64,
        whole: bool,
        next: u64,
        sent: u64,
    }

    fn line(chunk: u64, late: u64, whole: bool) -> Line {
        Line { flow: Flow::default(), chunk, late, whole, next: 0, sent: 0 }
    }

    /// Runs them for `seconds` at the bandwidths of `rate`, in whole milliseconds as nginx does.
    fn run(lines: &mut [Line], seconds: u64, rate: impl Fn(u64) -> u64) {
        let free_at = Cell::new(MonoNs(0));
        let (mut old, active) = (rate(0), u32::try_from(lines.len()).unwrap());
        for ms in 0..seconds * 1_000 {
            let now = MonoNs(1_000_000 * (1_000_000 + ms));
            let pace = Pace { bandwidth: rate(ms), active };
            if pace.bandwidth != old {
                free_at.set(pace.rescale(free_at.get(), now, old));
                old = pace.bandwidth;
            }
            for line in lines.iter_mut().filter(|line| line.next <= now.0) {
                let promise = |bytes| {
                    let (due, until) = pace.promise(free_at.get(), now, bytes);
                    free_at.set(until);
                    due
                };
                loop {
                    let least = if line.whole { line.chunk } else { 1 };
                    let grant = line.flow.ask(&pace, now, line.chunk, least, promise);
                    if grant.bytes == 0 {
                        line.next = now.0 + grant.retry_after_ns + line.late;
                        break;
                    }
                    assert!(grant.bytes >= least);
                    line.flow.sent(grant.bytes);
                    line.sent += grant.bytes;
                }
            }
        }
    }

    fn assert_fair(lines: &[Line], total: u64) {
        let sent: u64 = lines.iter().map(|line| line.sent).sum();
        let fair = total / lines.len() as u64;
        assert!(sent.abs_diff(total) * 20 <= total, "{sent} of {total}");
        for line in lines {
            assert!(line.sent.abs_diff(fair) * 10 <= fair, "{} where {fair} is fair", line.sent);
        }
    }

    #[test]
    fn twenty_responses_share_a_megabyte_a_second_evenly_whatever_their_chunks_and_delays() {
        let mut lines: Vec<Line> = (0..20)
            .map(|i| line([1_000, 16_384, 65_536][i % 3], [0, 2, 7][i / 3 % 3] * 1_000_000, i % 2 == 0))
            .collect();
        run(&mut lines, 60, |_| MIB);
        assert_fair(&lines, 60 * MIB);
    }

    #[test]
    fn one_response_gets_all_and_a_thousand_share_it() {
        for (count, rate) in [(1, MIB), (1, 10_000), (3, 100 * MIB), (1_000, 10 * MIB)] {
            let mut lines: Vec<Line> = (0..count).map(|_| line(32_768, 1_000_000, false)).collect();
            run(&mut lines, 20, |_| rate);
            assert_fair(&lines, 20 * rate);
        }
    }

    #[test]
    fn a_change_of_the_rate_reaches_running_responses_at_once() {
        let mut lines: Vec<Line> = (0..20).map(|_| line(16_384, 0, false)).collect();
        // One second at 10 kB/s, nine at 1 MB/s, ten at 100 kB/s.
        let rate = |ms| {
            if ms < 1_000 {
                10_000
            } else if ms < 10_000 {
                1_000_000
            } else {
                100_000
            }
        };
        run(&mut lines, 20, rate);
        assert_fair(&lines, 10_000 + 9_000_000 + 1_000_000);
    }

    #[test]
    fn a_slow_stream_among_greedy_ones_waits_for_a_round_at_most() {
        let free_at = Cell::new(MonoNs(0));
        let pace = Pace { bandwidth: MIB, active: 20 };
        let mut greedy = vec![Flow::default(); 19];
        let mut slow = Flow::default();
        let mut longest = 0;
        for ms in 0..10_000_u64 {
            let now = MonoNs(1_000_000 * (1_000 + ms));
            let promise = |bytes| {
                let (due, until) = pace.promise(free_at.get(), now, bytes);
                free_at.set(until);
                due
            };
            for flow in &mut greedy {
                let bytes = flow.ask(&pace, now, MIB, 1, promise).bytes;
                flow.sent(bytes);
            }
            if ms % 100 == 0 {
                let grant = slow.ask(&pace, now, 200, 200, promise);
                longest = longest.max(grant.retry_after_ns);
                slow.sent(200);
            }
        }
        assert!(longest <= 60 * MILLISECOND_NS, "{longest}");
    }

    /// What `clients` get in 10 s at `rate`, each of which asks for a response of `bytes` as soon
    /// as it has one.
    fn small_answers(clients: u32, rate: u64, bytes: u64, whole: bool) -> u64 {
        let free_at = Cell::new(MonoNs(0));
        let pace = Pace { bandwidth: rate, active: clients };
        let mut sent = 0;
        // Flow, what is left of the response, when to look.
        let mut running: Vec<_> = (0..clients).map(|_| (Flow::default(), bytes, 0)).collect();
        for ms in 0..10_000_u64 {
            let now = MonoNs(MILLISECOND_NS * (1_000_000 + ms));
            for (flow, left, next) in running.iter_mut().filter(|(.., next)| *next <= now.0) {
                let promise = |bytes| {
                    let (due, until) = pace.promise(free_at.get(), now, bytes);
                    free_at.set(until);
                    due
                };
                let grant = flow.ask(&pace, now, *left, if whole { *left } else { 1 }, promise);
                flow.sent(grant.bytes);
                sent += grant.bytes;
                *left -= grant.bytes;
                *next = now.0 + grant.retry_after_ns;
                if *left == 0 {
                    free_at.set(pace.give_back(free_at.get(), now, flow.end()));
                    *left = bytes;
                    // The next request is here.
                    *next = now.0 + MILLISECOND_NS;
                }
            }
        }
        sent
    }

    #[test]
    fn many_small_answers_get_no_more_and_no_less_than_a_large_one() {
        for clients in [1, 20, 100] {
            for (rate, bytes, whole) in [
                (204_800, 8_192, false),
                (204_800, 4_096, true),
                (204_800, 1_500, true),
                (204_800, 1_100, false),
                (204_800, 700, false),
                (10_240, 8_192, false),
            ] {
                let sent = small_answers(clients, rate, bytes, whole);
                let case = format!("{clients} clients, {bytes} bytes, {whole} at {rate}: {sent}");
                // The slack and the first round, which goes before its time, and what was saved for
                // whole responses last.
                let slack = rate / 10 + u64::from(clients) * (QUANTUM_BYTES.0 + bytes * u64::from(whole));
                assert!(sent <= 10 * rate + slack, "{case}");
                assert!((sent + slack) * 100 >= 10 * rate * 95, "{case}");
            }
        }
    }

    #[test]
    fn what_a_response_leaves_unsent_is_there_for_others() {
        let pace = Pace { bandwidth: 1_000_000, active: 1 };
        let now = MonoNs(10 * SECOND_NS);
        let (mut flow, free_at) = (Flow::default(), Cell::new(now));
        let grant = flow.ask(&pace, now, 1_000_000, 1, |bytes| {
            let (due, until) = pace.promise(free_at.get(), now, bytes);
            free_at.set(until);
            due
        });
        flow.sent(10_000);
        assert_eq!((grant.bytes, free_at.get()), (50_000, now.plus(50 * MILLISECOND_NS)));
        let unsent = flow.end();
        assert_eq!((unsent, pace.give_back(free_at.get(), now, unsent)), (40_000, now.plus(10 * MILLISECOND_NS)));
    }
}
