//! The queue as a plain list: whose turn it is, and who is evicted, found by looking at everything.

use std::collections::BTreeMap;

use super::SIZE;
use crate::turn::Terms;
use crate::zone::QueueClass;

/// What the queue should be: requests in the order in which they were shown, and the promises of
/// each class, in whole grants.
#[derive(Default)]
pub(super) struct Book {
    /// Sequence number → worker, class, moment.
    pub(super) shown: BTreeMap<u64, (usize, QueueClass, u64)>,
    pub(super) grants: u64,
    pub(super) bases: BTreeMap<QueueClass, u64>,
    pub(super) terms: Vec<Terms>,
}

impl Book {
    pub(super) fn terms(&self, class: QueueClass) -> Terms {
        self.terms[usize::from(class.0)]
    }

    pub(super) fn count(&self, class: QueueClass) -> usize {
        self.shown.values().filter(|(_, other, _)| *other == class).count()
    }

    pub(super) fn deadline(&self, class: QueueClass) -> Option<u64> {
        let share = u64::from(self.terms(class).share);
        let due = self.bases.get(&class).copied().unwrap_or(0) + 100_u64.checked_div(share)?;
        (due <= self.grants + 1).then_some(due)
    }

    pub(super) fn enter(&mut self, sequence: u64, worker: usize, class: QueueClass, moment: u64) {
        if self.count(class) == 0 && (self.terms(class).share == 0 || self.deadline(class).is_some()) {
            self.bases.insert(class, self.grants);
        }
        self.shown.insert(sequence, (worker, class, moment));
    }

    /// Of each class that waits: its first request, its last, how many there are.
    pub(super) fn classes(&self) -> BTreeMap<QueueClass, (u64, u64, usize)> {
        let mut classes = BTreeMap::new();
        for (&sequence, &(_, class, _)) in &self.shown {
            let (_, last, count) = classes.entry(class).or_insert((sequence, sequence, 0));
            (*last, *count) = (sequence, *count + 1);
        }
        classes
    }

    /// The sequence number of the request whose turn it is.
    pub(super) fn next(&self) -> Option<u64> {
        let rank = |(class, (first, _, _)): (QueueClass, (u64, u64, usize))| {
            (self.deadline(class).unwrap_or(u64::MAX), self.terms(class).priority, first)
        };
        self.classes().into_iter().map(rank).min().map(|(_, _, sequence)| sequence)
    }

    pub(super) fn grant(&mut self, class: QueueClass, due: Option<u64>) {
        self.grants += 1;
        let period = 100_u64.checked_div(self.terms(class).share.into()).unwrap_or(0);
        let base = due.map_or(self.grants, |due| due.max(self.grants.saturating_sub(period + 8)));
        self.bases.insert(class, base);
    }

    /// The sequence number of the request that is evicted.
    pub(super) fn victim(&self) -> Option<u64> {
        if self.shown.len() <= SIZE as usize {
            return None;
        }
        let rank = |(class, (_, last, count)): (QueueClass, (u64, u64, usize))| {
            let terms = self.terms(class);
            (count > terms.reserved(SIZE) as usize, terms.priority, last)
        };
        self.classes().into_iter().map(rank).max().map(|(_, _, sequence)| sequence)
    }
}
