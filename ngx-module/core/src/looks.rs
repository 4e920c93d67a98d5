//! What an upstream may spend on looks at peers that are taken to be slower.
//!
//! Over any minute that is one look for each hundred requests, or one in [`EVERY_MS`] if that is
//! more: of few requests a hundredth would be too seldom to notice that a replica has healed. A
//! look is a request that is probably slower than it had to be, so the number is a bound and no
//! aim.
//!
//! Counted by windows of a minute; of the last one there counts the part that is not over yet.
//! Lock-free, four words; all-zero bytes are a valid start. Cost: some loads to ask, where a peer
//! is due at all. Several workers that look at the same moment may spend one too many.

use crate::time::{MILLISECOND_NS, MonoNs};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// How long looks are counted before the count begins anew, ms.
const WINDOW_MS: u64 = 60_000;
/// One look in so many ms is allowed however few the requests are.
const EVERY_MS: u64 = 5_000;
/// One look in so many requests: a hundred, and some for minutes that lie across windows.
const ONE_IN: u64 = 120;
/// Bits of each count: so many looks a minute are 2 million requests.
const COUNT_BITS: u32 = 12;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// Bits of the number of requests at the last look: it may be so far back.
const REQUESTS_BITS: u32 = 24;
const REQUESTS_MASK: u64 = (1 << REQUESTS_BITS) - 1;

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is known of the peer is old. These keep a distance.
    Due,
    /// The last look has found the peer well. What a minute has left may be spent
    /// at once, but for half of what others may be due.
    Again,
}

/// The cell.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Looks {
    /// When the window began in ms (40 bits; 0 = never), the looks in it, and those in the one
    /// before.
    window: AtomicU64,
    /// The upstream's requests when the window began.
    requests: AtomicU64,
    /// Its requests in the window before.
    before: AtomicU64,
    /// Time of the last look that was due in ms (40 bits; 0 = never), and the requests then.
    due: AtomicU64,
}

impl Looks {
    /// Whether a look may be spent, of an upstream that has had `requests` so far.
    #[must_use]
    pub fn may(&self, kind: Kind, requests: u64, now: MonoNs) -> bool {
        let now_ms = now.0 / MILLISECOND_NS;
        let is_due = kind == Kind::Again || is_far(self.due.load(Relaxed), requests, now_ms);
        is_due && self.next(kind, self.window.load(Relaxed), requests, now_ms).is_some()
    }

    /// Spends a look; `false` if there is none to spend.
    pub fn take(&self, kind: Kind, requests: u64, now: MonoNs) -> bool {
        let now_ms = now.0 / MILLISECOND_NS;
        if kind == Kind::Due {
            let last = self.due.load(Relaxed);
            let this = now_ms.max(1) << REQUESTS_BITS | requests & REQUESTS_MASK;
            let is_ours = is_far(last, requests, now_ms)
                && self.next(kind, self.window.load(Relaxed), requests, now_ms).is_some()
                && self.due.compare_exchange(last, this, Relaxed, Relaxed).is_ok();
            if !is_ours {
                return false;
            }
        }
        let mut old = self.window.load(Relaxed);
        while let Some(new) = self.next(kind, old, requests, now_ms) {
            match self.window.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) => {
                    if began_ms(new) != began_ms(old) {
                        let before = requests.saturating_sub(self.requests.swap(requests, Relaxed));
                        self.before.store(still(before, now_ms.saturating_sub(began_ms(old))), Relaxed);
                    }
                    return true;
                }
                Err(seen) => old = seen,
            }
        }
        false
    }

    /// The window with one look more; `None` if that were one too many.
    fn next(&self, kind: Kind, window: u64, requests: u64, now_ms: u64) -> Option<u64> {
        let (looks, looks_before) = (window >> COUNT_BITS & COUNT_MAX, window & COUNT_MAX);
        let requests_here = requests.saturating_sub(self.requests.load(Relaxed));
        let elapsed_ms = now_ms.saturating_sub(began_ms(window));
        let begun = |before: u64| now_ms.max(1) << (2 * COUNT_BITS) | 1 << COUNT_BITS | before;
        match elapsed_ms {
            _ if began_ms(window) == 0 => Some(begun(0)),
            0..WINDOW_MS => {
                let part = |before: u64| still(before, elapsed_ms + WINDOW_MS);
                let most = most(requests_here + part(self.before.load(Relaxed)));
                // One in twice the time is kept for those that are due.
                let kept = if kind == Kind::Again { (WINDOW_MS - elapsed_ms) / (2 * EVERY_MS) } else { 0 };
                (looks + part(looks_before) + kept < most).then_some(window + (1 << COUNT_BITS))
            }
            _ => {
                let looks = still(looks, elapsed_ms);
                (looks < most(still(requests_here, elapsed_ms))).then_some(begun(looks))
            }
        }
    }

    /// Forgets everything (the record is reused).
    pub fn reset(&self) {
        [&self.window, &self.requests, &self.before, &self.due].into_iter().for_each(|word| word.store(0, Relaxed));
    }
}

fn began_ms(window: u64) -> u64 {
    window >> (2 * COUNT_BITS)
}

/// The part of what was counted in a window that lies within the last minute, if the window began
/// so long ago.
fn still(count: u64, began_before_ms: u64) -> u64 {
    let left_ms = (2 * WINDOW_MS).saturating_sub(began_before_ms.max(WINDOW_MS));
    count.saturating_mul(left_ms).div_ceil(WINDOW_MS)
}

/// Looks of a minute of so many requests.
fn most(requests: u64) -> u64 {
    (requests / ONE_IN).clamp(WINDOW_MS / EVERY_MS - 1, COUNT_MAX)
}

/// Whether the last look that was due is far enough back for another one.
fn is_far(last: u64, requests: u64, now_ms: u64) -> bool {
    let elapsed_ms = now_ms.saturating_sub(last >> REQUESTS_BITS);
    elapsed_ms >= EVERY_MS || requests.wrapping_sub(last) & REQUESTS_MASK >= ONE_IN
}
