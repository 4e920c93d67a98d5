//! One queue per upstream, shared by all workers: who waits, and whose turn it is.
//!
//! Requests wait in private lists of their worker, one for each class; the zone knows of each list
//! its class, length, oldest and newest ([`super::cells`]). Whose turn it is follows from these
//! words alone, by [`crate::turn`]: the class of the lowest priority number, unless another one is
//! owed its share, and its oldest request, whichever worker has it. Never wakes anybody and never
//! hands out a slot itself.
//!
//! *No wake-up is lost* because both sides store first and look second, in one total order: who
//! waits shows its request and then looks for a free slot; who frees a slot, takes a turn or leaves
//! does so and then looks whose turn it is, and kicks that worker.
//!
//! *The order is exact.* Only the worker whose turn it is takes a slot for the queue, and its
//! request stays shown until the grant is counted; so two workers never take turns at once, and
//! what one grant changes (the count of grants, the class' base, the oldest request, stored in this
//! order) is never seen half by a look that leads to a turn: a look that sees neither the count nor
//! the base changed still sees the old request, which is not the looker's; a look that saw only
//! some of it finds, when it reads count and base again, that one of them has risen, and looks
//! again. A request that comes between a look and its grant came after that decision. The exception
//! is a worker that was passed over because it stands still: it may later take the turn it had
//! seen.
//!
//! A death between any two stores costs at most one grant of a share, never order or a place. Cost:
//! one or two loads to learn that nobody waits; otherwise a load for each class in each worker that
//! has any. Bound: `size` requests.

use super::cells::{QueueClass, UpstreamWorker, Word};
use super::{Upstream, UpstreamIdx, WorkerIdx, Zone};
use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::time::MonoNs;
use crate::turn::{Rank, Terms};

/// Looks at a moving queue before the last one is believed. Each further one means that a grant was
/// counted during the one before.
const LOOKS: usize = 8;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The list of the worker where it belongs: behind all that are there. Below [`super::CELLS`].
    pub cell: u8,
    /// The class it waits as.
    pub class: QueueClass,
    /// Its number, for [`Zone::queue_leave`].
    pub sequence: u64,
    /// Whether more than the size now wait, so that somebody must give way: then
    /// [`Zone::queue_victim`] says who.
    pub crowded: bool,
}

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full, and nobody in it can be evicted.
    Full,
    /// As many of its class wait as may.
    ClassFull,
    /// No such upstream or worker.
    Unknown,
}

/// The oldest or the newest request of a worker's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The worker that has it.
    pub worker: WorkerIdx,
    /// The list it is in.
    pub cell: u8,
    /// The class it waits as.
    pub class: QueueClass,
    /// Low bits of its number.
    pub sequence: u64,
    /// The deadline of a class that is owed this grant.
    owed: Option<u64>,
}

impl Zone<'_> {
    /// Whether any request waits for a slot of `u`, in any worker. Two loads.
    #[inline(always)]
    pub fn any_waiting(&self, u: UpstreamIdx) -> bool {
        self.upstream(u).is_some_and(|upstream| !upstream.waiters.is_empty())
    }

    /// Requests that wait for a slot, in all workers.
    pub fn waiting(&self, u: UpstreamIdx) -> u32 {
        self.upstream(u).map_or(0, Upstream::waiting)
    }

    /// Takes a place for a request of worker `w`, behind all of its class, and shows it: from now
    /// on it may be its turn.
    ///
    /// At most `size` wait, and of a class that has a bound of its own at most that many, but one
    /// more for each worker that lets one in at the same moment. When it is full, a request comes
    /// in all the same if others are evicted for it ([`crate::turn::evictable`]); until they have
    /// gone, more than `size` wait. Of two that come at once for the last place both may be
    /// refused. `terms` tells how a class waits.
    pub fn queue_enter(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        class: QueueClass,
        size: u32,
        terms: &impl Fn(QueueClass) -> Terms,
        now: MonoNs,
    ) -> Result<Place, Refused> {
        self.enter(u, w, class, Some(size), terms, now)
    }

    /// [`Zone::queue_enter`] for a request that had a slot, and whose peer failed it: it was let in
    /// before, so no bound holds and nobody is evicted for it. Its leave is told by
    /// [`Zone::queue_retry_left`] too.
    pub fn queue_enter_again(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        class: QueueClass,
        terms: &impl Fn(QueueClass) -> Terms,
        now: MonoNs,
    ) -> Result<Place, Refused> {
        self.enter(u, w, class, None, terms, now)
    }

    /// One that entered by [`Zone::queue_enter_again`] has left.
    pub fn queue_retry_left(&self, u: UpstreamIdx, w: WorkerIdx) {
        if let Some(worker) = self.upstream(u).and_then(|upstream| upstream.workers.get(usize::from(w.0))) {
            let before = worker.retries.load(SeqCst);
            worker.retries.store(before.saturating_sub(1), SeqCst);
        }
    }

    fn enter(
        &self,
        u: UpstreamIdx,
        w: WorkerIdx,
        class: QueueClass,
        size: Option<u32>,
        terms: &impl Fn(QueueClass) -> Terms,
        now: MonoNs,
    ) -> Result<Place, Refused> {
        let upstream = self.upstream(u).ok_or(Refused::Unknown)?;
        let worker = upstream.workers.get(usize::from(w.0)).ok_or(Refused::Unknown)?;
        let was_empty = upstream.waiters.is_empty();
        // The bit goes first, so that whoever sums sees this one too.
        upstream.waiters.set(usize::from(w.0));
        if size.is_none() {
            worker.retries.fetch_add(1, SeqCst);
        }
        worker.waiting.fetch_add(1, SeqCst);
        let (cell, class, crowded) = match self.admit(upstream, worker, class, size, terms) {
            Ok(admitted) => admitted,
            Err(refused) => {
                if size.is_none() {
                    worker.retries.fetch_sub(1, SeqCst);
                }
                upstream.uncount(usize::from(w.0), worker);
                return Err(refused);
            }
        };
        if was_empty {
            upstream.drain.begin(now);
        }
        self.begin_class(upstream, class, terms);
        let sequence = upstream.next_sequence();
        let before = worker.word(cell).filter(|word| !word.is_empty());
        let oldest = before.map_or(Word::kept(sequence), Word::oldest);
        worker.show(cell, Word::new(class, before.map_or(0, Word::count) + 1, oldest), sequence);
        crate::sync::total_order();
        Ok(Place { cell: u8::try_from(cell).unwrap_or(u8::MAX), class, sequence, crowded })
    }

    /// A request of worker `w` has left the list `cell`; `ends` are the numbers of the oldest and
    /// the newest that are still there.
    ///
    /// Call it after [`Zone::queue_granted`] if it left for a peer. Afterwards look whose turn it
    /// is.
    pub fn queue_leave(&self, u: UpstreamIdx, w: WorkerIdx, cell: u8, ends: Option<(u64, u64)>) {
        let Some(upstream) = self.upstream(u) else { return };
        let (column, cell) = (usize::from(w.0), usize::from(cell));
        let Some(worker) = upstream.workers.get(column) else { return };
        let Some(word) = worker.word(cell).filter(|word| !word.is_empty()) else {
            self.header.counters.unbalanced.fetch_add(1, Relaxed);
            return;
        };
        match ends {
            Some((oldest, newest)) => {
                let count = word.count().saturating_sub(1).max(1);
                worker.show(cell, Word::new(word.class(), count, Word::kept(oldest)), newest);
            }
            None => worker.empty(cell),
        }
        upstream.uncount(column, worker);
        crate::sync::total_order();
    }

    /// Whose turn it is: the request that must get the next slot. Workers for which `skip` holds
    /// (they stand still) are passed over.
    pub fn queue_next(
        &self,
        u: UpstreamIdx,
        terms: &impl Fn(QueueClass) -> Terms,
        skip: impl Fn(WorkerIdx) -> bool,
    ) -> Option<Turn> {
        let upstream = self.upstream(u)?;
        let mut found = None;
        for _ in 0..LOOKS {
            let grants = upstream.grants.load(SeqCst);
            found = upstream.look(grants, terms, &skip);
            let base_of = |turn: &Turn| upstream.base(turn.class).map_or(0, |base| base.load(SeqCst));
            let same_base = found.as_ref().is_none_or(|(turn, base)| base_of(turn) == *base);
            if same_base && upstream.grants.load(SeqCst) == grants {
                break;
            }
        }
        found.map(|(turn, _)| turn)
    }

    /// The request of `turn` gets a slot. Before it leaves the queue, so that no other can take the
    /// same turn.
    pub fn queue_granted(&self, u: UpstreamIdx, turn: &Turn, terms: &Terms, now: MonoNs) {
        let Some(upstream) = self.upstream(u) else { return };
        let grant = upstream.grants.fetch_add(1, SeqCst) + 1;
        if let Some(base) = upstream.base(turn.class) {
            base.store(terms.base_after(turn.owed, grant), SeqCst);
        }
        upstream.drain.grant(now);
    }

    /// What to tell a client where the queue is full, as `Retry-After`: seconds in which what waits
    /// now is gone. 1 to [`crate::drain::RETRY_AFTER_MAX_S`].
    pub fn queue_retry_after_s(&self, u: UpstreamIdx, now: MonoNs) -> u32 {
        self.upstream(u).map_or(1, |upstream| upstream.drain.retry_after_s(upstream.waiting(), now))
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

    /// A request found the queue full, or gave way to another.
    pub fn queue_overflow(&self, u: UpstreamIdx) {
        if let Some(upstream) = self.upstream(u) {
            upstream.counters.overflows.fetch_add(1, Relaxed);
        }
    }

    /// A class that nobody waits for anywhere begins to wait: what it was owed long ago is forfeit.
    fn begin_class(&self, upstream: &Upstream, class: QueueClass, terms: &impl Fn(QueueClass) -> Terms) {
        if upstream.lists().any(|(_, _, word)| word.class() == class) {
            return;
        }
        if let Some(base) = upstream.base(class) {
            let grants = upstream.grants.load(SeqCst);
            base.store(terms(class).base_at_begin(base.load(SeqCst), grants), SeqCst);
        }
    }
}

impl Upstream {
    /// Requests that wait, in all workers.
    pub(super) fn waiting(&self) -> u32 {
        let columns = self.waiters.iter().filter_map(|column| self.workers.get(column));
        columns.map(|worker| worker.waiting.load(SeqCst)).fold(0, u32::wrapping_add)
    }

    /// Of these, the ones that are let in whatever the queue's size is.
    pub(super) fn retries(&self) -> u32 {
        let columns = self.waiters.iter().filter_map(|column| self.workers.get(column));
        columns.map(|worker| worker.retries.load(SeqCst)).fold(0, u32::wrapping_add)
    }

    /// All lists that are not empty: the worker, the cell, what it says.
    pub(super) fn lists(&self) -> impl Iterator<Item = (usize, usize, Word)> {
        self.waiters.iter().flat_map(|column| {
            let used = self.workers.get(column).map(|worker| worker.used());
            used.into_iter().flatten().map(move |(cell, word)| (column, cell, word))
        })
    }

    /// One request of the worker waits no longer.
    fn uncount(&self, column: usize, worker: &UpstreamWorker) {
        if worker.waiting.fetch_sub(1, SeqCst) == 1 {
            self.waiters.clear(column);
        }
    }

    /// The least of all ranks, and the base that its rank came from.
    fn look(
        &self,
        grants: u64,
        terms: &impl Fn(QueueClass) -> Terms,
        skip: &impl Fn(WorkerIdx) -> bool,
    ) -> Option<(Turn, u64)> {
        let now = self.sequence.load(SeqCst);
        let mut best: Option<(Rank, Turn, u64)> = None;
        for column in self.waiters.iter() {
            let worker = WorkerIdx(u16::try_from(column).unwrap_or(u16::MAX));
            let Some(slot) = self.workers.get(column).filter(|_| !skip(worker)) else { continue };
            for (cell, word) in slot.used() {
                let class = word.class();
                let (terms, base) = (terms(class), self.base(class).map_or(0, |base| base.load(SeqCst)));
                let owed = terms.owed(base, grants);
                let rank = Rank::new(&terms, owed, Word::distance(word.oldest(), now));
                if best.as_ref().is_none_or(|(least, _, _)| rank < *least) {
                    best = Some((rank, turn(worker, cell, class, word.oldest(), owed), base));
                }
            }
        }
        best.map(|(_, turn, base)| (turn, base))
    }

    fn next_sequence(&self) -> u64 {
        loop {
            let sequence = self.sequence.fetch_add(1, SeqCst).wrapping_add(1);
            // A cell has 0 for "nothing waits".
            if Word::kept(sequence) != 0 {
                return sequence;
            }
        }
    }
}

/// A turn in `cell` of `worker`.
pub(super) fn turn(worker: WorkerIdx, cell: usize, class: QueueClass, sequence: u64, owed: Option<u64>) -> Turn {
    Turn { worker, cell: u8::try_from(cell).unwrap_or(u8::MAX), class, sequence, owed }
}
