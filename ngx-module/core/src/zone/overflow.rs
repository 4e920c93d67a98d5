//! What a full queue does: who may come in all the same, and who is evicted.
//!
//! While more than `size` requests are shown in the queue, the newest of the lowest class that has
//! more than its reserve goes ([`Zone::queue_victim`]); each worker sends away its own, by the same
//! rule over the same words, and kicks the owner if it is another's. So nothing is asked of a
//! worker but to look, a death in between loses nothing, and a queue that has shrunk meanwhile
//! sends nobody away. A request is let in over `size` only if there are as many who give way as
//! there are too many: what counts as waiting beyond `size` is on its way out, within one turn of
//! the event loop of the worker that has it. Only a worker that stands still delays that, so never
//! more than twice `size` wait. Never sends anybody away itself. Requests that had a slot before
//! wait beyond `size` and are not counted ([`Zone::queue_enter_again`]).
//! Cost: a load for each class in each worker with waiting requests. Bound: [`QueueClass::MAX`]
//! classes.

use super::cells::{QueueClass, UpstreamWorker};
use super::queue::turn;
use super::{Refused, Turn, Upstream, UpstreamIdx, WorkerIdx, Zone};
use crate::turn::{Terms, evictable};

/// How many wait of each class.
struct Census([u32; QueueClass::MAX]);

impl Census {
    fn of(upstream: &Upstream) -> Self {
        let mut census = Self([0; QueueClass::MAX]);
        for (_, _, word) in upstream.lists() {
            if let Some(count) = census.0.get_mut(usize::from(word.class().0)) {
                *count = count.saturating_add(word.count());
            }
        }
        census
    }

    fn get(&self, class: QueueClass) -> u32 {
        self.0.get(usize::from(class.0)).copied().unwrap_or(0)
    }

    fn present(&self) -> impl Iterator<Item = (QueueClass, u32)> {
        (0..).map(QueueClass).zip(self.0).filter(|(_, count)| *count > 0)
    }

    fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl Zone<'_> {
    /// Whether one more of `class` may wait in `worker`, where it is counted already: the cell, the
    /// class it waits as, and whether somebody must give way for it.
    pub(super) fn admit(
        &self,
        upstream: &Upstream,
        worker: &UpstreamWorker,
        class: QueueClass,
        size: Option<u32>,
        terms: &impl Fn(QueueClass) -> Terms,
    ) -> Result<(usize, QueueClass, bool), Refused> {
        let crowded = match size {
            Some(size) => upstream.is_crowded_by(class, size, terms)?,
            None => false,
        };
        let own = worker.cell_for(class).map(|cell| (cell, class));
        let (cell, class) = own.or_else(|| upstream.nearest(worker, class, terms)).ok_or(Refused::Full)?;
        Ok((cell, class, crowded))
    }

    /// The request that must give way: `None` unless more than `size` are in the queue.
    pub fn queue_victim(&self, u: UpstreamIdx, size: u32, terms: &impl Fn(QueueClass) -> Terms) -> Option<Turn> {
        let upstream = self.upstream(u).filter(|upstream| upstream.bounded() > size)?;
        let census = Census::of(upstream);
        if census.total().saturating_sub(upstream.retries()) <= size {
            return None;
        }
        let now = upstream.sequence.load(crate::sync::Ordering::SeqCst);
        let lists = upstream.lists().filter_map(|(column, cell, word)| {
            let class_terms = terms(word.class());
            let beyond = census.get(word.class()) > class_terms.reserved(size);
            let rank = (beyond, class_terms.priority, upstream.workers.get(column)?.newest(cell, now));
            Some((rank, column, cell, word))
        });
        let (_, column, cell, word) = lists.max_by_key(|(rank, _, _, _)| *rank)?;
        let worker = WorkerIdx(u16::try_from(column).unwrap_or(u16::MAX));
        Some(turn(worker, cell, word.class(), word.oldest(), None))
    }
}

impl Upstream {
    /// Requests that wait, without those that no bound holds for.
    fn bounded(&self) -> u32 {
        self.waiting().saturating_sub(self.retries())
    }

    /// Whether somebody must give way for one more of `class`; an error when nobody does, or as
    /// many of it wait as may.
    fn is_crowded_by(
        &self,
        class: QueueClass,
        size: u32,
        terms: &impl Fn(QueueClass) -> Terms,
    ) -> Result<bool, Refused> {
        let own_terms = terms(class);
        let beyond = self.bounded().saturating_sub(size);
        if own_terms.queue_max == 0 && beyond == 0 {
            return Ok(false);
        }
        let census = Census::of(self);
        let own = census.get(class);
        if own_terms.queue_max != 0 && own >= own_terms.queue_max {
            return Err(Refused::ClassFull);
        }
        let others = census.present().filter(|(other, _)| *other != class).map(|(other, count)| (terms(other), count));
        if beyond <= evictable(&own_terms, own, others, size) { Ok(beyond > 0) } else { Err(Refused::Full) }
    }

    /// The cell of `worker` whose class has the priority nearest to that of `class`: where one
    /// class too many waits.
    pub(super) fn nearest(
        &self,
        worker: &UpstreamWorker,
        class: QueueClass,
        terms: &impl Fn(QueueClass) -> Terms,
    ) -> Option<(usize, QueueClass)> {
        let priority = terms(class).priority;
        let near = worker.used().min_by_key(|(_, word)| terms(word.class()).priority.abs_diff(priority));
        near.map(|(cell, word)| (cell, word.class()))
    }
}
