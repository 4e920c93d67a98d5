//! A worker process' life in the zone: it joins, leaves, and is reclaimed when it is dead.
//!
//! How slots are taken and reclaimed stands in [`super::worker`]. Never decides who is alive: the
//! caller asks the system.
//! Cost: a join and a reclaim walk all slots and records; nothing here is on the request path.
//! Bound: [`WORKERS_MAX`].

use core::sync::atomic::Ordering::SeqCst;

use super::worker::{ProcessId, Reclaimed, WorkerSlot};
use super::{WORKERS_MAX, WorkerIdx, Zone};

impl Zone<'_> {
    /// Takes a free slot for the process `me`, which runs the configuration `generation`; `None`
    /// when all are taken.
    ///
    /// `me.pid` must not be 0. Call [`Zone::reclaim_dead`] before, or slots of the dead are not
    /// found free.
    pub fn worker_join(&self, me: ProcessId, generation: u32) -> Option<WorkerIdx> {
        let free = |slot: &&WorkerSlot| slot.owner.compare_exchange(0, me.word(), SeqCst, SeqCst).is_ok();
        let (index, slot) = self.workers.iter().take(WORKERS_MAX).enumerate().find(|(_, slot)| free(slot))?;
        slot.generation.store(generation, SeqCst);
        slot.kicked_at.store(0, SeqCst);
        self.raise_high(index + 1);
        u16::try_from(index).ok().map(WorkerIdx)
    }

    /// Gives the slot back at the end of a process, with all that it still counts.
    pub fn worker_leave(&self, w: WorkerIdx) -> Reclaimed {
        let Some(slot) = self.workers.get(usize::from(w.0)) else { return Reclaimed::default() };
        let mut reclaimed = self.clear(w);
        reclaimed.workers = 1;
        slot.owner.store(0, SeqCst);
        self.lower_high();
        reclaimed
    }

    /// Frees the slots whose owners are not `alive`, and takes their requests off all peers and
    /// queues. `me` is the calling process.
    ///
    /// May run in several processes at once and be cut short anywhere: each slot is cleared by one
    /// process at a time, and one that died in the middle is finished by the next caller.
    pub fn reclaim_dead(&self, me: ProcessId, alive: impl Fn(ProcessId) -> bool) -> Reclaimed {
        let mut total = Reclaimed::default();
        for (index, slot) in self.workers.iter().take(WORKERS_MAX).enumerate() {
            let Some(owner) = slot.owner().filter(|owner| *owner != me && !alive(*owner)) else { continue };
            let Ok(index) = u16::try_from(index) else { continue };
            if !slot.begin_reclaim(me, &alive) {
                continue;
            }
            // Another process may have freed the slot, and a new worker taken it, between the first
            // look and now.
            if slot.owner() == Some(owner) {
                let part = self.clear(WorkerIdx(index));
                slot.owner.store(0, SeqCst);
                total.workers += 1;
                total.requests += part.requests;
                total.waiting += part.waiting;
            }
            let _ = slot.reclaimer.compare_exchange(me.word(), 0, SeqCst, SeqCst);
        }
        if total.workers > 0 {
            self.header.counters.reclaimed_workers.fetch_add(u64::from(total.workers), SeqCst);
            self.header.counters.reclaimed_requests.fetch_add(u64::from(total.requests), SeqCst);
            self.lower_high();
        }
        total
    }

    /// Workers that have not applied the fence `number` yet.
    pub fn workers_behind(&self, number: u64) -> impl Iterator<Item = WorkerIdx> {
        let fences = &self.header.fences;
        let slots = self.workers.iter().take(WORKERS_MAX).enumerate();
        let late = slots.filter(move |(index, slot)| slot.owner().is_some() && !fences.has_applied(*index, number));
        late.filter_map(|(index, _)| u16::try_from(index).ok().map(WorkerIdx))
    }

    /// Worker slots that sums must cover: every taken slot's index is below.
    pub(super) fn workers_high(&self) -> usize {
        high_of(self.header.workers_high.load(SeqCst))
    }

    /// The lowest configuration generation that any worker still runs; `None` without workers.
    pub(super) fn oldest_generation(&self) -> Option<u32> {
        self.workers.iter().filter(|slot| slot.owner().is_some()).map(WorkerSlot::generation).min()
    }

    /// Raises the mark to `need`, and tells a concurrent [`Self::lower_high`] that the slots
    /// changed, even when it is high enough.
    fn raise_high(&self, need: usize) {
        let _ = self.header.workers_high.fetch_update(SeqCst, SeqCst, |word| {
            let high = high_of(word).max(need);
            Some(with_high(word, high))
        });
    }

    fn lower_high(&self) {
        let word = self.header.workers_high.load(SeqCst);
        let taken = self.workers.iter().rposition(|slot| slot.owner.load(SeqCst) != 0);
        let high = taken.map_or(0, |index| index + 1);
        if high < high_of(word) {
            // A join in between changed the word: the mark then stays, which is only slower, until
            // the next leave.
            let _ = self.header.workers_high.compare_exchange(word, with_high(word, high), SeqCst, SeqCst);
        }
    }

    /// Zeroes the column of `w` in every peer, queue and class and its seats, and lets go of its
    /// feed lease.
    fn clear(&self, w: WorkerIdx) -> Reclaimed {
        let column = usize::from(w.0);
        let requests = self.peers.iter().map(|peer| peer.clear_worker(column)).sum();
        let waiting = self.upstreams.iter().map(|upstream| upstream.clear_worker(column)).sum();
        self.seats.iter().for_each(|set| {
            set.clear_worker(w);
        });
        self.classes.iter().for_each(|class| class.clear_worker(column));
        self.feed_release(w);
        Reclaimed { workers: 0, requests, waiting }
    }
}

/// The mark is in the low 16 bits of `workers_high`, the count of its changes above.
const HIGH_MASK: u64 = 0xffff;

fn high_of(word: u64) -> usize {
    usize::from((word & HIGH_MASK) as u16)
}

fn with_high(word: u64, high: usize) -> u64 {
    ((word >> 16).wrapping_add(1) << 16) | (high as u64 & HIGH_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::{HeapZone, UpstreamIdx};

    const fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start: 1 }
    }

    #[test]
    fn a_reclaim_cut_short_by_death_is_finished_by_the_next_and_never_shared_with_a_live_one() {
        let heap = HeapZone::new(1, 4);
        let zone = heap.zone();
        let w = zone.worker_join(process(1), 1).unwrap();
        let slot = &zone.workers[usize::from(w.0)];
        let plain = |_| crate::turn::Terms::default();
        zone.queue_enter(UpstreamIdx(0), w, crate::zone::QueueClass::NONE, 9, &plain, crate::time::MonoNs(1)).unwrap();
        zone.peers[2].workers[0].in_flight.store(3, SeqCst);
        // Process 2 begins to reclaim the dead 1 and gets no further than the queues.
        assert!(slot.begin_reclaim(process(2), &|process| process.pid != 1));
        zone.upstreams[0].clear_worker(0);
        let while_it_lives = zone.reclaim_dead(process(3), |process| process.pid != 1);
        assert_eq!(while_it_lives, Reclaimed::default());
        let after_its_death = zone.reclaim_dead(process(3), |process| process.pid == 3);
        assert_eq!((after_its_death.workers, after_its_death.requests), (1, 3));
        assert_eq!(zone.worker_join(process(4), 1), Some(w));
        assert_eq!(zone.reclaim_dead(process(3), |process| process.pid > 2), Reclaimed::default());
    }

    #[test]
    fn the_mark_of_taken_slots_follows_joins_and_leaves() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let joined: Vec<_> = (1..=6).map(|pid| zone.worker_join(process(pid), 1).unwrap()).collect();
        assert_eq!(zone.workers_high(), 6);
        zone.worker_leave(joined[2]);
        assert_eq!(zone.workers_high(), 6);
        zone.reclaim_dead(process(1), |process| process.pid < 3);
        assert_eq!(zone.workers_high(), 2);
        assert_eq!(zone.worker_join(process(9), 1), Some(joined[2]));
        assert_eq!(zone.workers_high(), 3);
    }
}
