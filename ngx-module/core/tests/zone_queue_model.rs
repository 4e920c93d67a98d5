//! The queue's protocol as state machines over the real zone words, in random interleavings of single steps.
//!
//! Workers arrive, park, are kicked, claim, finish, abort and die, one step at a time in any order. Whenever nothing is left to do, nobody may wait
//! while a slot is free; and of two parked requests the one that was published before the other arrived is served first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use std::collections::{BTreeMap, VecDeque};

use pincer_core::pick::Demand;
use pincer_core::zone::{Claim, HeapZone, NO_KEY, Ticket, UpstreamIdx, WorkerIdx};
use proptest::prelude::*;
use zone_support::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Looks at the heads and, if it is first, at the peers.
    Arrive,
    /// Publishes the head after a request was queued, then looks itself.
    Publish,
    /// Looks whose turn it is.
    Look,
    /// Tries to claim for the own head, which was the least at the last look.
    Claim,
    /// Publishes the next head after a claim and goes on.
    Next,
    /// Ends one active request.
    Finish,
    /// Kicks the owner of the least head.
    Kick,
    /// A parked client leaves.
    Abort,
}

#[derive(Default)]
struct Worker {
    steps: VecDeque<Step>,
    kicked: bool,
    /// Key → (moment of arrival, moment of publication).
    queue: BTreeMap<u64, (u32, u32)>,
    published: Option<u64>,
    active: Vec<Ticket>,
}

struct Model<'a> {
    heap: &'a HeapZone,
    u: UpstreamIdx,
    workers: Vec<(WorkerIdx, u32, Worker)>,
    moment: u32,
    parked: u32,
    served: u32,
    left: u32,
}

impl Model<'_> {
    fn demand(&self) -> Demand {
        demand(u64::from(self.moment), true)
    }

    fn publish(&mut self, i: usize) {
        let (w, _, worker) = &mut self.workers[i];
        let key = worker.queue.keys().next().copied();
        self.heap.zone().head_publish(self.u, *w, key.unwrap_or(NO_KEY));
        worker.published = key;
        if let Some(entry) = key.and_then(|key| worker.queue.get_mut(&key)) {
            entry.1 = entry.1.min(self.moment);
        }
    }

    fn kick_least(&mut self) {
        if let Some((owner, _)) = self.heap.zone().least_head(self.u, |_| false)
            && let Some((_, _, worker)) = self.workers.iter_mut().find(|(w, _, _)| *w == owner)
        {
            worker.kicked = true;
        }
    }

    fn step(&mut self, i: usize) {
        self.moment += 1;
        let zone = self.heap.zone();
        let (u, w) = (self.u, self.workers[i].0);
        let worker = &mut self.workers[i].2;
        let Some(step) = worker.steps.pop_front() else {
            if std::mem::take(&mut worker.kicked) {
                worker.steps.push_back(Step::Look);
            }
            return;
        };
        match step {
            Step::Arrive => self.arrive(i),
            Step::Publish => {
                self.publish(i);
                self.workers[i].2.kicked = true;
            }
            Step::Look => match zone.least_head(u, |_| false) {
                Some((owner, key)) if owner == w && worker.published == Some(key) => {
                    worker.steps.push_front(Step::Claim)
                }
                Some(_) => worker.steps.push_front(Step::Kick),
                None => {}
            },
            Step::Kick => {
                if zone.any_free(u, &PARAMS, NOW) {
                    self.kick_least();
                }
            }
            Step::Claim => self.claim(i),
            Step::Next => {
                self.publish(i);
                self.workers[i].2.steps.push_front(Step::Look);
            }
            Step::Finish => {
                if let Some(ticket) = worker.active.pop() {
                    worker.steps.push_front(Step::Kick);
                    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
                }
            }
            Step::Abort => {
                if let Some((&key, _)) = worker.queue.iter().next_back() {
                    worker.queue.remove(&key);
                    zone.waiting_sub(u, w);
                    self.left += 1;
                    worker.steps.push_front(Step::Kick);
                    self.publish(i);
                }
            }
        }
    }

    fn arrive(&mut self, i: usize) {
        let zone = self.heap.zone();
        let (u, w) = (self.u, self.workers[i].0);
        let key = zone.next_key(u, 100);
        if zone.least_head(u, |_| false).is_none() {
            let claimed = zone.claim(u, w, &self.demand(), &PARAMS, NOW);
            if let Claim::Taken(ticket) = claimed.claim {
                self.workers[i].2.active.push(ticket);
                return;
            }
        }
        assert!(zone.waiting_add(u, w, 10_000));
        self.parked += 1;
        let worker = &mut self.workers[i].2;
        worker.queue.insert(key, (self.moment, u32::MAX));
        worker.steps.push_front(Step::Publish);
    }

    fn claim(&mut self, i: usize) {
        let zone = self.heap.zone();
        let (u, w) = (self.u, self.workers[i].0);
        let Claim::Taken(ticket) = zone.claim(u, w, &self.demand(), &PARAMS, NOW).claim else { return };
        let worker = &mut self.workers[i].2;
        worker.active.push(ticket);
        let Some((key, (arrived, _))) = worker.queue.pop_first() else {
            worker.steps.push_front(Step::Finish);
            return;
        };
        zone.waiting_sub(u, w);
        worker.steps.push_front(Step::Next);
        self.served += 1;
        let earlier = self.workers.iter().flat_map(|(_, _, worker)| &worker.queue);
        for (other, (_, published)) in earlier {
            assert!(*other > key || *published >= arrived, "{key:#x} overtook {other:#x}");
        }
    }

    /// The worker is killed between two steps; another worker finds out later, and a new one takes its place.
    fn kill(&mut self, i: usize) {
        let zone = self.heap.zone();
        let pid = self.workers[i].1;
        let dead = std::mem::take(&mut self.workers[i].2);
        self.left += u32::try_from(dead.queue.len()).unwrap();
        let reclaimed = zone.reclaim_dead(process(9_999), |process| process.pid != pid);
        assert_eq!(reclaimed.requests as usize, dead.active.len());
        self.workers[i].1 = pid + 100;
        self.workers[i].0 = join(&zone, pid + 100);
        self.kick_least();
    }

    fn busy(&self) -> Vec<usize> {
        let busy = |worker: &Worker| worker.kicked || !worker.steps.is_empty();
        (0..self.workers.len()).filter(|i| busy(&self.workers[*i].2)).collect()
    }

    fn settle(&mut self, choices: &mut impl Iterator<Item = u8>) {
        for _ in 0..1_000_000 {
            let busy = self.busy();
            if busy.is_empty() {
                break;
            }
            self.step(busy[usize::from(choices.next().unwrap_or(0)) % busy.len()]);
        }
        assert!(self.busy().is_empty(), "the workers kick each other for ever");
        let waiting: usize = self.workers.iter().map(|(_, _, worker)| worker.queue.len()).sum();
        assert_eq!(self.heap.zone().waiting(self.u) as usize, waiting);
        assert!(waiting == 0 || !self.heap.zone().any_free(self.u, &PARAMS, NOW), "{waiting} wait beside a free slot");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_wake_up_is_lost_and_order_is_kept(
        events in prop::collection::vec((0_usize..4, 0_u8..12), 1..120),
        order in prop::collection::vec(any::<u8>(), 4_000),
    ) {
        let (heap, u) = pool(&[spec("a:1", 1), spec("b:1", 2)]);
        let workers = (0..4).map(|i| (join(&heap.zone(), i + 1), i + 1, Worker::default())).collect();
        let mut model = Model { heap: &heap, u, workers, moment: 0, parked: 0, served: 0, left: 0 };
        let mut choices = order.into_iter().cycle();
        for (i, event) in events {
            let step = match event {
                0..=5 => Step::Arrive,
                6..=8 => Step::Finish,
                9 => Step::Abort,
                10 => { model.kill(i); continue }
                _ => { model.settle(&mut choices); continue }
            };
            model.workers[i].2.steps.push_back(step);
            for _ in 0..choices.next().unwrap_or(0) % 4 {
                let busy = model.busy();
                if busy.is_empty() { break }
                model.step(busy[usize::from(choices.next().unwrap_or(0)) % busy.len()]);
            }
        }
        // Everybody finishes: then everybody who parked and did not leave must have been served.
        for _ in 0..200 {
            model.settle(&mut choices);
            for (_, _, worker) in &mut model.workers {
                worker.steps.extend(worker.active.iter().map(|_| Step::Finish));
            }
        }
        prop_assert_eq!(model.parked, model.served + model.left);
        prop_assert_eq!(heap.zone().waiting(u), 0);
        prop_assert_eq!(in_flight(&heap.zone(), "a:1") + in_flight(&heap.zone(), "b:1"), 0);
    }
}
