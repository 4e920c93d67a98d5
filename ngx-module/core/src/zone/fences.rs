//! Fences: responses that were asked of an upstream before a purge are not to be kept in nginx's
//! cache when they arrive after it.
//!
//! A purge raises a fence (a cache, perhaps one key, a moment), then has every worker look at the
//! responses it is storing, then removes what is stored. Whoever begins to store looks too. So a
//! response whose request went out before the fence is either removed by the purge or never kept.
//! The last [`FENCES`] are remembered one by one; what is pushed out raises a floor under all
//! caches: then a response older than that is not kept, whatever its key. That errs on the safe
//! side: a response too few in the cache. One writer at a time, under the slab mutex; readers take
//! no lock. A fence that is half overwritten can only be missed by a reader who finds its moment in
//! the floor. Cost: one load for a response that began after the newest fence, [`FENCES`] entries
//! else. Bound: nothing here grows.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::array::Array;
use super::{WORKERS_MAX, WorkerIdx};

/// Fences remembered one by one: more purges than that while one response is on its way are rare.
pub const FENCES: usize = 64;

/// A cache's key as two words; what they mean is the caller's.
pub type FenceKey = [u64; 2];

#[repr(C)]
#[derive(Debug, Default)]
struct Fence {
    cache: AtomicU64,
    key: [AtomicU64; 2],
    /// 1: the whole cache.
    all: AtomicU64,
    at_ms: AtomicU64,
}

/// See the file's header. All-zero memory is a valid start.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Fences {
    /// The number of the newest fence; 0 = none yet.
    raised: AtomicU64,
    newest_ms: AtomicU64,
    floor_ms: AtomicU64,
    /// Caches that responses with `Vary` were stored in: one bit each, by `id % 64`.
    varied: AtomicU64,
    /// Caches in which no response with `Vary` is older than the zone, by `id % 64`.
    uniform: Array<AtomicU64, 64>,
    ring: Array<Fence, FENCES>,
    /// The newest fence that each worker has applied.
    applied: Array<AtomicU64, WORKERS_MAX>,
}

impl Fences {
    /// Raises a fence at `now_ms`, in milliseconds of the clock that requests are timed by; `key` =
    /// `None` is the whole cache. Its number.
    ///
    /// One caller at a time.
    pub fn raise(&self, cache: u64, key: Option<FenceKey>, now_ms: u64) -> u64 {
        let number = self.raised.load(SeqCst) + 1;
        let slot = &self.ring[usize::try_from(number % FENCES as u64).unwrap_or(0)];
        // First, so that nobody finds neither the old fence nor its moment.
        self.floor_ms.fetch_max(slot.at_ms.load(SeqCst), SeqCst);
        let words = key.unwrap_or_default();
        slot.cache.store(cache, SeqCst);
        slot.key[0].store(words[0], SeqCst);
        slot.key[1].store(words[1], SeqCst);
        slot.all.store(u64::from(key.is_none()), SeqCst);
        slot.at_ms.store(now_ms, SeqCst);
        self.newest_ms.fetch_max(now_ms, SeqCst);
        self.raised.store(number, SeqCst);
        number
    }

    /// Whether a response of `cache` under `key`, whose request went out at `started_ms`, must not
    /// be kept.
    pub fn covers(&self, cache: u64, key: FenceKey, started_ms: u64) -> bool {
        let newest_ms = self.newest_ms.load(SeqCst);
        if newest_ms == 0 || started_ms > newest_ms {
            return false;
        }
        let applies = |fence: &Fence| {
            fence.at_ms.load(SeqCst) >= started_ms
                && fence.cache.load(SeqCst) == cache
                && (fence.all.load(SeqCst) != 0 || [fence.key[0].load(SeqCst), fence.key[1].load(SeqCst)] == key)
        };
        // The floor last: see the file's header.
        self.ring.iter().any(applies) || (1..=self.floor_ms.load(SeqCst)).contains(&started_ms.max(1))
    }

    /// The newest fence, if `worker` has not applied it yet.
    pub fn pending(&self, worker: WorkerIdx) -> Option<u64> {
        let raised = self.raised.load(SeqCst);
        let applied = self.applied.get(usize::from(worker.0))?;
        (applied.load(SeqCst) < raised).then_some(raised)
    }

    /// `worker` keeps no response that a fence up to `number` covers. A worker that has just joined
    /// keeps none at all, so it has applied the newest.
    pub fn set_applied(&self, worker: WorkerIdx, number: u64) {
        if let Some(applied) = self.applied.get(usize::from(worker.0)) {
            applied.store(number, SeqCst);
        }
    }

    /// Whether `worker` has applied the fence `number`.
    pub(super) fn has_applied(&self, worker: usize, number: u64) -> bool {
        self.applied.get(worker).is_none_or(|applied| applied.load(SeqCst) >= number)
    }

    /// The number of the newest fence.
    pub fn newest(&self) -> u64 {
        self.raised.load(SeqCst)
    }

    /// A response with `Vary` was stored in `cache`.
    pub fn note_vary(&self, cache: u64) {
        let bit = 1 << (cache % 64);
        if self.varied.load(SeqCst) & bit == 0 {
            self.varied.fetch_or(bit, SeqCst);
        }
    }

    /// All of `cache` was looked through, and it held no response with `Vary` that was not told to
    /// [`Fences::note_vary`].
    pub fn note_uniform(&self, cache: u64) {
        self.uniform_of(cache).store(cache, SeqCst);
    }

    /// Whether `cache` may hold responses with `Vary`: one was stored, or what it held before the
    /// zone was made has not been looked through.
    pub fn may_vary(&self, cache: u64) -> bool {
        self.varied.load(SeqCst) & (1 << (cache % 64)) != 0
            || cache == 0
            || self.uniform_of(cache).load(SeqCst) != cache
    }

    fn uniform_of(&self, cache: u64) -> &AtomicU64 {
        &self.uniform[usize::try_from(cache % 64).unwrap_or(0)]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::zone::{HeapZone, ProcessId};

    #[test]
    fn only_what_was_asked_before_and_under_the_key_is_void() {
        let fences = Fences::default();
        assert!(!fences.covers(1, [1, 2], 0));
        fences.raise(1, Some([1, 2]), 100);
        for (cache, key, started_ms, covered) in
            [(1, [1, 2], 100, true), (1, [1, 2], 101, false), (1, [1, 3], 50, false), (2, [1, 2], 50, false)]
        {
            assert_eq!(fences.covers(cache, key, started_ms), covered, "{cache} {key:?} {started_ms}");
        }
        fences.raise(2, None, 200);
        assert!(fences.covers(2, [7, 7], 200) && !fences.covers(1, [7, 7], 150));
        assert!(!fences.covers(2, [7, 7], 201));
    }

    #[test]
    fn a_fence_that_is_pushed_out_still_holds_and_costs_others_only_what_is_as_old() {
        let fences = Fences::default();
        for n in 0..FENCES as u64 + 10 {
            fences.raise(1, Some([n, 0]), 1_000 + n);
        }
        for n in 0..FENCES as u64 + 10 {
            assert!(fences.covers(1, [n, 0], 1_000 + n), "{n}");
        }
        assert!(fences.covers(9, [5, 5], 1_009), "as old as one that is forgotten");
        assert!(!fences.covers(9, [5, 5], 1_011), "younger than all that are");
    }

    #[test]
    fn a_worker_that_has_not_looked_is_named_until_it_has_or_is_gone() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let join = |pid| zone.worker_join(ProcessId { pid, start: 1 }, 1).unwrap();
        let (a, b) = (join(1), join(2));
        let number = zone.header.fences.raise(1, None, 5);
        assert_eq!(zone.workers_behind(number).collect::<Vec<_>>(), [a, b]);
        assert_eq!(zone.header.fences.pending(a), Some(number));
        zone.header.fences.set_applied(a, number);
        assert_eq!((zone.header.fences.pending(a), zone.workers_behind(number).collect::<Vec<_>>()), (None, vec![b]));
        zone.worker_leave(b);
        assert_eq!(zone.workers_behind(number).count(), 0);
    }

    #[test]
    fn a_cache_varies_until_it_was_looked_through_and_once_an_answer_did() {
        let fences = Fences::default();
        assert!(fences.may_vary(2) && fences.may_vary(0));
        fences.note_uniform(2);
        assert!(!fences.may_vary(2) && fences.may_vary(66) && fences.may_vary(1));
        fences.note_vary(66);
        assert!(fences.may_vary(2) && fences.may_vary(66));
    }
}
