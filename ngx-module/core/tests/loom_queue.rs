//! The queue's words under every order of loads and stores that the memory model allows, as far as
//! loom finds them: `tools/loom.sh`.
//!
//! The zone is as small as it gets; a slot is a word of the test's own. What is checked is what the
//! file headers argue: no wake-up is lost, one turn is taken once, and a look never mixes the queue
//! before a grant with the queue after it.

#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering::SeqCst, fence};
use loom::thread;
use pincer_core::time::MonoNs;
use pincer_core::turn::Terms;
use pincer_core::zone::{HeapZone, Place, ProcessId, QueueClass, Turn, UpstreamIdx, WorkerIdx};

const U: UpstreamIdx = UpstreamIdx(0);
const VIP: QueueClass = QueueClass(1);
const LOW: QueueClass = QueueClass(2);

/// Low is promised every second grant.
fn terms(class: QueueClass) -> Terms {
    let (priority, share) = if class == VIP { (1, 0) } else { (100, 50) };
    Terms { priority, share, queue_max: 0 }
}

struct World {
    heap: HeapZone,
    free: AtomicU32,
    kicked: [AtomicU32; 2],
}

impl World {
    fn new(free: u32) -> (Arc<Self>, [WorkerIdx; 2]) {
        let world = Self { heap: HeapZone::new(1, 1), free: AtomicU32::new(free), kicked: Default::default() };
        let join = |pid| world.heap.zone().worker_join(ProcessId { pid, start: 1 }, 1).unwrap();
        let workers = [join(1), join(2)];
        (Arc::new(world), workers)
    }

    fn enter(&self, w: WorkerIdx, class: QueueClass) -> Place {
        self.heap.zone().queue_enter(U, w, class, 9, &terms, MonoNs(1)).unwrap()
    }

    fn next(&self) -> Option<Turn> {
        self.heap.zone().queue_next(U, &terms, |_| false)
    }

    /// What a worker does when it is woken: takes its turn while there is a slot, or kicks the one
    /// whose turn it is.
    fn look(&self, w: WorkerIdx, place: &mut Option<Place>) {
        while let Some(turn) = self.next() {
            if turn.worker != w {
                self.kicked[usize::from(turn.worker.0)].store(1, SeqCst);
                return;
            }
            if self.free.compare_exchange(1, 0, SeqCst, SeqCst).is_err() {
                return;
            }
            let taken = place.take().expect("a turn is taken once");
            self.heap.zone().queue_granted(U, &turn, &terms(turn.class), MonoNs(2));
            self.heap.zone().queue_leave(U, w, taken.cell, None);
        }
    }
}

#[test]
fn who_waits_sees_the_slot_or_who_frees_it_sees_who_waits() {
    loom::model(|| {
        let (world, [waiter, other]) = World::new(0);
        let releaser = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.free.store(1, SeqCst);
                fence(SeqCst);
                if world.heap.zone().any_waiting(U) {
                    world.look(other, &mut None);
                }
            })
        };
        let mut place = Some(world.enter(waiter, VIP));
        world.look(waiter, &mut place);
        releaser.join().unwrap();
        let woken = world.kicked[usize::from(waiter.0)].load(SeqCst) == 1;
        assert!(place.is_none() || woken, "waits beside a free slot, and nobody knows");
    });
}

#[test]
fn of_two_that_come_at_once_one_takes_the_slot_and_none_is_forgotten() {
    loom::model(|| {
        let (world, [one, two]) = World::new(1);
        let second = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut place = Some(world.enter(two, VIP));
                world.look(two, &mut place);
                place.is_none()
            })
        };
        let mut place = Some(world.enter(one, LOW));
        world.look(one, &mut place);
        let served = [place.is_none(), second.join().unwrap()];
        assert!(!(served[0] && served[1]));
        if let (Some(turn), 1) = (world.next(), world.free.load(SeqCst)) {
            assert_eq!(world.kicked[usize::from(turn.worker.0)].load(SeqCst), 1, "a slot is free and nobody looks");
        }
    });
}

#[test]
fn a_look_during_a_grant_gives_no_class_the_same_share_twice() {
    loom::model(|| {
        // The looker's cells are read before those of the worker that is about to grant.
        let (world, [looker, granter]) = World::new(1);
        let mut first = Some(world.enter(granter, LOW));
        world.enter(looker, LOW);
        // Makes one grant that is not Low's, so that the next is owed to it.
        let vip = world.enter(granter, VIP);
        let turn = world.next().unwrap();
        assert_eq!(turn.class, VIP);
        world.heap.zone().queue_granted(U, &turn, &terms(VIP), MonoNs(2));
        world.heap.zone().queue_leave(U, granter, vip.cell, None);
        world.enter(looker, VIP);
        let look = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let turn = world.next().unwrap();
                assert!(turn.worker == granter || turn.class == VIP, "{turn:?}");
            })
        };
        world.look(granter, &mut first);
        assert!(first.is_none());
        look.join().unwrap();
    });
}
