//! The table of rates: one theoretical arrival time per class and key, in sets of [`WAYS`], updated
//! by compare-and-swap.
//!
//! A key belongs to one set and lies in any of its ways; the tags fill one cache line, the times
//! the next. A time in the past is a full allowance, whoever's it was, so a way whose time has
//! passed is free: only its tag is changed, and every store leaves a valid table. When no way is
//! free the key with the least debt is evicted, of the class that holds most of the set, the
//! newcomer's own before another's: so whoever floods the table with keys forgets keys of his own
//! class that owe least, and a key that is being held back owes most. Who adds to a time looks at
//! the tag again afterwards and takes it back if another key has it now; a request of that key
//! which looks in between may be refused for it, once. Two workers that put in the same key at once
//! notice, since both look after they have stored; the lower way stays and gets both debts. Of the
//! tag 58 bits are the key's hash and 6 the class; the set is 6 bits and more besides: 64 at least
//! are compared. Lock-free, never blocks, allocates nothing. Cost: a set is two cache lines; one
//! compare-and-swap. Bound: [`ATTEMPTS`].

use super::array::Array;
use super::class::CLASSES_MAX;
use super::counters::Record;
use crate::limit::{Admitted, Gcra, KeyHash, Refused, Ticks};
use crate::sync::{AtomicU64, Ordering::SeqCst, total_order};

/// Keys of one set.
#[cfg(not(loom))]
pub(super) const WAYS: usize = 8;
/// See above.
#[cfg(loom)]
pub(super) const WAYS: usize = 2;

/// Ways lost to others in one check before the request passes unchecked.
const ATTEMPTS: usize = 8;

/// Low bits of a tag: the class.
const CLASS_MASK: u64 = CLASSES_MAX as u64 - 1;

/// The tag of a way that belongs to nobody but keeps its time: no key has it, see [`tag_of`].
const NOBODY: u64 = CLASS_MASK;

/// Where evictions are counted: in the header, which loom does not check.
type Evictions = core::sync::atomic::AtomicU64;

/// One set.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct RateSet {
    tags: Array<AtomicU64, WAYS>,
    tats: Array<AtomicU64, WAYS>,
}

impl Record for RateSet {}

/// The tag of a key of the class with index `class`. Never 0, which is an empty way, nor
/// [`NOBODY`].
#[inline]
pub(super) fn tag_of(key: KeyHash, class: u16) -> u64 {
    let hash = key.tag & !CLASS_MASK;
    let hash = if hash == 0 { CLASS_MASK + 1 } else { hash };
    hash | u64::from(class) & CLASS_MASK
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Let in; the TAT was in `way`.
    Passed { way: u64, admitted: Admitted },
    /// Refused; nothing was taken. `tat` is the key's.
    Refused { refused: Refused, tat: Ticks },
    /// Let in without a check: others took the way again and again.
    Untracked,
}

impl RateSet {
    /// Checks a request of the key `tag` and, if it passes, takes its cost. `evictions` counts keys
    /// that still owed something and were forgotten for it.
    #[inline]
    pub(super) fn check(&self, tag: u64, gcra: &Gcra, cost: u32, now: Ticks, evictions: &Evictions) -> Checked {
        for _ in 0..ATTEMPTS {
            let Some(way) = self.find(tag).or_else(|| self.insert(tag, now, evictions)) else { continue };
            let Some(cell) = self.tats.get(way) else { continue };
            let mut tat = cell.load(SeqCst);
            let checked = loop {
                let admitted = match gcra.admit(tat, now, cost) {
                    Ok(admitted) => admitted,
                    Err(refused) => break Checked::Refused { refused, tat },
                };
                match cell.compare_exchange(tat, admitted.tat, SeqCst, SeqCst) {
                    Ok(_) => break Checked::Passed { way: way as u64, admitted },
                    Err(other) => tat = other,
                }
            };
            total_order();
            if self.has(way, tag) {
                return checked;
            }
            match checked {
                Checked::Passed { admitted, .. } if !self.take_back(way, admitted.tat, gcra.cost(cost)) => {
                    return checked;
                }
                _ => {}
            }
        }
        Checked::Untracked
    }

    /// Takes a request back that passed with `admitted`, if its key still has the way.
    pub(super) fn give_back(&self, tag: u64, way: u8, admitted: Ticks, cost: Ticks, now: Ticks) {
        if self.has(usize::from(way), tag) {
            self.lower(usize::from(way), admitted, cost, now);
        }
    }

    /// [`RateSet::check`] of a key whose debt is from before a change, once it is
    /// [`Gcra::lowered`].
    #[cold]
    #[inline(never)]
    pub(super) fn check_lowered(&self, tag: u64, gcra: &Gcra, cost: u32, now: Ticks, evictions: &Evictions) -> Checked {
        if let Some(cell) = self.find(tag).and_then(|way| self.tats.get(way)) {
            let _ = cell.fetch_update(SeqCst, SeqCst, |tat| gcra.lowered(tat, now));
        }
        self.check(tag, gcra, cost, now, evictions)
    }

    #[inline]
    fn find(&self, tag: u64) -> Option<usize> {
        self.tags.iter().position(|word| word.load(SeqCst) == tag)
    }

    #[inline]
    fn has(&self, way: usize, tag: u64) -> bool {
        self.tags.get(way).is_some_and(|word| word.load(SeqCst) == tag)
    }

    /// Takes a cost off a way that another key has got; `false` when it is no longer there: it went
    /// along to the way that stays, or was forgotten.
    #[cold]
    fn take_back(&self, way: usize, admitted: Ticks, cost: Ticks) -> bool {
        let there = |tat: Ticks| (tat >= admitted).then(|| tat.saturating_sub(cost));
        self.tats.get(way).is_some_and(|cell| cell.fetch_update(SeqCst, SeqCst, there).is_ok())
    }

    fn lower(&self, way: usize, admitted: Ticks, cost: Ticks, now: Ticks) {
        if let Some(cell) = self.tats.get(way) {
            let _ = cell.fetch_update(SeqCst, SeqCst, |tat| Some(Gcra::give_back(tat, admitted, cost, now)));
        }
    }

    /// Gives the key a way; `None` when another worker was quicker.
    #[cold]
    fn insert(&self, tag: u64, now: Ticks, evictions: &Evictions) -> Option<usize> {
        let seen: [(u64, Ticks); WAYS] =
            core::array::from_fn(|way| (self.tags[way].load(SeqCst), self.tats[way].load(SeqCst)));
        let is_free = |&(_, &(tag, tat)): &(usize, &(u64, Ticks))| tag == 0 || tat <= now;
        let coldest = seen.iter().enumerate().filter(is_free).min_by_key(|(_, (_, tat))| *tat);
        let way = coldest.map_or_else(|| victim(&seen, tag & CLASS_MASK), |(way, _)| way);
        let (old, tat) = *seen.get(way)?;
        if coldest.is_none() {
            // First the debt, then the name: a death in between has forgotten a debt and no more.
            self.tats.get(way)?.compare_exchange(tat, now, SeqCst, SeqCst).ok()?;
            evictions.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
        // The old key goes first, then its time is read once more: who charged it before has kept
        // its way, who charges it now sees that it is gone.
        let (name, time) = (self.tags.get(way)?, self.tats.get(way)?);
        name.compare_exchange(old, NOBODY, SeqCst, SeqCst).ok()?;
        total_order();
        if time.load(SeqCst) > now {
            let _ = name.compare_exchange(NOBODY, old, SeqCst, SeqCst);
            return None;
        }
        name.compare_exchange(NOBODY, tag, SeqCst, SeqCst).ok()?;
        total_order();
        Some(self.settle(tag, way, now))
    }

    /// Makes sure that a key just put into `way` has no other; returns the one that stays.
    fn settle(&self, tag: u64, way: usize, now: Ticks) -> usize {
        let others = (0..WAYS).filter(|&other| other != way && self.has(other, tag));
        others.fold(way, |one, other| {
            let (stays, goes) = (one.min(other), one.max(other));
            // The name first: who adds afterwards sees that it is gone; who added before has added
            // before the debt is moved.
            if self.tags[goes].compare_exchange(tag, NOBODY, SeqCst, SeqCst).is_ok() {
                total_order();
                let debt = self.tats[goes].swap(0, SeqCst).saturating_sub(now);
                let _ = self.tats[stays].fetch_update(SeqCst, SeqCst, |tat| Some(tat.max(now).saturating_add(debt)));
            }
            stays
        })
    }
}

/// Which of the full ways must go for a newcomer of `class`: the least debt of the class that has
/// most of them.
fn victim(seen: &[(u64, Ticks); WAYS], class: u64) -> usize {
    let held_by = |class: u64| seen.iter().filter(|(tag, _)| tag & CLASS_MASK == class).count();
    let (mut most, mut largest) = (held_by(class), class);
    for (tag, _) in seen {
        let other = tag & CLASS_MASK;
        let held = held_by(other);
        if held > most {
            (most, largest) = (held, other);
        }
    }
    let of_it = seen.iter().enumerate().filter(|(_, (tag, _))| tag & CLASS_MASK == largest);
    of_it.min_by_key(|(_, (_, tat))| *tat).map_or(0, |(way, _)| way)
}
