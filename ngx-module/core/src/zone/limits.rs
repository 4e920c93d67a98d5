//! Holds a request to its classes: all of its limits must let it in, and one that does not gives
//! back what the others took.
//!
//! Each limit is a class and a key. Its rate is checked in [`super::rates`], its requests in flight
//! in [`super::seats`], where its bandwidth lives too. Rates fail open: a key that cannot be
//! tracked passes and is counted; requests in flight never do, so a table without room refuses.
//! What is in force is read once for each check, in a few loads; a change of a class needs no
//! reload. Knows no clock: `now` is monotonic. Takes no lock, allocates nothing. Cost: about a
//! hundred instructions a check. Bound: [`LIMITS_MAX`] checks.

use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::Relaxed;

use super::class::{Class, ClassIdx};
use super::rates::{Checked, RateSet, tag_of};
use super::seats::{Line, Sat, Seat, SeatSet};
use super::{WorkerIdx, Zone};
use crate::limit::{Flow, Gcra, Grant, KeyHash, Pace, Quota, Ticks, span_ns, ticks};
use crate::sync::Ordering::SeqCst;
use crate::time::{MonoNs, SECOND_NS};

/// Limits that one request may be held to.
pub const LIMITS_MAX: usize = 8;

/// What a request that is refused for its concurrency is told to wait, ns: nobody knows when
/// another one ends.
const CONCURRENCY_RETRY_NS: u64 = SECOND_NS;

/// One limit that a request is held to.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The class. One that is gone limits nothing.
    pub class: ClassIdx,
    /// The hash of the key: [`KeyHash::new`] with [`super::Header::secret`].
    pub key: KeyHash,
    /// What the request costs of the rate; 0 counts as 1.
    pub cost: u32,
    /// Refusals are counted and otherwise have no effect; nothing is delayed.
    pub dry_run: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It came too soon.
    Rate,
    /// As many of its key are in flight as may be.
    Concurrency,
    /// The zone has no room to count it, and its class has a limit that must never be passed.
    NoRoom,
}

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Passed,
    /// It goes on after so long, ns.
    Delayed(u64),
    /// It does not.
    Rejected {
        /// The check that refused it.
        which: usize,
        /// Why.
        reason: Reason,
        /// When it would be let in, ns; `None` = never, it costs more than the whole burst.
        retry_after_ns: Option<u64>,
    },
}

/// What a request holds of one limit until it ends. To be given to [`Zone::limit_release`] or
/// [`Zone::limit_withdraw`]: else its seat is taken until the worker dies.
#[derive(Debug)]
#[must_use = "what is not given back holds its seat until the worker dies"]
pub struct Held {
    key: KeyHash,
    /// The TAT that the request left; 0 = it took nothing of a rate.
    admitted: Ticks,
    cost: Ticks,
    class: ClassIdx,
    seat: Option<Seat>,
    way: u8,
    delayed: bool,
}

impl Held {
    #[inline]
    fn new(check: &Check, life: u32) -> Self {
        let key = check.key.within(salt(check.class, life));
        Self { key, admitted: 0, cost: 0, class: check.class, seat: None, way: 0, delayed: false }
    }

    /// The class that it is held to.
    pub fn class(&self) -> ClassIdx {
        self.class
    }
}

/// What a request holds of all its limits.
pub type Holds = ArrayVec<Held, LIMITS_MAX>;

/// An answer to [`Zone::limit_take`].
#[derive(Debug)]
pub struct Limited {
    /// What is to become of the request.
    pub verdict: Verdict,
    /// The first check in `dry_run` that would have refused it.
    pub dry_run: Option<usize>,
    /// What it holds now; empty when it is rejected.
    pub holds: Holds,
    /// The rates it was held to, in their order, up to the one that refused it.
    pub quotas: ArrayVec<(ClassIdx, Quota), LIMITS_MAX>,
}

/// A check refused; what of it was taken is given back.
struct Refusal {
    reason: Reason,
    retry_after_ns: Option<u64>,
}

impl<'z> Zone<'z> {
    /// Holds a request of worker `w` to `checks`, of which the first [`LIMITS_MAX`] count, and
    /// counts the verdict.
    pub fn limit_take(&self, w: WorkerIdx, checks: &[Check], now: MonoNs) -> Limited {
        let mut limited =
            Limited { verdict: Verdict::Passed, dry_run: None, holds: ArrayVec::new(), quotas: ArrayVec::new() };
        limited.verdict = self.take_all(w, checks, now, &mut limited);
        limited
    }

    /// Fills `limited` in place: it is some hundred bytes, and a copy would cost more than a check.
    #[inline]
    fn take_all(&self, w: WorkerIdx, checks: &[Check], now: MonoNs, limited: &mut Limited) -> Verdict {
        let mut longest_ns = 0;
        for (which, check) in checks.iter().take(LIMITS_MAX).enumerate() {
            let Some((class, life)) = self.class_alive(check.class) else { continue };
            let mut held = Held::new(check, life);
            match self.take_one(w, &mut held, check.cost, class, now, &mut limited.quotas) {
                Ok(wait_ns) if wait_ns > 0 && !check.dry_run => {
                    held.delayed = true;
                    longest_ns = longest_ns.max(wait_ns);
                }
                Ok(_) => {}
                Err(_) if check.dry_run => {
                    class.counters.rejected_dry_run.fetch_add(1, Relaxed);
                    limited.dry_run = limited.dry_run.or(Some(which));
                }
                Err(Refusal { reason, retry_after_ns }) => {
                    class.count_rejected(reason);
                    self.limit_withdraw(w, core::mem::take(&mut limited.holds), now);
                    return Verdict::Rejected { which, reason, retry_after_ns };
                }
            }
            self.class_enter(check.class, w);
            limited.holds.push(held);
        }
        for held in &limited.holds {
            self.class_passed(held.class, w, held.delayed);
        }
        if longest_ns > 0 { Verdict::Delayed(longest_ns) } else { Verdict::Passed }
    }

    /// The request has ended: its seats are free again, what it took of rates stays taken.
    pub fn limit_release(&self, w: WorkerIdx, holds: Holds) {
        for held in &holds {
            self.give_seat_back(w, held);
            self.class_leave(held.class, w);
        }
    }

    /// The request goes no further (it was refused elsewhere, or left while it was delayed): rates
    /// get back what has not passed yet, too.
    pub fn limit_withdraw(&self, w: WorkerIdx, holds: Holds, now: MonoNs) {
        holds.iter().for_each(|held| self.give_rate_back(held, now));
        self.limit_release(w, holds);
    }

    /// How much of a response of worker `w` may be sent now by the bandwidth of one of its limits,
    /// `wanted` bytes being there, of which `least` go at once or none.
    ///
    /// After sending, tell [`Zone::bandwidth_sent`]. A class without a bandwidth grants all. A key
    /// that the zone has no room for is not held to its bandwidth, and counted.
    pub fn bandwidth_grant(
        &self,
        w: WorkerIdx,
        held: &mut Held,
        flow: &mut Flow,
        (wanted, least): (u64, u64),
        now: MonoNs,
    ) -> Grant {
        let all = Grant { bytes: wanted, retry_after_ns: 0 };
        let Some(bandwidth) = self.class(held.class).map(Class::bandwidth).filter(|bandwidth| *bandwidth > 0) else {
            flow.forget();
            return all;
        };
        let Some((set, line)) = self.bandwidth_line(w, held) else {
            self.header.counters.limit_untracked.fetch_add(1, Relaxed);
            return all;
        };
        let pace = Pace { bandwidth, active: set.count(seat_tag(held.key)).max(1) };
        line.keep_to(&pace, now);
        flow.ask(&pace, now, wanted, least, |bytes| line.promise(&pace, now, bytes))
    }

    /// `bytes` of the response were sent; counts them for the class.
    pub fn bandwidth_sent(&self, held: &Held, flow: &mut Flow, bytes: u64) {
        self.class_sent(held.class, bytes);
        flow.sent(bytes);
    }

    /// The response has ended: what was promised to it and not sent goes to others. Before
    /// [`Zone::limit_release`].
    pub fn bandwidth_end(&self, held: &Held, flow: &mut Flow, now: MonoNs) {
        let unsent = flow.end();
        let bandwidth = self.class(held.class).map_or(0, Class::bandwidth);
        let line = self.seat_set(held.key).and_then(|set| set.bandwidth_line(seat_tag(held.key)));
        if let (1.., 1.., true, Some(line)) = (unsent, bandwidth, held.seat.is_some(), line) {
            line.give_back(&Pace { bandwidth, active: 1 }, now, unsent);
        }
    }

    /// Whether the rate of `class` alone lets a request of the key in, which it then takes:
    /// [`Zone::limit_take`] without seats and counters, for benchmarks and tools.
    pub fn rate_check(&self, class: ClassIdx, key: KeyHash, cost: u32, now: MonoNs) -> bool {
        let Some((record, life)) = self.class_alive(class) else { return true };
        let key = key.within(salt(class, life));
        let Some(gcra) = record.gcra() else { return true };
        !matches!(self.charge(key, class, record, &gcra, cost, ticks(now)), Some(Checked::Refused { .. }))
    }

    /// Requests in flight of a class and key that have a seat: those of classes with a concurrency
    /// or a bandwidth.
    pub fn seats_taken(&self, class: ClassIdx, key: KeyHash) -> u32 {
        let key = key.within(salt(class, self.class(class).map_or(0, Class::generation)));
        self.seat_set(key).map_or(0, |set| set.count(seat_tag(key)))
    }

    /// One check. On a refusal nothing is taken; else returns how long to wait, ns.
    #[inline]
    fn take_one(
        &self,
        w: WorkerIdx,
        held: &mut Held,
        cost: u32,
        class: &Class,
        now: MonoNs,
        quotas: &mut ArrayVec<(ClassIdx, Quota), LIMITS_MAX>,
    ) -> Result<u64, Refusal> {
        let wait = self.take_rate(held, cost, class, now, quotas).map_err(|retry| {
            let retry_after_ns = (retry != Ticks::MAX).then(|| span_ns(retry));
            Refusal { reason: Reason::Rate, retry_after_ns }
        })?;
        self.take_seat(w, held, class).map_err(|reason| {
            self.give_rate_back(held, now);
            held.admitted = 0;
            Refusal { reason, retry_after_ns: Some(CONCURRENCY_RETRY_NS) }
        })?;
        Ok(span_ns(wait))
    }

    /// Checks the rate, and takes the cost if it passes. `None` in a zone without a table of rates.
    #[inline]
    fn charge(&self, key: KeyHash, at: ClassIdx, class: &Class, gcra: &Gcra, cost: u32, now: Ticks) -> Option<Checked> {
        let (set, tag, evictions) = (self.rate_set(key)?, tag_of(key, at.0), &self.header.counters.limit_evictions);
        Some(match set.check(tag, gcra, cost, now, evictions) {
            Checked::Refused { tat, .. } if gcra.lowered(tat, now).is_some() && class.owed_until() > now => {
                set.check_lowered(tag, gcra, cost, now, evictions)
            }
            checked => checked,
        })
    }

    #[inline]
    fn take_rate(
        &self,
        held: &mut Held,
        cost: u32,
        class: &Class,
        now: MonoNs,
        quotas: &mut ArrayVec<(ClassIdx, Quota), LIMITS_MAX>,
    ) -> Result<Ticks, Ticks> {
        let now = ticks(now);
        let Some(gcra) = class.gcra() else { return Ok(0) };
        let Some(checked) = self.charge(held.key, held.class, class, &gcra, cost, now) else { return Ok(0) };
        let (tat, retry, result) = match checked {
            Checked::Passed { way, admitted } => {
                (held.way, held.admitted, held.cost) =
                    (u8::try_from(way).unwrap_or(u8::MAX), admitted.tat, gcra.cost(cost));
                (admitted.tat, None, Ok(admitted.wait))
            }
            Checked::Refused { refused, tat } => (tat, Some(refused.0), Err(refused.0)),
            Checked::Untracked => {
                self.header.counters.limit_untracked.fetch_add(1, Relaxed);
                return Ok(0);
            }
        };
        if let Some(mut quota) = Quota::of(class.rate(), &gcra, tat, now) {
            quota.reset_ns = retry.map_or(quota.reset_ns, span_ns);
            let _ = quotas.try_push((held.class, quota));
        }
        result
    }

    #[inline]
    fn take_seat(&self, w: WorkerIdx, held: &mut Held, class: &Class) -> Result<(), Reason> {
        let (limit, bandwidth) = (class.concurrency(), class.bandwidth());
        if limit == 0 && bandwidth == 0 {
            return Ok(());
        }
        match self.seat_set(held.key).map_or(Sat::NoRoom, |set| set.sit(seat_tag(held.key), w, limit)) {
            Sat::Taken(seat) => {
                held.seat = Some(seat);
                Ok(())
            }
            Sat::Full => Err(Reason::Concurrency),
            Sat::NoRoom if limit == 0 => Ok(()),
            Sat::NoRoom => {
                self.header.counters.limit_no_room.fetch_add(1, Relaxed);
                Err(Reason::NoRoom)
            }
        }
    }

    fn give_rate_back(&self, held: &Held, now: MonoNs) {
        if held.admitted != 0
            && let Some(set) = self.rate_set(held.key)
        {
            set.give_back(tag_of(held.key, held.class.0), held.way, held.admitted, held.cost, ticks(now));
        }
    }

    #[inline]
    fn give_seat_back(&self, w: WorkerIdx, held: &Held) {
        let Some(seat) = held.seat else { return };
        if !self.seat_set(held.key).is_some_and(|set| set.leave(seat, w)) {
            self.header.counters.unbalanced.fetch_add(1, Relaxed);
        }
    }

    /// The key's bandwidth; a response that began before its class had one takes its seat now.
    fn bandwidth_line(&self, w: WorkerIdx, held: &mut Held) -> Option<(&'z SeatSet, &'z Line)> {
        let set = self.seat_set(held.key)?;
        if held.seat.is_none()
            && let Sat::Taken(seat) = set.sit(seat_tag(held.key), w, 0)
        {
            held.seat = Some(seat);
        }
        held.seat?;
        Some((set, set.bandwidth_line(seat_tag(held.key))?))
    }

    /// A class in use, and the life of its record.
    #[inline]
    fn class_alive(&self, c: ClassIdx) -> Option<(&'z Class, u32)> {
        let class = self.class(c)?;
        class.life().map(|life| (class, life))
    }

    #[inline]
    fn rate_set(&self, key: KeyHash) -> Option<&'z RateSet> {
        self.rates.get(key.index(self.rates.len()))
    }

    #[inline]
    fn seat_set(&self, key: KeyHash) -> Option<&'z SeatSet> {
        self.seats.get(key.index(self.seats.len()))
    }
}

/// What sets the keys of one life of a class apart from those of all others.
#[inline]
fn salt(class: ClassIdx, life: u32) -> u64 {
    ((u64::from(life) << 16) + u64::from(class.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A key's tag in the table of seats; 0 is an empty way.
fn seat_tag(key: KeyHash) -> u64 {
    key.tag.max(1)
}

impl Class {
    fn count_rejected(&self, reason: Reason) {
        let counter = match reason {
            Reason::Rate => &self.counters.rejected_rate,
            Reason::Concurrency | Reason::NoRoom => &self.counters.rejected_concurrency,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl Line {
    /// Reckons what is promised anew when the bandwidth has changed. A death in between leaves it
    /// reckoned with the old one.
    fn keep_to(&self, pace: &Pace, now: MonoNs) {
        let old = self.bandwidth.load(SeqCst);
        if old == pace.bandwidth || self.bandwidth.compare_exchange(old, pace.bandwidth, SeqCst, SeqCst).is_err() {
            return;
        }
        if old != 0 {
            let anew = |free_at| Some(pace.rescale(MonoNs(free_at), now, old).0);
            let _ = self.free_at.fetch_update(SeqCst, SeqCst, anew);
        }
    }

    fn promise(&self, pace: &Pace, now: MonoNs, bytes: u64) -> MonoNs {
        let until = |free_at| Some(pace.promise(MonoNs(free_at), now, bytes).1.0);
        let (Ok(before) | Err(before)) = self.free_at.fetch_update(SeqCst, SeqCst, until);
        pace.promise(MonoNs(before), now, bytes).0
    }

    fn give_back(&self, pace: &Pace, now: MonoNs, bytes: u64) {
        let less = |free_at| Some(pace.give_back(MonoNs(free_at), now, bytes).0);
        let _ = self.free_at.fetch_update(SeqCst, SeqCst, less);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::limit::{ClassSettings, Rate};
    use crate::sync::mortal::dies_before;
    use crate::zone::{HeapZone, ProcessId};

    const NOW: MonoNs = MonoNs(1_000_000_000_000);
    const KEYS: usize = 40;

    fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start: 1 }
    }

    fn check(zone: &Zone<'_>, key: usize) -> [Check; 1] {
        [Check {
            class: ClassIdx(0),
            key: KeyHash::new(zone.header.secret(), &key.to_le_bytes()),
            cost: 1,
            dry_run: false,
        }]
    }

    /// Takes and gives back seats of more keys than a small table holds; returns what is held at
    /// the end.
    fn live(zone: &Zone<'_>, w: WorkerIdx) -> Vec<Holds> {
        let mut held = Vec::new();
        for key in 0..KEYS {
            held.push(zone.limit_take(w, &check(zone, key), NOW).holds);
            if key % 3 == 1 {
                let holds = held.swap_remove(key / 3);
                zone.limit_withdraw(w, holds, NOW);
            }
        }
        held
    }

    #[test]
    fn a_death_before_any_store_leaves_no_seat_no_debt_of_another_key_and_no_key_shut_out() {
        let mut deaths = 0;
        for store in 0.. {
            let heap = HeapZone::with_limits(1, 4, 2);
            let zone = heap.zone();
            zone.header.generation_begin();
            let class = zone.class_reserve(b"class").unwrap();
            let settings =
                ClassSettings { rate: Some(Rate::per_second(10)), concurrency: Some(1), ..ClassSettings::default() };
            zone.class_configure(class, &settings, NOW).unwrap();
            let (dead, alive) = (zone.worker_join(process(1), 1).unwrap(), zone.worker_join(process(2), 1).unwrap());
            let lived = dies_before(store, || live(&zone, dead)).is_some();
            zone.reclaim_dead(process(2), |process| process.pid == 2);
            for key in 0..KEYS {
                let checks = check(&zone, key);
                assert_eq!(zone.seats_taken(class, checks[0].key), 0, "key {key}, death before {store}");
                // Its own debt may be there, for a tenth of a second.
                let limited = zone.limit_take(alive, &checks, NOW.plus(SECOND_NS / 10));
                assert_eq!(limited.verdict, Verdict::Passed, "key {key}, death before {store}");
                zone.limit_release(alive, limited.holds);
            }
            assert_eq!(zone.snapshot(NOW).classes[0].in_flight, 0);
            if lived {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 200, "{deaths}");
    }
}
