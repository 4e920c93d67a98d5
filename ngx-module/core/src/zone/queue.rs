//! The words by which workers share one queue per upstream: the best key that waits at each, and how many wait in all.
//!
//! Requests wait in a private queue of their worker; the zone knows only each worker's best key. A key is `priority << 56 | sequence`,
//! so the least key of all heads is the request that is served next: lower priority number first, then the oldest.
//! No wake-up is lost because both sides store first and look second, in one total order: who waits publishes its head and then looks for
//! a free slot; who frees a slot does so and then looks for the least head. Never wakes anybody itself. Cost: one load per worker below
//! the high-water mark. Bound: [`super::WORKERS_MAX`] heads; 2^56 sequence numbers.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{UpstreamIdx, WorkerIdx, Zone};

/// Bits of a key below the priority.
const SEQUENCE_BITS: u32 = 56;

/// The key of an empty queue: greater than every real key.
pub const NO_KEY: u64 = u64::MAX;

impl Zone<'_> {
    /// A key behind all that exist at this priority. Priority 255 with the last sequence number would be "none", and never comes.
    pub fn next_key(&self, u: UpstreamIdx, priority: u8) -> u64 {
        let sequence = self.upstream(u).map_or(0, |upstream| upstream.sequence.fetch_add(1, SeqCst));
        u64::from(priority) << SEQUENCE_BITS | (sequence & ((1 << SEQUENCE_BITS) - 1))
    }

    /// Publishes the least key that waits at worker `w`; [`NO_KEY`] when nothing does any more.
    pub fn head_publish(&self, u: UpstreamIdx, w: WorkerIdx, key: u64) {
        if let Some(worker) = self.upstream(u).and_then(|upstream| upstream.workers.get(usize::from(w.0))) {
            worker.head.store(!key, SeqCst);
        }
    }

    /// The worker with the least key, and the key; workers for which `skip` holds (stopped, or the caller) are passed over.
    pub fn least_head(&self, u: UpstreamIdx, skip: impl Fn(WorkerIdx) -> bool) -> Option<(WorkerIdx, u64)> {
        let upstream = self.upstream(u)?;
        let mut least = None;
        let mut best = 0;
        for (index, worker) in (0_u16..).zip(upstream.workers.iter().take(self.workers_high())) {
            let head = worker.head.load(SeqCst);
            if head > best && !skip(WorkerIdx(index)) {
                best = head;
                least = Some((WorkerIdx(index), !head));
            }
        }
        least
    }

    /// Counts one more waiting request of worker `w`; `false`, and nothing counted, when `size_max` already wait.
    ///
    /// Never lets in more than `size_max`; two that come at once for the last place may both be refused.
    pub fn waiting_add(&self, u: UpstreamIdx, w: WorkerIdx, size_max: u32) -> bool {
        let Some(upstream) = self.upstream(u) else { return false };
        let Some(worker) = upstream.workers.get(usize::from(w.0)) else { return false };
        worker.waiting.fetch_add(1, SeqCst);
        if self.waiting(u) <= size_max {
            return true;
        }
        worker.waiting.fetch_sub(1, SeqCst);
        false
    }

    /// One request of worker `w` waits no longer.
    pub fn waiting_sub(&self, u: UpstreamIdx, w: WorkerIdx) {
        let Some(upstream) = self.upstream(u) else { return };
        let Some(worker) = upstream.workers.get(usize::from(w.0)) else { return };
        if worker.waiting.load(Relaxed) > 0 {
            worker.waiting.fetch_sub(1, SeqCst);
        } else {
            self.header.counters.unbalanced.fetch_add(1, Relaxed);
        }
    }

    /// Requests that wait for a slot, in all workers.
    pub fn waiting(&self, u: UpstreamIdx) -> u32 {
        let Some(upstream) = self.upstream(u) else { return 0 };
        let all = upstream.workers.iter().take(self.workers_high());
        all.map(|worker| worker.waiting.load(SeqCst)).fold(0, u32::wrapping_add)
    }

    /// A request left the queue for a peer after `waited_ns`.
    pub fn queue_left(&self, u: UpstreamIdx, waited_ns: u64) {
        if let Some(upstream) = self.upstream(u) {
            upstream.queue_times.record(waited_ns);
        }
    }

    /// A request left the queue because of its timeout, after `waited_ns`.
    pub fn queue_timeout(&self, u: UpstreamIdx, waited_ns: u64) {
        if let Some(upstream) = self.upstream(u) {
            upstream.queue_times.record(waited_ns);
            upstream.counters.timeouts.fetch_add(1, Relaxed);
        }
    }

    /// A request found the queue full.
    pub fn queue_overflow(&self, u: UpstreamIdx) {
        if let Some(upstream) = self.upstream(u) {
            upstream.counters.overflows.fetch_add(1, Relaxed);
        }
    }
}
