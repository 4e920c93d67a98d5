//! Finds a class, and counts its requests.
//!
//! Cost: a look-up by name reads each record, a count is one atomic. Bound: none beyond those of
//! [`super::class`].

use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

use super::class::{Class, ClassIdx};
use super::{WorkerIdx, Zone};

impl<'a> Zone<'a> {
    /// The class at `c`, in use or not; `None` for an index that this zone never gave out.
    pub fn class(&self, c: ClassIdx) -> Option<&'a Class> {
        self.classes.get(usize::from(c.0))
    }

    /// The class called `name` for a worker of configuration `generation`: one that nginx.conf
    /// declares there, or that the control plane added.
    ///
    /// Cost: a load for each record and a comparison for those of this length; for the request
    /// path.
    pub fn class_find(&self, name: &[u8], generation: u32) -> Option<ClassIdx> {
        let found = |class: &Class| class.name.equals(name) && class.exists_for(generation);
        (0..).zip(self.classes).find(|(_, class)| found(class)).map(|(index, _)| ClassIdx(index))
    }

    /// A request of worker `w` waits in a queue as one of class `c`.
    pub fn class_waiting_add(&self, c: ClassIdx, w: WorkerIdx) {
        if let Some(worker) = self.class(c).and_then(|class| class.column(w)) {
            worker.waiting.fetch_add(1, SeqCst);
        }
    }

    /// It waits no longer; for how it ended see the functions below.
    pub fn class_waiting_sub(&self, c: ClassIdx, w: WorkerIdx) {
        if let Some(worker) = self.class(c).and_then(|class| class.column(w)) {
            self.count_down(&worker.waiting);
        }
    }

    /// A request of class `c` left the queue after `waited_ns`, for a peer or because of its
    /// timeout.
    pub fn class_queue_left(&self, c: ClassIdx, waited_ns: u64, timed_out: bool) {
        let Some(class) = self.class(c) else { return };
        class.queue_times.record(waited_ns);
        class.counters.queue_timeouts.fetch_add(u64::from(timed_out), Relaxed);
    }

    /// A request of class `c` found the queue full, or was evicted for a better one.
    pub fn class_queue_overflow(&self, c: ClassIdx) {
        if let Some(class) = self.class(c) {
            class.counters.queue_overflows.fetch_add(1, Relaxed);
        }
    }

    /// `bytes` of a response of class `c` were sent.
    pub fn class_sent(&self, c: ClassIdx, bytes: u64) {
        if let Some(class) = self.class(c) {
            class.counters.bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// A request of worker `w` begins as one of class `c`.
    #[inline]
    pub(super) fn class_enter(&self, c: ClassIdx, w: WorkerIdx) {
        if let Some(worker) = self.class(c).and_then(|class| class.column(w)) {
            // Here and below: the only writer of the column is this worker, and nobody decides
            // anything by these counts while it runs.
            worker.in_flight.store(worker.in_flight.load(Relaxed).wrapping_add(1), Release);
        }
    }

    /// It has ended.
    #[inline]
    pub(super) fn class_leave(&self, c: ClassIdx, w: WorkerIdx) {
        if let Some(worker) = self.class(c).and_then(|class| class.column(w)) {
            self.count_down(&worker.in_flight);
        }
    }

    /// It has passed its limits.
    #[inline]
    pub(super) fn class_passed(&self, c: ClassIdx, w: WorkerIdx, delayed: bool) {
        let Some(class) = self.class(c) else { return };
        if delayed {
            class.counters.delayed.fetch_add(1, Relaxed);
        } else if let Some(worker) = class.column(w) {
            worker.passed.store(worker.passed.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    #[inline]
    fn count_down(&self, count: &AtomicU32) {
        match count.load(Relaxed).checked_sub(1) {
            Some(less) => count.store(less, Release),
            None => {
                self.header.counters.unbalanced.fetch_add(1, Relaxed);
            }
        }
    }
}
