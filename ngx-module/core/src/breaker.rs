//! Circuit breaker of one peer: takes a failing replica out of the pick and lets single requests
//! find out whether it is back.
//!
//! Without it a replica that fails in 5 ms looks like the fastest and draws nearly all traffic.
//! Closed → open after 3 failures in a row or over half of the last ten, for 1 s · 2^k (k =
//! openings since it last did ten good requests in a row, at most 5) and up to a quarter more at
//! random, so that workers and machines do not come back in step. Then half open: exactly one
//! request. A trial that never reports (its worker was killed) is cancelled after [`TRIAL_NS`].
//! Explicit `max_fails` and `fail_timeout` replace both numbers by nginx's ([`Rule::Counted`]).
//!
//! The whole state is one word, changed by compare-and-swap, so it is valid after every store.
//! Times are kept in ms (40 bits, 34 years).
//! Cost: one load to look. Never decides what a failure is.

use crate::pick::Admission;
use crate::time::{MILLISECOND_NS, MonoNs};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// Failures in a row that open it.
const RUN: u32 = 3;
/// Outcomes it remembers.
const WINDOW: u32 = 10;
/// Failures among the last [`WINDOW`] that open it.
const WINDOW_FAILURES: u32 = 6;
/// First time out, ms.
const OUT_MS: u64 = 1_000;
/// Doublings of the time out, at most: 32 s.
const DOUBLINGS_MAX: u64 = 5;
/// A trial without a verdict for this long is cancelled, ns. Longer than the signal of nearly every
/// request; a second trial beside it is harmless.
pub const TRIAL_NS: u64 = 30_000 * MILLISECOND_NS;

const TIME_MASK: u64 = (1 << 40) - 1;

/// When failures open the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Pincer's own: 3 in a row, or over half of the last ten; out for 1 s, doubling up to 32 s.
    Adaptive,
    /// nginx's: `max_fails` failures, each within `fail_timeout_ns` of the one before, take the
    /// peer out for `fail_timeout_ns`. A success in between does not reset the count (nginx resets
    /// `fails` only where `accessed < checked`, which takes `fail_timeout` without a failure).
    Counted {
        /// Failures that take it out; counts above 65,535 act as 65,535.
        max_fails: u32,
        /// Window and time out, ns.
        fail_timeout_ns: u64,
    },
    /// `max_fails=0`: never out.
    Off,
}

impl Rule {
    /// The rule of a `server` line: explicit `max_fails` or `fail_timeout` have nginx's meaning,
    /// otherwise the adaptive rule.
    #[must_use]
    pub const fn of_server(explicit: bool, max_fails: u32, fail_timeout_ms: u32) -> Self {
        match (explicit, max_fails) {
            (false, _) => Self::Adaptive,
            (true, 0) => Self::Off,
            (true, _) => Self::Counted { max_fails, fail_timeout_ns: fail_timeout_ms as u64 * MILLISECOND_NS },
        }
    }
}

/// What opened a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// So many failures in a row.
    Row(u32),
    /// So many failures among the last outcomes.
    Most {
        /// The failures.
        failures: u32,
        /// The outcomes.
        outcomes: u32,
    },
    /// So many failures, each within `fail_timeout` of the one before.
    Counted(u32),
    /// The half-open breaker's trial failed.
    Trial,
}

/// Why a breaker that is open is due for its trial before its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// It is not: its time passed.
    #[default]
    Elapsed,
    /// nginx was reloaded.
    Reloaded,
    /// The control plane set something of the peer.
    Set,
}

/// State for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests flow.
    Closed,
    /// None flow until a time.
    Open,
    /// One request is let through, or the next one will be.
    HalfOpen,
}

/// The cell. All-zero bytes are a closed breaker without history.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Breaker {
    /// See [`Word`].
    word: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    Trial,
}

/// The decoded word: phase 2 bits, due 2 bits, doublings 4 bits, history 16 bits, time 40 bits.
#[derive(Clone, Copy)]
struct Word {
    phase: Phase,
    /// Why the trial comes, or came, before its time.
    due: Due,
    /// k of the next time out.
    doublings: u64,
    /// `Adaptive`: outcomes in bits 0–9 (1 = failure, newest lowest), their number in bits 10–13.
    /// `Counted`: failures in the window.
    history: u32,
    /// ms. Closed: the last counted failure. Open: the end of the time out. Trial: when it is
    /// cancelled.
    time_ms: u64,
}

impl Word {
    fn decode(word: u64) -> Self {
        Self {
            phase: match word >> 62 {
                0 => Phase::Closed,
                1 => Phase::Open,
                _ => Phase::Trial,
            },
            due: match word >> 60 & 3 {
                0 => Due::Elapsed,
                1 => Due::Reloaded,
                _ => Due::Set,
            },
            doublings: word >> 56 & 0xf,
            history: (word >> 40 & 0xffff) as u32,
            time_ms: word & TIME_MASK,
        }
    }

    fn encode(self) -> u64 {
        let phase = match self.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::Trial => 2,
        };
        let due = match self.due {
            Due::Elapsed => 0,
            Due::Reloaded => 1,
            Due::Set => 2,
        };
        let history = u64::from(self.history & 0xffff);
        phase << 62 | due << 60 | (self.doublings & 0xf) << 56 | history << 40 | self.time_ms & TIME_MASK
    }

    fn remember(self, failed: bool) -> Self {
        let seen = (self.history >> WINDOW & 0xf).min(WINDOW - 1) + 1;
        let outcomes = (self.history << 1 | u32::from(failed)) & ((1 << WINDOW) - 1);
        let doublings = if seen == WINDOW && outcomes == 0 { 0 } else { self.doublings };
        Self { history: seen << WINDOW | outcomes, doublings, ..self }
    }

    fn is_failing(self) -> bool {
        let outcomes = self.outcomes();
        outcomes.trailing_ones() >= RUN
            || (self.history >> WINDOW == WINDOW && outcomes.count_ones() >= WINDOW_FAILURES)
    }

    /// The adaptive rule's outcomes: 1 = failure, the newest lowest.
    fn outcomes(self) -> u32 {
        self.history & ((1 << WINDOW) - 1)
    }

    /// The adaptive rule's history as if its newest failure had not been.
    fn without_a_failure(self) -> u32 {
        let (outcomes, seen) = (self.outcomes(), self.history >> WINDOW);
        if outcomes == 0 {
            return self.history;
        }
        let at = outcomes.trailing_zeros();
        let newer = outcomes & ((1 << at) - 1);
        seen.saturating_sub(1) << WINDOW | outcomes >> (at + 1) << at | newer
    }

    /// One failure more that does not open it.
    fn held(self, rule: Rule, now_ms: u64) -> Self {
        match rule {
            Rule::Adaptive => self.remember(true),
            Rule::Counted { .. } => {
                Self { history: self.history.saturating_add(1).min(0xffff), time_ms: now_ms, ..self }
            }
            Rule::Off => self,
        }
    }

    fn opened(self, out_ms: u64, now_ms: u64) -> Self {
        let doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        Self { phase: Phase::Open, due: Due::Elapsed, doublings, history: 0, time_ms: now_ms + out_ms }
    }

    /// Why one failure more opens it.
    fn opening(self, rule: Rule, now_ms: u64) -> Opening {
        match rule {
            Rule::Counted { fail_timeout_ns, .. } => Opening::Counted(self.counted(fail_timeout_ns, now_ms)),
            Rule::Adaptive | Rule::Off => {
                let outcomes = self.remember(true).outcomes();
                match outcomes.trailing_ones() {
                    row @ RUN.. => Opening::Row(row),
                    _ => Opening::Most { failures: outcomes.count_ones(), outcomes: WINDOW },
                }
            }
        }
    }

    /// nginx's count with one failure more.
    fn counted(self, fail_timeout_ns: u64, now_ms: u64) -> u32 {
        let lapsed = now_ms.saturating_sub(self.time_ms) > fail_timeout_ns / MILLISECOND_NS;
        let before = if lapsed { 0 } else { self.history };
        before.saturating_add(1).min(0xffff)
    }

    /// One failure more, seen while closed.
    fn failed(self, rule: Rule, random: u64, now_ms: u64) -> Self {
        match rule {
            Rule::Off => self,
            Rule::Adaptive => {
                let next = self.remember(true);
                if next.is_failing() { next.opened(next.out_ms(rule, random), now_ms) } else { next }
            }
            Rule::Counted { max_fails, fail_timeout_ns } => {
                let next = Self { history: self.counted(fail_timeout_ns, now_ms), time_ms: now_ms, ..self };
                if next.history >= max_fails.min(0xffff) {
                    next.opened(next.out_ms(rule, random), now_ms)
                } else {
                    next
                }
            }
        }
    }

    fn out_ms(self, rule: Rule, random: u64) -> u64 {
        match rule {
            Rule::Counted { fail_timeout_ns, .. } => fail_timeout_ns / MILLISECOND_NS,
            Rule::Adaptive | Rule::Off => {
                let base_ms = OUT_MS << self.doublings.min(DOUBLINGS_MAX);
                base_ms + random % (base_ms / 4)
            }
        }
    }
}

impl Breaker {
    /// A request succeeded; `trial` = it was the half-open one. Returns true if that closed the
    /// breaker: begin the slow start then.
    ///
    /// May be told at the first byte already, so that a trial that streams for minutes does not
    /// hold the peer back. Successes of requests that were sent before it opened are not counted.
    pub fn success(&self, trial: bool, rule: Rule) -> bool {
        self.success_of(trial, rule).is_some()
    }

    /// [`Self::success`]; of one that closed the breaker it tells why its trial came.
    pub fn success_of(&self, trial: bool, rule: Rule) -> Option<Due> {
        // A clean record of ten under the adaptive rule: nothing can change.
        if self.word.load(Relaxed) == u64::from(WINDOW << WINDOW) << 40 && matches!(rule, Rule::Adaptive) {
            return None;
        }
        self.update(|word| match word.phase {
            Phase::Trial if trial => {
                Some(Word { phase: Phase::Closed, due: Due::Elapsed, history: 0, time_ms: 0, ..word })
            }
            Phase::Closed if matches!(rule, Rule::Adaptive) => Some(word.remember(false)),
            // nginx's count lapses with time, not with a success
            Phase::Closed | Phase::Open | Phase::Trial => None,
        })
        .filter(|(old, new)| old.phase == Phase::Trial && new.phase == Phase::Closed)
        .map(|(old, _)| old.due)
    }

    /// A request failed; returns true if that opened the breaker. `random` gives the jitter.
    pub fn failure(&self, trial: bool, rule: Rule, random: u64, now: MonoNs) -> bool {
        self.failure_unless_held(trial, rule, random, now, || true).is_some()
    }

    /// [`Self::failure`], but a closed breaker opens only if it may: asked when it would. Tells
    /// what opened it, and for how many ms.
    pub fn failure_unless_held(
        &self,
        trial: bool,
        rule: Rule,
        random: u64,
        now: MonoNs,
        may_open: impl Fn() -> bool,
    ) -> Option<(Opening, u64)> {
        let now_ms = now.0 / MILLISECOND_NS;
        self.update(|word| match word.phase {
            // The trial's first token closed it, and then the trial failed.
            Phase::Closed if trial && rule != Rule::Off => Some(word.opened(word.out_ms(rule, random), now_ms)),
            Phase::Closed => {
                let next = word.failed(rule, random, now_ms);
                let held = next.phase == Phase::Open && !may_open();
                Some(if held { word.held(rule, now_ms) } else { next })
            }
            Phase::Trial if trial => Some(word.opened(word.out_ms(rule, random), now_ms)),
            Phase::Open | Phase::Trial => None,
        })
        .filter(|(_, new)| new.phase == Phase::Open)
        .map(|(old, new)| {
            let opening = if trial { Opening::Trial } else { old.opening(rule, now_ms) };
            (opening, new.time_ms.saturating_sub(now_ms))
        })
    }

    /// A failure that was counted was not the peer's: its newest one is taken back, if it is
    /// closed.
    pub fn forgive(&self, rule: Rule) {
        self.update(|word| {
            let history = match rule {
                _ if word.phase != Phase::Closed => return None,
                Rule::Adaptive => word.without_a_failure(),
                Rule::Counted { .. } => word.history.saturating_sub(1),
                Rule::Off => return None,
            };
            Some(Word { history, ..word })
        });
    }

    /// The failures that opened it were not the peer's: it closes, as if they had not been.
    /// Returns whether it did.
    pub fn pardon(&self) -> bool {
        self.update(|word| {
            let doublings = word.doublings.saturating_sub(1);
            let closed = Word { phase: Phase::Closed, due: Due::Elapsed, doublings, history: 0, time_ms: 0 };
            (word.phase != Phase::Closed).then_some(closed)
        })
        .is_some()
    }

    /// Failures among the outcomes that it remembers, and how many those are. nginx's rule
    /// remembers failures alone: a peer without any counts as one that answers.
    pub fn record(&self, rule: Rule) -> (u32, u32) {
        let word = Word::decode(self.word.load(Relaxed));
        match rule {
            Rule::Adaptive | Rule::Off => (word.outcomes().count_ones(), word.history >> WINDOW & 0xf),
            Rule::Counted { .. } => (word.history, word.history.max(WINDOW)),
        }
    }

    /// Whether requests flow.
    pub fn is_closed(&self) -> bool {
        Word::decode(self.word.load(Acquire)).phase == Phase::Closed
    }

    /// A trial ended without a verdict (the client left, 429): the next request may try.
    pub fn cancel_trial(&self) {
        self.update(|word| (word.phase == Phase::Trial).then_some(Word { phase: Phase::Open, time_ms: 0, ..word }));
    }

    /// Whether requests may go to the peer: `Open`, `Trial` (half open and nobody tries yet) or
    /// `Ejected`.
    #[must_use]
    pub fn admission(&self, now: MonoNs) -> Admission {
        let word = Word::decode(self.word.load(Acquire));
        match word.phase {
            Phase::Closed => Admission::Open,
            Phase::Open | Phase::Trial if now.0 / MILLISECOND_NS >= word.time_ms => Admission::Trial,
            Phase::Open | Phase::Trial => Admission::Ejected,
        }
    }

    /// Claims the one trial. Of any number of concurrent callers exactly one gets true.
    pub fn begin_trial(&self, now: MonoNs) -> bool {
        let now_ms = now.0 / MILLISECOND_NS;
        let void_ms = now_ms + TRIAL_NS / MILLISECOND_NS;
        self.update(|word| {
            (word.phase != Phase::Closed && now_ms >= word.time_ms).then_some(Word {
                phase: Phase::Trial,
                time_ms: void_ms,
                ..word
            })
        })
        .is_some()
    }

    /// State for display.
    #[must_use]
    pub fn state(&self, now: MonoNs) -> State {
        let word = Word::decode(self.word.load(Relaxed));
        match word.phase {
            Phase::Closed => State::Closed,
            Phase::Open if now.0 / MILLISECOND_NS < word.time_ms => State::Open,
            Phase::Open | Phase::Trial => State::HalfOpen,
        }
    }

    /// An operator has a hand in it (a reload, a setting of the peer): a peer that is out is due
    /// for its trial now, however long it was to stay out. One request finds out whether it is
    /// back.
    pub fn due(&self, due: Due) {
        self.update(|word| (word.phase == Phase::Open).then_some(Word { due, time_ms: 0, ..word }));
    }

    /// The rule has changed: what was counted by the other one is forgotten, and a peer that is out
    /// is due for its trial. A trial that is under way goes on.
    pub fn rule_changed(&self) {
        self.update(|word| {
            let (due, time_ms) = match word.phase {
                Phase::Closed => (Due::Elapsed, 0),
                Phase::Open => (Due::Reloaded, 0),
                Phase::Trial => (word.due, word.time_ms),
            };
            Some(Word { due, history: 0, doublings: 0, time_ms, ..word })
        });
    }

    /// Closes it and forgets everything: the record is reused.
    pub fn reset(&self) {
        self.word.store(0, Relaxed);
    }

    /// Applies `change` until it sticks; None if `change` declines. Writes nothing when nothing
    /// changes.
    fn update(&self, change: impl Fn(Word) -> Option<Word>) -> Option<(Word, Word)> {
        let mut old = self.word.load(Acquire);
        loop {
            let decoded = Word::decode(old);
            let new = change(decoded)?;
            if new.encode() == old {
                return Some((decoded, new));
            }
            match self.word.compare_exchange_weak(old, new.encode(), AcqRel, Acquire) {
                Ok(_) => return Some((decoded, new)),
                Err(seen) => old = seen,
            }
        }
    }
}
