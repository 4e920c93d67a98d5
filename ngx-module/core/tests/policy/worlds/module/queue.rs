//! Requests that wait: ffi/balance/queue.rs.

use super::super::world::MS;
use super::{Got, Module, QUEUE_SIZE, Sabotage, Wake, Worker, clock, terms};
use super::{KICK_NS, KICK_STALE_NS, PARAMS, RESUMES_MAX, TICK_NS};
use pincer_core::time::MonoNs;
use pincer_core::zone::{Claim, QueueClass, WorkerIdx};

/// How often a worker looks by itself where lost wake-ups are to be noticed.
const SELDOM_NS: u64 = 100 * MS;

impl Module<'_> {
    /// Takes a place in the queue: queue.rs `park`.
    pub(super) fn park(&mut self, r: usize, now: MonoNs) -> Got {
        let (zone, u, w) = (self.zone, self.upstream, self.records[r].worker);
        let worker = &mut self.workers[w];
        let Ok(place) = zone.queue_enter(u, worker.at, QueueClass::NONE, QUEUE_SIZE, &terms, now) else {
            return Got::Busy;
        };
        worker.waiting.push_back((place.sequence, r));
        self.records[r].place = Some((place.cell, place.sequence));
        self.records[r].parked_at = now;
        self.post_drain(w, 0);
        self.arm_tick(w, TICK_NS, now);
        Got::Parked
    }

    /// The queue's timeout: queue.rs `on_timeout`. nginx answers 504.
    pub fn time_out(&mut self, r: usize, at: u64) {
        self.unpark(r);
        self.kick(self.records[r].worker, clock(at));
    }

    pub(super) fn unpark(&mut self, r: usize) {
        let record = &mut self.records[r];
        let Some((cell, sequence)) = record.place.take() else { return };
        let worker = &mut self.workers[record.worker];
        worker.waiting.retain(|&(other, _)| other != sequence);
        if worker.waiting.is_empty() {
            worker.tick_at = None;
        }
        let ends = worker.waiting.front().zip(worker.waiting.back()).map(|(oldest, newest)| (oldest.0, newest.0));
        self.zone.queue_leave(self.upstream, worker.at, cell, ends);
        let w = record.worker;
        self.leave_if_idle(w);
    }

    pub(super) fn kick(&mut self, me: usize, now: MonoNs) {
        if self.sabotage == Sabotage::NoKick || !self.zone.any_waiting(self.upstream) {
            return;
        }
        let own = self.workers[me].at;
        let skip = |worker: WorkerIdx| worker != own && self.is_stale(worker, now);
        match self.zone.queue_next(self.upstream, &terms, skip) {
            Some(turn) if turn.worker == own => self.post_drain(me, 0),
            Some(turn) => self.kick_worker(turn.worker, now),
            None => {}
        }
    }

    fn is_stale(&self, worker: WorkerIdx, now: MonoNs) -> bool {
        self.zone.workers[usize::from(worker.0)].kick_stale(now.0, KICK_STALE_NS)
    }

    fn kick_worker(&mut self, worker: WorkerIdx, now: MonoNs) {
        self.zone.workers[usize::from(worker.0)].kick_sent(now.0);
        let is_it = |other: &Worker<'_>| other.at == worker && other.holds != u32::MAX;
        if let Some(index) = self.workers.iter().position(is_it) {
            self.post_drain(index, KICK_NS);
        }
    }

    fn post_drain(&mut self, worker: usize, after_ns: u64) {
        if !std::mem::replace(&mut self.workers[worker].is_drain_posted, true) {
            self.wakes.push(Wake::Drain { worker, after_ns });
        }
    }

    /// Has the timer run out in `after_ns`, unless it does so sooner: local_queue.rs `look_in`.
    fn arm_tick(&mut self, worker: usize, after_ns: u64, now: MonoNs) {
        // A tick in time makes up for a lost wake-up.
        let after_ns = if self.sabotage == Sabotage::NoKick { after_ns.max(SELDOM_NS) } else { after_ns };
        let at = MonoNs(now.0 + after_ns);
        if self.workers[worker].tick_at.is_none_or(|armed| at.0 < armed.0) {
            self.workers[worker].tick_at = Some(at);
            self.wakes.push(Wake::Tick { worker, after_ns });
        }
    }

    /// The timer that looks again: queue.rs `on_tick`. Returns what [`Self::drain`] does.
    pub fn tick(&mut self, worker: usize, at: u64) -> Vec<(usize, Option<usize>)> {
        if self.workers[worker].tick_at != Some(clock(at)) {
            return vec![];
        }
        self.workers[worker].tick_at = None;
        if !self.workers[worker].waiting.is_empty() {
            self.arm_tick(worker, TICK_NS, clock(at));
        }
        self.drain(worker, at)
    }

    /// Hands out slots to waiting requests of this worker: queue.rs `drain`. Returns who left the
    /// queue, and the replica that each got; `None` = no peer is eligible.
    pub fn drain(&mut self, me: usize, at: u64) -> Vec<(usize, Option<usize>)> {
        let now = clock(at);
        let (zone, u) = (self.zone, self.upstream);
        self.workers[me].is_drain_posted = false;
        let own = self.workers[me].at;
        let mut left = vec![];
        if self.workers[me].holds == u32::MAX {
            return left;
        }
        zone.workers[usize::from(own.0)].kick_answered();
        if self.workers[me].waiting.is_empty() {
            return left;
        }
        for _ in 0..RESUMES_MAX {
            let skip = |worker: WorkerIdx| worker != own && self.is_stale(worker, now);
            let Some(turn) = zone.queue_next(u, &terms, skip) else { return left };
            if turn.worker != own {
                if zone.any_free(u, &PARAMS, now) {
                    self.kick_worker(turn.worker, now);
                }
                return left;
            }
            let Some(&(_, r)) = self.workers[me].waiting.front() else { return left };
            let waited_ns = now.since(self.records[r].parked_at);
            let claimed = zone.claim(u, own, &self.demand(r, zone.waiting(u), waited_ns), &PARAMS, now);
            if claimed.kick {
                self.post_drain(me, 0);
            }
            match claimed.claim {
                Claim::Taken(ticket) => {
                    zone.queue_granted(u, &turn, &terms(turn.class), now);
                    let replica = self.bind(r, ticket);
                    self.unpark(r);
                    left.push((r, Some(replica)));
                }
                Claim::Wait | Claim::Full => {
                    if let Some(ns) = claimed.look_again_ns {
                        self.arm_tick(me, ns.div_ceil(MS) * MS, now);
                    }
                    return left;
                }
                Claim::NoPeer => {
                    self.unpark(r);
                    left.push((r, None));
                }
            }
        }
        self.post_drain(me, 0);
        left
    }
}
