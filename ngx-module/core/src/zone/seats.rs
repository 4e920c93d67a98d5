//! The table of requests in flight per class and key: never over a limit, and exact when workers
//! die.
//!
//! A key belongs to one set and lies in one way or more of it. A way has [`WORDS`] words, each of
//! which belongs to one worker at a time: `worker + 1` and how many requests it has there. A worker
//! takes a free word by compare-and-swap and is then its only writer, until the word is 0 again;
//! when it dies its words are zeroed with its slot ([`Zone::reclaim_dead`]). There is no total that
//! a death between two stores could falsify. To take a seat a worker counts itself in, then sums
//! all words of all ways of the key: of two that want the last seat at least the later sees both.
//! One that is too many takes itself out again. A way is given to another key only by who holds
//! *all* of its words, so never while anybody is counted there; and who counts itself into a word
//! looks at the tag again afterwards. A key whose workers find no word takes another way of the
//! set; so two workers that put in the same key at once need not agree. A way also has the
//! bandwidth of its key; of several ways the first one's counts. The tag is 64 bits of the key's
//! hash. Lock-free, allocates nothing. Cost: the tags' line and the key's own.
//! Bound: [`WAYS`] · [`WORDS`] workers for one key and [`WAYS`] keys with requests for one set;
//! when that runs out, [`Sat::NoRoom`]: never a seat too many.
//!
//! [`Zone::reclaim_dead`]: super::Zone::reclaim_dead

use super::WorkerIdx;
use super::array::Array;
use super::counters::Record;
use crate::sync::{AtomicU32, AtomicU64, Ordering::SeqCst, total_order};

/// Ways of one set.
#[cfg(not(loom))]
pub(super) const WAYS: usize = 8;
/// See above.
#[cfg(loom)]
pub(super) const WAYS: usize = 2;

/// Words of one way.
#[cfg(not(loom))]
pub(super) const WORDS: usize = 12;
/// See above.
#[cfg(loom)]
pub(super) const WORDS: usize = 2;

/// Looks of one request for a seat that others hid or took away meanwhile.
const ATTEMPTS: usize = 4;

/// A word: `worker + 1` in the upper 8 bits, the count below.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;

/// Who sits in one way, and its key's bandwidth.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct Line {
    /// When the key's bandwidth is next free: see [`crate::limit::Pace`].
    pub free_at: AtomicU64,
    /// The bandwidth that `free_at` was reckoned with, bytes per second.
    pub bandwidth: AtomicU64,
    words: Array<AtomicU32, WORDS>,
}

/// One set.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct SeatSet {
    tags: Array<AtomicU64, WAYS>,
    lines: Array<Line, WAYS>,
}

impl Record for SeatSet {}

/// A seat, held until [`SeatSet::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    way: u8,
    word: u8,
}

/// What a request for a seat came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sat {
    /// A seat is held.
    Taken(Seat),
    /// As many requests as may be are in flight.
    Full,
    /// The set has no room to count one more.
    NoRoom,
}

fn owned(w: WorkerIdx, count: u32) -> u32 {
    (u32::from(w.0) + 1) << COUNT_BITS | count & COUNT_MASK
}

fn is_of(word: u32, w: WorkerIdx) -> bool {
    word >> COUNT_BITS == u32::from(w.0) + 1
}

impl SeatSet {
    /// Takes a seat for a request of worker `w` with the key `tag` (not 0), if at most `limit` are
    /// then taken; 0 = unlimited.
    #[inline]
    pub(super) fn sit(&self, tag: u64, w: WorkerIdx, limit: u32) -> Sat {
        for _ in 0..ATTEMPTS {
            let Some(seat) = self.count_in(tag, w) else { return Sat::NoRoom };
            total_order();
            if limit == 0 || self.count(tag) <= limit {
                return Sat::Taken(seat);
            }
            self.leave(seat, w);
            // Another one that was too many, too, may have hidden a free seat.
            if self.count(tag) >= limit {
                return Sat::Full;
            }
        }
        Sat::Full
    }

    /// Gives a seat of worker `w` back; `false`, and nothing changed, when it holds none there.
    #[inline]
    pub(super) fn leave(&self, seat: Seat, w: WorkerIdx) -> bool {
        let word = self.lines.get(usize::from(seat.way)).and_then(|line| line.words.get(usize::from(seat.word)));
        let Some(word) = word else { return false };
        let held = word.load(SeqCst);
        let count = held & COUNT_MASK;
        if !is_of(held, w) || count == 0 {
            return false;
        }
        // The only writer is this worker: no read-modify-write needed.
        word.store(if count == 1 { 0 } else { held - 1 }, SeqCst);
        true
    }

    /// Seats that are taken for the key, in all workers.
    #[inline]
    pub(super) fn count(&self, tag: u64) -> u32 {
        self.lines_of(tag).map(|(_, line)| line.count()).fold(0, u32::wrapping_add)
    }

    /// The line that has the key's bandwidth.
    pub(super) fn bandwidth_line(&self, tag: u64) -> Option<&Line> {
        self.lines_of(tag).next().map(|(_, line)| line)
    }

    /// Zeroes the words of a worker that is gone; returns the requests it had.
    pub(super) fn clear_worker(&self, w: WorkerIdx) -> u32 {
        let mut cleared = 0;
        for word in self.lines.iter().flat_map(|line| line.words.iter()) {
            let held = word.load(SeqCst);
            if is_of(held, w) {
                cleared += held & COUNT_MASK;
                word.store(0, SeqCst);
            }
        }
        cleared
    }

    #[inline]
    fn lines_of(&self, tag: u64) -> impl Iterator<Item = (usize, &Line)> {
        let ways = self.tags.iter().zip(self.lines.iter()).enumerate();
        ways.filter(move |(_, (word, _))| word.load(SeqCst) == tag).map(|(way, (_, line))| (way, line))
    }

    /// Counts one request of `w` into a word of the key.
    fn count_in(&self, tag: u64, w: WorkerIdx) -> Option<Seat> {
        for _ in 0..ATTEMPTS {
            match self.lines_of(tag).find_map(|(way, line)| Some((way, line.own_word(w)?))) {
                // Counted there, so the way stays this key's.
                Some((way, word)) if self.lines[way].add(word) => return Some(seat(way, word)),
                Some(_) => return None,
                None => {}
            }
            let Some((way, word)) = self.lines_of(tag).find_map(|(way, line)| Some((way, line.take_word(w, 1)?)))
            else {
                if let Some(way) = self.take_way(tag, w) {
                    return Some(seat(way, 0));
                }
                continue;
            };
            total_order();
            if self.tags[way].load(SeqCst) == tag {
                return Some(seat(way, word));
            }
            self.lines[way].words[word].store(0, SeqCst);
        }
        None
    }

    /// Makes a way in which nobody sits the key's, with one request of `w` in its first word.
    #[cold]
    fn take_way(&self, tag: u64, w: WorkerIdx) -> Option<usize> {
        let idle = |way: &usize| self.lines[*way].is_idle();
        let unused = (0..WAYS).filter(idle).find(|way| self.tags[*way].load(SeqCst) == 0);
        let coldest = || (0..WAYS).filter(idle).min_by_key(|way| self.lines[*way].free_at.load(SeqCst));
        let way = unused.or_else(coldest)?;
        let line = &self.lines[way];
        if !line.hold_all(w) {
            return None;
        }
        // Nobody else writes here now, and nobody is counted.
        line.free_at.store(0, SeqCst);
        line.bandwidth.store(0, SeqCst);
        self.tags[way].store(tag, SeqCst);
        line.words[0].store(owned(w, 1), SeqCst);
        line.words.iter().skip(1).for_each(|word| word.store(0, SeqCst));
        Some(way)
    }
}

fn seat(way: usize, word: usize) -> Seat {
    let small = |index| u8::try_from(index).unwrap_or(u8::MAX);
    Seat { way: small(way), word: small(word) }
}

impl Line {
    fn count(&self) -> u32 {
        self.words.iter().map(|word| word.load(SeqCst) & COUNT_MASK).fold(0, u32::wrapping_add)
    }

    fn is_idle(&self) -> bool {
        self.words.iter().all(|word| word.load(SeqCst) == 0)
    }

    fn own_word(&self, w: WorkerIdx) -> Option<usize> {
        self.words.iter().position(|word| is_of(word.load(SeqCst), w))
    }

    /// One more in a word that is the caller's; `false` when its count is at the end.
    fn add(&self, word: usize) -> bool {
        let word = &self.words[word];
        let held = word.load(SeqCst);
        let fits = held & COUNT_MASK < COUNT_MASK;
        if fits {
            word.fetch_add(1, SeqCst);
        }
        fits
    }

    fn take_word(&self, w: WorkerIdx, count: u32) -> Option<usize> {
        self.words.iter().position(|word| word.compare_exchange(0, owned(w, count), SeqCst, SeqCst).is_ok())
    }

    /// Takes all words for `w`, with nobody in them; `false`, and none taken, when one is
    /// another's.
    fn hold_all(&self, w: WorkerIdx) -> bool {
        for (taken, word) in self.words.iter().enumerate() {
            if word.compare_exchange(0, owned(w, 0), SeqCst, SeqCst).is_err() {
                self.words.iter().take(taken).for_each(|word| word.store(0, SeqCst));
                return false;
            }
        }
        true
    }
}
