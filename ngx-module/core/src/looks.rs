//! What an upstream may spend on looks at peers that are taken to be slower.
//!
//! Over a minute that is one look for each hundred requests, or one in [`EVERY_MS`] if that is
//! more: of few requests a hundredth would be too seldom to notice that a replica has healed. A
//! look is a request that is probably slower than it had to be, so the number is a bound and no
//! aim.
//!
//! Lock-free, two words; all-zero bytes are a valid start. Cost: two loads to ask, where a peer is
//! due at all. Several workers that begin a minute at the same moment may spend a look too many.

use crate::time::{MILLISECOND_NS, MonoNs};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// How long looks are counted before the count begins anew, ms.
const WINDOW_MS: u64 = 60_000;
/// One look in so many ms is allowed however few the requests are.
const EVERY_MS: u64 = 5_000;
/// One look in so many requests.
const ONE_IN: u64 = 100;
/// The count's bits.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// The cell.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Looks {
    /// When the window began in ms (48 bits; 0 = never), and the looks in it.
    window: AtomicU64,
    /// The upstream's requests at that time.
    requests: AtomicU64,
}

impl Looks {
    /// Whether a look may be spent, of an upstream that has had `requests` so far.
    #[must_use]
    pub fn may(&self, requests: u64, now: MonoNs) -> bool {
        self.next(self.window.load(Relaxed), requests, now).is_some()
    }

    /// Spends a look; `false` if there is none to spend.
    pub fn take(&self, requests: u64, now: MonoNs) -> bool {
        let mut old = self.window.load(Relaxed);
        while let Some(new) = self.next(old, requests, now) {
            match self.window.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) => {
                    if new & COUNT_MASK == 1 {
                        self.requests.store(requests, Relaxed);
                    }
                    return true;
                }
                Err(seen) => old = seen,
            }
        }
        false
    }

    /// The window with one look more; `None` if that were one too many.
    fn next(&self, window: u64, requests: u64, now: MonoNs) -> Option<u64> {
        let (began_ms, now_ms) = (window >> COUNT_BITS, now.0 / MILLISECOND_NS);
        let elapsed_ms = now_ms.saturating_sub(began_ms);
        if began_ms == 0 || elapsed_ms >= WINDOW_MS {
            return Some(now_ms.max(1) << COUNT_BITS | 1);
        }
        let since = requests.saturating_sub(self.requests.load(Relaxed));
        let most = (elapsed_ms / EVERY_MS + 1).max(since / ONE_IN).min(COUNT_MASK);
        (window & COUNT_MASK < most).then(|| window + 1)
    }

    /// Forgets everything (the record is reused).
    pub fn reset(&self) {
        self.window.store(0, Relaxed);
        self.requests.store(0, Relaxed);
    }
}
