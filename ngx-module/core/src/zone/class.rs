//! One class' record: what nginx.conf and the control plane say of it, what is in force, and what
//! is counted.
//!
//! The first cache line holds all that a request needs to know, a word for each thing, so that a
//! change is seen whole or not at all; it is written only by structural changes. A class is found
//! by name, and named by its index and the generation of its record, which rises when the record
//! begins another life; that happens only while no request of the class is in flight or waiting.
//! Only worker `w` writes `workers[w]`, or its reclaimer. Cost: a load for each value. Bound:
//! [`CLASSES_MAX`].

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::array::Array;
use super::counters::Record;
use super::{Bytes, NAME_MAX, WORKERS_MAX, WorkerIdx};
use crate::histogram::Histogram;
use crate::limit::{ClassSettings, Effective, FIELDS, Gcra, Rate, Ticks, ticks};
use crate::time::MonoNs;

/// Classes of one zone at most; a small zone has room for fewer: [`super::Layout::classes`].
pub const CLASSES_MAX: usize = 64;

/// A class' place in [`super::Zone::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassIdx(pub u16);

/// How a class waits in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRule {
    /// The lower number goes first.
    pub priority: u8,
    /// Percent of the slots that it gets even if others go first; the sum over all classes is at
    /// most 100.
    pub share: u8,
    /// Requests of it that may wait in one queue; 0 = as many as the queue holds.
    pub queue_max: u32,
    /// How long they may wait, ms; 0 = as long as the queue lets them.
    pub timeout_ms: u32,
}

/// One worker's requests of one class. Written by that worker alone, or by its reclaimer after its
/// death.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct ClassWorker {
    pub in_flight: AtomicU32,
    pub waiting: AtomicU32,
    /// Requests that passed at once; only rises, over the slot's owners too.
    pub passed: AtomicU64,
}

/// Lines that the columns of [`Class`] fill: neighbouring workers write to different ones.
const LINES: usize = WORKERS_MAX / COLUMNS_PER_LINE;
const COLUMNS_PER_LINE: usize = if WORKERS_MAX < 4 { 1 } else { 4 };

/// What became of a class' requests; only rises while the class lives.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct ClassCounters {
    pub delayed: AtomicU64,
    pub rejected_rate: AtomicU64,
    pub rejected_concurrency: AtomicU64,
    pub rejected_dry_run: AtomicU64,
    pub bytes: AtomicU64,
    pub queue_overflows: AtomicU64,
    pub queue_timeouts: AtomicU64,
}

/// A layer of settings in shared memory: each word is the value plus one, 0 = not said.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Layer(Array<AtomicU64, FIELDS>);

impl Layer {
    pub fn load(&self) -> ClassSettings {
        ClassSettings::from_words(core::array::from_fn(|field| self.0[field].load(SeqCst).checked_sub(1)))
    }

    pub fn store(&self, settings: &ClassSettings) {
        for (word, value) in self.0.iter().zip(settings.words()) {
            word.store(value.map_or(0, |value| value + 1), SeqCst);
        }
    }
}

/// A class' record.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Class {
    /// `generation of the record << 1 | in use`.
    state: AtomicU64,
    interval: AtomicU64,
    /// `delay << 32 | burst`.
    burst: AtomicU64,
    concurrency: AtomicU64,
    bandwidth: AtomicU64,
    /// `share << 8 | priority`.
    order: AtomicU64,
    /// `timeout_ms << 32 | queue_max`.
    queue: AtomicU64,
    rate: AtomicU64,
    pub(super) counters: ClassCounters,
    /// The newest configuration that declares it.
    pub(super) generation: AtomicU32,
    /// Whether nginx.conf declares it; 0 = only the control plane.
    pub(super) declared: AtomicU32,
    /// Whether the control plane added it.
    pub(super) added: AtomicU32,
    spare: AtomicU32,
    pub(super) configured: Layer,
    pub(super) live: Layer,
    /// Until then keys may owe more than what is in force lets them: from before a change. In
    /// ticks.
    owed_until: AtomicU64,
    pub(super) name: Bytes<16>,
    pub(super) queue_times: Histogram,
    workers: Array<ClassWorker, WORKERS_MAX>,
}

impl Record for Class {}

impl Class {
    /// The class' name, copied into `out`.
    pub fn name<'o>(&self, out: &'o mut [u8; NAME_MAX]) -> &'o [u8] {
        self.name.load(out)
    }

    /// Whether the record is a class'.
    pub fn is_used(&self) -> bool {
        self.state.load(SeqCst) & 1 == 1
    }

    /// The record's life, if it is in use. One load.
    #[inline]
    pub(super) fn life(&self) -> Option<u32> {
        let state = self.state.load(SeqCst);
        (state & 1 == 1).then_some((state >> 1 & 0xffff_ffff) as u32)
    }

    /// The record's life.
    pub fn generation(&self) -> u32 {
        (self.state.load(SeqCst) >> 1 & 0xffff_ffff) as u32
    }

    /// How it waits in a queue.
    #[inline]
    pub fn queue_rule(&self) -> QueueRule {
        let (order, queue) = (self.order.load(SeqCst), self.queue.load(SeqCst));
        QueueRule {
            priority: (order & 0xff) as u8,
            share: (order >> 8 & 0xff) as u8,
            queue_max: (queue & 0xffff_ffff) as u32,
            timeout_ms: (queue >> 32) as u32,
        }
    }

    /// Time between two requests of a key; 0 = no rate.
    #[inline]
    pub fn interval(&self) -> Ticks {
        self.interval.load(SeqCst)
    }

    /// The rate in force, as it was written.
    pub fn rate(&self) -> Rate {
        Rate::from_word(self.rate.load(SeqCst))
    }

    /// Burst in force, and how much of it passes at once.
    #[inline]
    pub fn burst(&self) -> (u32, u32) {
        let word = self.burst.load(SeqCst);
        ((word & 0xffff_ffff) as u32, (word >> 32) as u32)
    }

    /// Requests at once per key; 0 = unlimited.
    #[inline]
    pub fn concurrency(&self) -> u32 {
        (self.concurrency.load(SeqCst) & 0xffff_ffff) as u32
    }

    /// Bytes per second per key; 0 = unlimited.
    #[inline]
    pub fn bandwidth(&self) -> u64 {
        self.bandwidth.load(SeqCst)
    }

    /// All that is in force.
    pub fn effective(&self) -> Effective {
        let ((burst, delay), queue) = (self.burst(), self.queue_rule());
        Effective {
            rate: self.rate(),
            burst,
            delay,
            concurrency: self.concurrency(),
            bandwidth: self.bandwidth(),
            priority: queue.priority,
            share: queue.share,
            queue: queue.queue_max,
            queue_timeout_ms: queue.timeout_ms,
        }
    }

    /// What keys are held to; `None` without a rate.
    #[inline]
    pub(super) fn gcra(&self) -> Option<Gcra> {
        let (interval, (burst, delay)) = (self.interval(), self.burst());
        (interval != 0).then_some(Gcra { interval, burst, delay })
    }

    /// Until when keys may owe what was let in before a change and would not be now.
    pub(super) fn owed_until(&self) -> Ticks {
        self.owed_until.load(SeqCst)
    }

    /// Puts values into force, a word each.
    pub(super) fn publish(&self, values: &Effective, now: MonoNs) {
        let before = self.gcra().map_or(0, |gcra| gcra.capacity());
        let after = Gcra { interval: values.rate.interval(), burst: values.burst, delay: 0 }.capacity();
        if after < before {
            // Before the values: who is held to these finds it.
            self.owed_until.fetch_max(ticks(now).saturating_add(before), SeqCst);
        }
        self.rate.store(values.rate.word(), SeqCst);
        self.interval.store(values.rate.interval(), SeqCst);
        self.burst.store(u64::from(values.delay) << 32 | u64::from(values.burst), SeqCst);
        self.concurrency.store(values.concurrency.into(), SeqCst);
        self.bandwidth.store(values.bandwidth, SeqCst);
        self.order.store(u64::from(values.share) << 8 | u64::from(values.priority), SeqCst);
        self.queue.store(u64::from(values.queue_timeout_ms) << 32 | u64::from(values.queue), SeqCst);
    }

    /// Whether the configuration `generation`, or a newer one, or the control plane has it.
    pub(super) fn exists_for(&self, generation: u32) -> bool {
        let declared = self.declared.load(SeqCst) != 0 && self.generation.load(SeqCst) >= generation;
        self.is_used() && (declared || self.added.load(SeqCst) != 0)
    }

    /// Requests of the class, in all workers.
    pub(super) fn in_flight(&self) -> u32 {
        self.workers.iter().map(|worker| worker.in_flight.load(SeqCst)).fold(0, u32::wrapping_add)
    }

    /// Requests of the class that wait in queues, in all workers.
    pub(super) fn waiting(&self) -> u32 {
        self.workers.iter().map(|worker| worker.waiting.load(SeqCst)).fold(0, u32::wrapping_add)
    }

    /// Whether the record may begin another life.
    pub(super) fn is_free(&self) -> bool {
        !self.is_used() && self.in_flight() == 0 && self.waiting() == 0
    }

    /// Makes a free record the class `name`, unlimited. In use comes last: a death in here leaves
    /// it free.
    pub(super) fn occupy(&self, name: &[u8]) {
        let generation = u64::from(self.generation().wrapping_add(1));
        // Raised before anything else: what still names the old life does not find it any more.
        self.state.store(generation << 1, SeqCst);
        self.name.store(name);
        for flag in [&self.generation, &self.declared, &self.added] {
            flag.store(0, SeqCst);
        }
        self.configured.store(&ClassSettings::default());
        self.live.store(&ClassSettings::default());
        self.publish(&ClassSettings::default().effective(0), MonoNs(0));
        self.owed_until.store(0, SeqCst);
        self.counters.reset();
        self.workers.iter().for_each(|worker| worker.passed.store(0, Relaxed));
        self.queue_times.reset();
        self.state.store(generation << 1 | 1, SeqCst);
    }

    /// Takes the class out of use: new requests do not find it; those in flight end as they are.
    pub(super) fn vacate(&self) {
        self.state.store(u64::from(self.generation()) << 1, SeqCst);
        self.declared.store(0, SeqCst);
        self.added.store(0, SeqCst);
    }

    /// Zeroes worker `w`'s column.
    pub(super) fn clear_worker(&self, w: usize) {
        if let Some(worker) = self.column_at(w) {
            worker.in_flight.store(0, SeqCst);
            worker.waiting.store(0, SeqCst);
        }
    }

    /// Requests of the class that passed at once.
    pub(super) fn passed(&self) -> u64 {
        self.workers.iter().map(|worker| worker.passed.load(Relaxed)).fold(0, u64::wrapping_add)
    }

    #[inline]
    pub(super) fn column(&self, w: WorkerIdx) -> Option<&ClassWorker> {
        self.column_at(usize::from(w.0))
    }

    #[inline]
    fn column_at(&self, w: usize) -> Option<&ClassWorker> {
        self.workers.get(w % LINES * COLUMNS_PER_LINE + w / LINES)
    }
}

impl ClassCounters {
    fn reset(&self) {
        let Self { delayed, rejected_rate, rejected_concurrency, .. } = self;
        let Self { rejected_dry_run, bytes, queue_overflows, queue_timeouts, .. } = self;
        for count in [delayed, rejected_rate, rejected_concurrency] {
            count.store(0, Relaxed);
        }
        for count in [rejected_dry_run, bytes, queue_overflows, queue_timeouts] {
            count.store(0, Relaxed);
        }
    }
}
