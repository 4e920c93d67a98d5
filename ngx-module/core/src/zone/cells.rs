//! The words by which a worker shows the others what waits in it: one cell for each class that
//! does, and one bit that says whether anything does.
//!
//! Only the worker itself writes its cells, or its reclaimer after its death, so each is one plain
//! store; a cell holds all that the order needs (class, how many, the oldest), so no reader ever
//! sees half of it. A cell without requests is free for another class. The bit is set before the
//! first cell and cleared after the last: a death in between leaves a bit that says too much, until
//! the reclaim.
//! Bound: [`CELLS`] classes in one worker and upstream at once; [`Word::COUNT_MAX`] requests a
//! cell; 2^34 requests between the oldest and the newest.

use core::ops::BitAnd;

use super::WORKERS_MAX;
use super::array::Array;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Classes that may wait in one worker, in one upstream, at once. One more waits with the class
/// whose priority is nearest.
#[cfg(not(loom))]
pub const CELLS: usize = 8;
/// See above.
#[cfg(loom)]
pub const CELLS: usize = 2;

/// Words of [`Waiters`].
const WAITER_WORDS: usize = WORKERS_MAX.div_ceil(64);

/// A class in a queue: 0 = requests without a class, else the class' index plus one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueClass(pub u16);

impl QueueClass {
    /// Requests without a class.
    pub const NONE: Self = Self(0);
    /// Greatest number of classes, "none" included.
    #[cfg(not(loom))]
    pub const MAX: usize = super::CLASSES_MAX + 1;
    /// See above.
    #[cfg(loom)]
    pub const MAX: usize = 3;
}

/// A cell's content: `sequence of the oldest:35 | count:20 | class:9`. Sequence numbers begin at 1,
/// so 0 is an empty cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const SEQUENCE_SHIFT: u32 = 29;
    const COUNT_SHIFT: u32 = 9;
    const CLASS_MASK: u64 = (1 << Self::COUNT_SHIFT) - 1;
    /// Requests that one cell can count.
    pub const COUNT_MAX: u32 = (1 << (Self::SEQUENCE_SHIFT - Self::COUNT_SHIFT)) - 1;
    const SEQUENCE_MASK: u64 = (1 << (64 - Self::SEQUENCE_SHIFT)) - 1;

    pub fn new(class: QueueClass, count: u32, oldest: u64) -> Self {
        let count = u64::from(count.min(Self::COUNT_MAX));
        Self(oldest << Self::SEQUENCE_SHIFT | count << Self::COUNT_SHIFT | u64::from(class.0) & Self::CLASS_MASK)
    }

    pub fn is_empty(self) -> bool {
        self.0 >> Self::COUNT_SHIFT == 0
    }

    pub fn class(self) -> QueueClass {
        QueueClass((self.0 & Self::CLASS_MASK) as u16)
    }

    pub fn count(self) -> u32 {
        low(self.0 >> Self::COUNT_SHIFT) & Self::COUNT_MAX
    }

    /// Sequence number of the oldest; 0 in an empty cell.
    pub fn oldest(self) -> u64 {
        self.0 >> Self::SEQUENCE_SHIFT
    }

    /// The sequence number as a cell keeps it.
    pub fn kept(sequence: u64) -> u64 {
        sequence.bitand(Self::SEQUENCE_MASK)
    }

    /// How far `sequence` lies behind (negative) or before `now`, over the wrap.
    pub fn distance(sequence: u64, now: u64) -> i64 {
        (sequence.wrapping_sub(now) << Self::SEQUENCE_SHIFT) as i64 >> Self::SEQUENCE_SHIFT
    }
}

/// The low 32 bits.
fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// One worker's part in an upstream's queue.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct UpstreamWorker {
    cells: Array<AtomicU64, CELLS>,
    /// Low bits of each cell's newest sequence number.
    newest: Array<AtomicU32, CELLS>,
    /// Requests that wait, and those that are about to.
    pub waiting: AtomicU32,
    /// Of these, the ones that had a slot before: they wait beyond the queue's size.
    pub retries: AtomicU32,
}

impl UpstreamWorker {
    /// The cells in use.
    pub fn used(&self) -> impl Iterator<Item = (usize, Word)> {
        let words = self.cells.iter().enumerate().map(|(cell, word)| (cell, Word(word.load(SeqCst))));
        words.filter(|(_, word)| !word.is_empty())
    }

    pub fn word(&self, cell: usize) -> Option<Word> {
        self.cells.get(cell).map(|word| Word(word.load(Relaxed)))
    }

    /// How far the newest request of `cell` lies from `now`; requests more than 2^31 apart compare
    /// wrongly.
    pub fn newest(&self, cell: usize, now: u64) -> i64 {
        let newest = self.newest.get(cell).map_or(0, |word| word.load(SeqCst));
        i64::from(newest.wrapping_sub(low(now)) as i32)
    }

    /// The cell where `class` waits, or a free one.
    pub fn cell_for(&self, class: QueueClass) -> Option<usize> {
        let words = || self.cells.iter().map(|word| Word(word.load(Relaxed)));
        words().position(|word| !word.is_empty() && word.class() == class).or_else(|| words().position(Word::is_empty))
    }

    /// Shows what waits in `cell`. The newest goes before the word, which alone makes a cell used.
    pub fn show(&self, cell: usize, word: Word, newest: u64) {
        let (Some(to), Some(last)) = (self.cells.get(cell), self.newest.get(cell)) else { return };
        last.store(low(newest), SeqCst);
        to.store(word.0, SeqCst);
    }

    /// Nothing waits in `cell` any more.
    pub fn empty(&self, cell: usize) {
        if let Some(word) = self.cells.get(cell) {
            word.store(0, SeqCst);
        }
    }

    /// Zeroes everything; returns the requests that waited.
    pub fn clear(&self) -> u32 {
        (0..CELLS).for_each(|cell| self.empty(cell));
        self.retries.store(0, SeqCst);
        self.waiting.swap(0, SeqCst)
    }
}

/// A bit for each worker in which something waits. Each worker changes its own alone, or its
/// reclaimer after its death.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Waiters(Array<AtomicU64, WAITER_WORDS>);

impl Waiters {
    /// Whether nothing waits anywhere.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(SeqCst) == 0)
    }

    /// Sets the bit of `worker`.
    pub fn set(&self, worker: usize) {
        if let Some(word) = self.0.get(worker / 64) {
            word.fetch_or(1 << (worker % 64), SeqCst);
        }
    }

    /// Clears the bit of `worker`.
    pub fn clear(&self, worker: usize) {
        if let Some(word) = self.0.get(worker / 64) {
            word.fetch_and(!(1 << (worker % 64)), SeqCst);
        }
    }

    /// The workers whose bits are set.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut bits = word.load(SeqCst);
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some(index * 64 + bit)
            })
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_what_it_is_given_up_to_its_bounds() {
        for (class, count, oldest) in [(0, 1, 1), (64, Word::COUNT_MAX, Word::SEQUENCE_MASK), (3, 70_000, 1 << 34)] {
            let word = Word::new(QueueClass(class), count, oldest);
            assert_eq!((word.class(), word.count(), word.oldest()), (QueueClass(class), count, oldest));
            assert!(!word.is_empty());
        }
        assert!(Word(0).is_empty() && Word::COUNT_MAX >= 1_000_000);
    }

    #[test]
    fn age_is_told_over_the_wrap_of_the_sequence() {
        let now = 5;
        assert_eq!(Word::distance(Word::kept(now), now), 0);
        assert_eq!(Word::distance(Word::kept(now.wrapping_sub(9)), now), -9);
        assert_eq!(Word::distance(7, now), 2);
        let worker = UpstreamWorker::default();
        worker.show(1, Word::new(QueueClass::NONE, 1, 1), u64::from(u32::MAX));
        assert_eq!(worker.newest(1, u64::from(u32::MAX) + 3), -3);
    }

    #[test]
    fn every_worker_has_a_bit_of_its_own() {
        let waiters = Waiters::default();
        for worker in [0, 63, 64, 127] {
            assert!(waiters.is_empty());
            waiters.set(worker);
            assert_eq!(waiters.iter().collect::<Vec<_>>(), [worker]);
            waiters.clear(worker);
        }
    }

    #[test]
    fn a_class_comes_back_to_its_cell_and_an_empty_cell_is_free_for_another() {
        let worker = UpstreamWorker::default();
        for class in 0..8_u16 {
            let cell = worker.cell_for(QueueClass(class)).unwrap();
            worker.show(cell, Word::new(QueueClass(class), 1, 1), 1);
        }
        assert_eq!(worker.cell_for(QueueClass(9)), None);
        worker.empty(3);
        assert_eq!((worker.cell_for(QueueClass(9)), worker.cell_for(QueueClass(5))), (Some(3), Some(5)));
    }
}
