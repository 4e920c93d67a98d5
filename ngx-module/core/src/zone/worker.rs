//! Worker slots: who owns the counters of which column, and what happens to them when the owner
//! dies.
//!
//! A slot is taken by compare-and-swap of its owner from 0, so old and new generations of workers
//! share the zone freely. A free slot has all of its counters at 0. A dead owner's slot is
//! reclaimed by whoever first puts its own identity into `reclaimer`; a reclaimer that dies is
//! itself replaced, and a live one is never raced, so that no store of a stalled reclaimer can hit
//! the counts of the slot's next owner. `worker_high` (in the header) bounds every sum over
//! workers; it is raised before the new owner counts anything and lowered only when no slot was
//! taken meanwhile. Joins and reclaims stand in [`super::workers`].
//! Bound: [`super::WORKERS_MAX`].

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::counters::Record;

/// A process: its pid and its start time, which tells it from a later process of the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Process id; never 0.
    pub pid: u32,
    /// Low 32 bits of the start time, in any unit that only rises (Linux: clock ticks after boot).
    pub start: u32,
}

impl ProcessId {
    pub(super) fn word(self) -> u64 {
        u64::from(self.start) << 32 | u64::from(self.pid)
    }

    fn from_word(word: u64) -> Option<Self> {
        let pid = u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
        let start = u32::try_from(word >> 32).unwrap_or(0);
        (pid != 0).then_some(Self { pid, start })
    }
}

/// One worker's slot.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct WorkerSlot {
    pub(super) owner: AtomicU64,
    pub(super) reclaimer: AtomicU64,
    pub(super) generation: AtomicU32,
    spare: AtomicU32,
    pub(super) kicked_at: AtomicU64,
}

impl Record for WorkerSlot {}

impl WorkerSlot {
    /// The process that owns the slot; `None` when it is free.
    pub fn owner(&self) -> Option<ProcessId> {
        ProcessId::from_word(self.owner.load(SeqCst))
    }

    /// The configuration generation that the owner runs.
    pub fn generation(&self) -> u32 {
        self.generation.load(SeqCst)
    }
}

/// What a reclaim gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Slots freed.
    pub workers: u32,
    /// In-flight requests taken off the peers: each freed a slot of a peer, so waiters must be
    /// kicked.
    pub requests: u32,
    /// Waiting requests taken off the queues.
    pub waiting: u32,
}

impl WorkerSlot {
    /// Makes `me` the only process that clears this slot; `false` while another live one does.
    pub(super) fn begin_reclaim(&self, me: ProcessId, alive: &impl Fn(ProcessId) -> bool) -> bool {
        let other = self.reclaimer.load(SeqCst);
        let busy = ProcessId::from_word(other).is_some_and(|process| process != me && alive(process));
        !busy && self.reclaimer.compare_exchange(other, me.word(), SeqCst, SeqCst).is_ok()
    }

    /// Notes that this worker was kicked at `now_ns` and has not answered; an earlier unanswered
    /// kick keeps its time.
    pub fn kick_sent(&self, now_ns: u64) {
        let _ = self.kicked_at.compare_exchange(0, now_ns.max(1), SeqCst, SeqCst);
    }

    /// The worker has looked at its queue: nothing is unanswered.
    pub fn kick_answered(&self) {
        self.kicked_at.store(0, SeqCst);
    }

    /// Whether a kick has been unanswered for more than `limit_ns`: the worker hangs or is stopped,
    /// and its head may be skipped.
    pub fn kick_stale(&self, now_ns: u64, limit_ns: u64) -> bool {
        let at = self.kicked_at.load(SeqCst);
        at != 0 && now_ns.saturating_sub(at) > limit_ns
    }
}
