//! A million enqueues and dequeues, checked against a plain list ([`Book`]), where whose turn it is
//! and who is evicted is found by sorting.
//!
//! Each worker is a state machine over the real words of a zone, moved one step at a time in random
//! order; deaths come from [`crate::sync::mortal`]. At rest nobody waits while a slot is free.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod book;

use std::collections::VecDeque;

use self::book::Book;
use super::{
    BalanceParams, CELLS, Claim, HeapZone, Outcome, PeerSpec, ProcessId, QueueClass, Settings, Signal, Ticket, Turn,
    UpstreamIdx, WorkerIdx, Zone,
};
use crate::pick::{Demand, THETA};
use crate::sync::mortal::dies_before;
use crate::time::MonoNs;
use crate::turn::Terms;

const WORKERS: usize = 4;
const SIZE: u32 = 24;
const CLASSES: u16 = 10;
const NOW: MonoNs = MonoNs(1_000_000_000_000);
const PARAMS: BalanceParams =
    BalanceParams { signal: Signal::LastByte, half_life_ns: 10_000_000_000, slow_start_ns: 0, theta: THETA };
/// Shares whose periods are whole grants.
const SHARES: [u8; 6] = [0, 5, 5, 10, 20, 25];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(u16),
    Enter(QueueClass),
    /// Whose turn is it?
    Look,
    /// It was ours, at that moment.
    Claim(Decision),
    Granted(Decision),
    Leave(u8),
    Finish,
    Kick,
    GiveUp(u64),
    Trim,
}

/// A look at the queue that found the looker's own turn.
#[derive(Clone, Copy, Debug)]
struct Decision {
    turn: Turn,
    moment: u64,
    /// Grants that were counted by then.
    grants: u64,
    /// The deadline of the class, if it was owed.
    due: Option<u64>,
    /// When the request was shown.
    shown: u64,
    /// Nobody was dead then, so the book was right about what the zone has.
    booked: bool,
}

struct Worker {
    w: WorkerIdx,
    process: ProcessId,
    kicked: bool,
    steps: VecDeque<Step>,
    lists: [VecDeque<u64>; CELLS],
    active: Vec<Ticket>,
}

struct Model<'a> {
    zone: Zone<'a>,
    u: UpstreamIdx,
    random: Random,
    workers: Vec<Worker>,
    dead: Vec<ProcessId>,
    pids: u32,
    moment: u64,
    book: Book,
    /// The last grants.
    granted: VecDeque<Decision>,
    /// When the classes' terms last changed: a turn from before may no longer be the best.
    changed: u64,
    entered: u64,
    served: u64,
    left: u64,
    sent_away: u64,
}

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start: 1 }
}

impl<'a> Model<'a> {
    fn new(heap: &'a HeapZone, u: UpstreamIdx, seed: u64) -> Self {
        let mut model = Self {
            zone: heap.zone(),
            u,
            random: Random(seed),
            workers: Vec::new(),
            dead: Vec::new(),
            pids: 0,
            moment: 0,
            book: Book::default(),
            granted: VecDeque::new(),
            changed: 0,
            entered: 0,
            served: 0,
            left: 0,
            sent_away: 0,
        };
        model.change_terms();
        (0..WORKERS).for_each(|_| model.spawn());
        model
    }

    fn change_terms(&mut self) {
        self.changed = self.moment;
        let random = &mut self.random;
        let mut terms = |class: u16| Terms {
            priority: [1, 1, 50, 100, 100, 200][random.below(6) as usize],
            share: SHARES[random.below(6) as usize],
            queue_max: if class == 3 { 6 } else { 0 },
        };
        self.book.terms = (0..CLASSES).map(&mut terms).collect();
    }

    fn spawn(&mut self) {
        self.pids += 1;
        let process = process(self.pids);
        let w = self.zone.worker_join(process, 1).unwrap();
        let lists = std::array::from_fn(|_| VecDeque::new());
        self.workers.push(Worker { w, process, kicked: true, steps: VecDeque::new(), lists, active: Vec::new() });
    }

    fn next(&self) -> Option<Turn> {
        self.zone.queue_next(self.u, &|class| self.book.terms(class), |_| false)
    }

    fn index_of(&self, w: WorkerIdx) -> Option<usize> {
        self.workers.iter().position(|worker| worker.w == w)
    }

    fn kick(&mut self) {
        if let Some(index) = self.next().and_then(|turn| self.index_of(turn.worker)) {
            self.workers[index].kicked = true;
        }
    }

    /// Moves worker `i` by one step, or kills it in the middle.
    fn step(&mut self, i: usize) {
        self.moment += 1;
        let Some(step) = self.workers[i].steps.pop_front() else {
            if std::mem::take(&mut self.workers[i].kicked) {
                self.workers[i].steps.extend([Step::Trim, Step::Look]);
            }
            return;
        };
        if self.random.below(400) == 0 {
            let store = self.random.below(12) as u32;
            if dies_before(store, || self.run(i, step)).is_none() {
                self.die(i);
            }
        } else {
            self.run(i, step);
        }
    }

    fn run(&mut self, i: usize, step: Step) {
        match step {
            Step::Arrive(class) => self.arrive(i, class),
            Step::Enter(class) => self.enter(i, class),
            Step::Look => self.look(i),
            Step::Claim(decision) => self.claim(i, decision),
            Step::Granted(decision) => self.count_grant(i, decision),
            Step::Leave(cell) => {
                self.served += 1;
                self.remove(i, cell, 0);
                self.workers[i].steps.push_front(Step::Look);
            }
            Step::Finish => {
                if let Some(ticket) = self.workers[i].active.pop() {
                    let w = self.workers[i].w;
                    self.zone.release(ticket, w, Outcome::Neutral, &PARAMS, NOW, 0);
                    self.workers[i].steps.push_front(Step::Kick);
                }
            }
            Step::Kick => self.kick(),
            Step::GiveUp(number) => self.give_up(i, number),
            Step::Trim => self.trim(i),
        }
    }

    fn arrive(&mut self, i: usize, class: u16) {
        let step = Step::Enter(QueueClass(class));
        if self.zone.any_waiting(self.u) {
            return self.workers[i].steps.push_front(step);
        }
        match self.take(i) {
            Some(ticket) => self.workers[i].active.push(ticket),
            None => self.workers[i].steps.push_front(step),
        }
    }

    fn take(&mut self, i: usize) -> Option<Ticket> {
        let demand = Demand { queued: 1, can_wait: true, random: self.moment, ..Demand::default() };
        match self.zone.claim(self.u, self.workers[i].w, &demand, &PARAMS, NOW).claim {
            Claim::Taken(ticket) => Some(ticket),
            _ => None,
        }
    }

    fn enter(&mut self, i: usize, class: QueueClass) {
        let (own, bound) = (self.book.count(class), self.book.terms(class).queue_max as usize);
        let w = self.workers[i].w;
        let terms = |class| self.book.terms(class);
        let Ok(place) = self.zone.queue_enter(self.u, w, class, SIZE, &terms, NOW) else {
            let full = self.book.shown.len() >= SIZE as usize || (bound > 0 && own >= bound);
            assert!(full || !self.dead.is_empty(), "refused without need");
            self.sent_away += 1;
            return;
        };
        assert!(bound == 0 || own < bound, "{class:?} has {own} of {bound} already");
        assert!(place.crowded == (self.book.shown.len() >= SIZE as usize) || !self.dead.is_empty());
        self.entered += 1;
        self.workers[i].lists[usize::from(place.cell)].push_back(place.sequence);
        self.workers[i].kicked = true;
        self.book.enter(place.sequence, i, place.class, self.moment);
    }

    fn look(&mut self, i: usize) {
        let next = self.next();
        if self.dead.is_empty() {
            let wanted = self.book.next();
            assert_eq!(next.map(|turn| turn.sequence), wanted, "the wrong one is next");
        }
        match next {
            Some(turn) if turn.worker == self.workers[i].w => {
                let due = self.book.deadline(turn.class);
                let shown = self.book.shown.get(&turn.sequence).map_or(0, |(_, _, moment)| *moment);
                let (grants, booked) = (self.book.grants, self.dead.is_empty());
                let decision = Decision { turn, moment: self.moment, grants, due, shown, booked };
                self.workers[i].steps.push_front(Step::Claim(decision));
            }
            Some(_) if self.zone.any_free(self.u, &PARAMS, NOW) => self.kick(),
            _ => {}
        }
    }

    fn claim(&mut self, i: usize, decision: Decision) {
        let first = self.workers[i].lists[usize::from(decision.turn.cell)].front().copied();
        assert_eq!(first, Some(decision.turn.sequence));
        let Some(ticket) = self.take(i) else { return };
        self.workers[i].active.push(ticket);
        self.workers[i].steps.push_front(Step::Granted(decision));
    }

    fn count_grant(&mut self, i: usize, decision: Decision) {
        let turn = decision.turn;
        // Others may have found a turn of theirs since only if a request came, or a grant counted.
        for other in &self.granted {
            let after = other.moment > decision.moment && other.grants == decision.grants;
            let together = after && other.shown < decision.moment && decision.moment > self.changed;
            assert!(!together, "two workers took turns at once: {decision:?} {other:?}");
        }
        self.granted.push_back(decision);
        if self.granted.len() == 64 {
            self.granted.drain(..32);
        }
        self.workers[i].steps.push_front(Step::Leave(turn.cell));
        let terms = self.book.terms(turn.class);
        self.zone.queue_granted(self.u, &turn, &terms, NOW);
        self.book.grant(turn.class, decision.due);
        if !decision.booked {
            // The books may have been settled since that look; its deadline was not of the same.
            self.book_base(turn.class);
        }
    }

    /// Takes request number `at` out of the list `cell`.
    fn remove(&mut self, i: usize, cell: u8, at: usize) {
        let list = &mut self.workers[i].lists[usize::from(cell)];
        let Some(sequence) = list.remove(at) else { return };
        let ends = list.front().copied().zip(list.back().copied());
        self.book.shown.remove(&sequence);
        self.zone.queue_leave(self.u, self.workers[i].w, cell, ends);
    }

    fn give_up(&mut self, i: usize, number: u64) {
        let cells: Vec<usize> = (0..CELLS).filter(|cell| !self.workers[i].lists[*cell].is_empty()).collect();
        let Some(cell) = cells.get(number as usize % cells.len().max(1)).copied() else { return };
        let at = number as usize / 7 % self.workers[i].lists[cell].len();
        self.left += 1;
        self.workers[i].steps.push_front(Step::Kick);
        self.remove(i, u8::try_from(cell).unwrap(), at);
    }

    fn trim(&mut self, i: usize) {
        let victim = self.zone.queue_victim(self.u, SIZE, &|class| self.book.terms(class));
        let Some(victim) = victim else {
            assert!(!self.dead.is_empty() || self.book.victim().is_none());
            return;
        };
        let Some(owner) = self.index_of(victim.worker) else { return };
        if owner != i {
            self.workers[owner].kicked = true;
            return;
        }
        let newest = self.workers[i].lists[usize::from(victim.cell)].len() - 1;
        let sequence = self.workers[i].lists[usize::from(victim.cell)][newest];
        assert!(!self.dead.is_empty() || self.book.victim() == Some(sequence), "the wrong one is evicted");
        self.left += 1;
        self.workers[i].steps.extend([Step::Trim, Step::Kick]);
        self.remove(i, victim.cell, newest);
    }

    /// Worker `i` is gone; nobody knows yet.
    fn die(&mut self, i: usize) {
        let worker = self.workers.swap_remove(i);
        self.left += worker.lists.iter().map(|list| list.len() as u64).sum::<u64>();
        self.dead.push(worker.process);
        // Its requests stay shown until they are reclaimed; the list forgets them meanwhile.
        let moved = self.workers.len();
        self.book.shown.retain(|_, (owner, _, _)| *owner != i);
        for (owner, _, _) in self.book.shown.values_mut().filter(|(owner, _, _)| *owner == moved) {
            *owner = i;
        }
    }

    /// Some worker finds the dead, perhaps dies of it, and a new one takes their place.
    fn reap(&mut self) {
        if self.workers.is_empty() {
            self.spawn();
        }
        let (me, dead) = (self.workers[0].process, self.dead.clone());
        let alive = |process: ProcessId| !dead.contains(&process);
        let store = if self.random.below(4) == 0 { self.random.below(20) as u32 } else { u32::MAX - 1 };
        match dies_before(store, || self.zone.reclaim_dead(me, alive)) {
            None => self.die(0),
            Some(_) => self.dead.clear(),
        }
        while self.workers.len() < WORKERS {
            self.spawn();
        }
        if self.dead.is_empty() {
            self.settle_the_books();
        }
        self.kick();
        (0..self.workers.len()).for_each(|i| self.workers[i].kicked = true);
    }

    /// Deaths in the middle of a grant leave the count or a base behind, by one grant each.
    fn settle_the_books(&mut self) {
        let upstream = self.zone.upstream(self.u).unwrap();
        let grants = upstream.grants.load(ORDER);
        assert!(grants.abs_diff(self.book.grants) <= u64::from(self.pids), "{grants} {}", self.book.grants);
        self.book.grants = grants;
        (0..CLASSES).map(QueueClass).for_each(|class| self.book_base(class));
    }

    /// Takes what the deadlines of `class` count from over from the zone.
    fn book_base(&mut self, class: QueueClass) {
        let base = self.zone.upstream(self.u).unwrap().base(class).unwrap().load(ORDER);
        self.book.bases.insert(class, base >> 16);
    }

    fn busy(&self) -> Vec<usize> {
        (0..self.workers.len()).filter(|i| self.workers[*i].kicked || !self.workers[*i].steps.is_empty()).collect()
    }

    /// Until nothing is left to do; then nobody may wait beside a free slot.
    fn settle(&mut self) {
        loop {
            while let Some(i) = self.choose() {
                self.step(i);
            }
            if self.dead.is_empty() {
                break;
            }
            self.reap();
        }
        let waiting = self.book.shown.len();
        assert_eq!(self.zone.waiting(self.u) as usize, waiting);
        assert!(waiting <= SIZE as usize, "{waiting} wait");
        assert!(waiting == 0 || !self.zone.any_free(self.u, &PARAMS, NOW), "{waiting} wait beside a free slot");
        assert_eq!(self.zone.any_waiting(self.u), waiting > 0);
    }

    fn choose(&mut self) -> Option<usize> {
        let busy = self.busy();
        (!busy.is_empty()).then(|| busy[self.random.below(busy.len() as u64) as usize])
    }

    /// Something happens to a worker from outside.
    fn event(&mut self, load: u64) {
        let i = self.random.below(self.workers.len() as u64) as usize;
        let number = self.random.below(1 << 20);
        let step = match self.random.below(100) {
            0..=1 => return self.settle(),
            2 => return self.die_and_be_found(i),
            3 if number.is_multiple_of(50) => {
                self.change_terms();
                (0..self.workers.len()).for_each(|i| self.workers[i].kicked = true);
                return;
            }
            4..=6 => Step::GiveUp(number),
            chance if chance < 7 + load => {
                Step::Arrive([0, 1, 1, 2, 3, 4, (number / 8 % 10) as u16][number as usize % 7])
            }
            _ => Step::Finish,
        };
        self.workers[i].steps.push_back(step);
    }

    fn die_and_be_found(&mut self, i: usize) {
        self.die(i);
        if self.random.below(2) == 0 {
            self.reap();
        }
    }
}

/// For loads outside the crate's own algorithms.
const ORDER: core::sync::atomic::Ordering = core::sync::atomic::Ordering::SeqCst;

/// Returns how many requests entered the queue, and left it.
fn run(seed: u64, steps: u64) -> u64 {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let peer = |name: &'static str, max_conns| PeerSpec {
        sockaddr: name.as_bytes(),
        name: name.as_bytes(),
        server: name.as_bytes(),
        weight: 1,
        max_conns,
        max_fails: 1,
        max_fails_explicit: false,
        fail_timeout_ms: 0,
        backup: false,
        down: false,
        lines: 1,
    };
    zone.header.generation_begin();
    let u = zone.upstream_reserve(b"llm").unwrap();
    zone.upstream_configure(u, &Settings::default(), &[peer("a", 2), peer("b", 3)], NOW).unwrap();
    let mut model = Model::new(&heap, u, seed);
    while model.moment < steps {
        // Calm and storm take turns, so that the queue is empty, half full and over its size.
        model.event(if (model.moment / 2_000).is_multiple_of(3) { 40 } else { 62 });
        if model.workers.is_empty() {
            model.spawn();
        }
        for _ in 0..model.random.below(6) {
            let Some(i) = model.choose() else { break };
            model.step(i);
            if model.workers.is_empty() {
                model.spawn();
            }
        }
        if !model.dead.is_empty() && model.random.below(20) == 0 {
            model.reap();
        }
    }
    for _ in 0..200 {
        model.settle();
        (0..model.workers.len()).for_each(|i| {
            let active = model.workers[i].active.len();
            model.workers[i].steps.extend(std::iter::repeat_n(Step::Finish, active));
        });
    }
    let snapshot = zone.snapshot(NOW);
    assert_eq!(zone.waiting(u), 0);
    assert_eq!(snapshot.upstreams[0].peers.iter().map(|peer| peer.in_flight).sum::<u32>(), 0);
    assert!(model.served > 0 && model.sent_away > 0);
    assert_eq!(model.entered, model.served + model.left);
    assert_eq!(zone.header.counters.unbalanced.load(ORDER), 0);
    model.entered + model.served + model.left
}

#[test]
fn a_million_enqueues_and_dequeues_lose_no_wake_up_and_no_slot_and_keep_the_order() {
    let (mut seed, mut moves) = (0, 0);
    while moves < 1_000_000 {
        moves += run(seed, 250_000);
        seed += 1;
    }
}
