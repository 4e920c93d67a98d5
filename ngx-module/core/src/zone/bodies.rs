//! Counts what became of request bodies where `pincer_body_hash` is on, and what nginx's cache made
//! of their requests.
//!
//! All only rise, over reloads too; all-zero memory is a valid start. Cost: one addition each.
//! Bound: nothing here grows.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::digest::{Algorithm, Hashed};

/// nginx's words for what its cache did, in the order of its `NGX_HTTP_CACHE_…` numbers from 1 on.
pub const CACHE_STATUSES: [&str; 8] =
    ["miss", "bypass", "expired", "stale", "updating", "revalidated", "hit", "scarce"];

const ALGORITHMS: usize = Algorithm::ALL.len();
const FORMS: usize = Hashed::ALL.len();

/// See the file's header.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bodies {
    digests: [[AtomicU64; FORMS]; ALGORITHMS],
    bytes: [AtomicU64; ALGORITHMS],
    uncacheable: AtomicU64,
    cache: [AtomicU64; CACHE_STATUSES.len()],
}

/// A copy of [`Bodies`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodiesSnapshot {
    /// Bodies hashed, by [`Algorithm::ALL`] and [`Hashed::ALL`].
    pub digests: [[u64; FORMS]; ALGORITHMS],
    /// Their bytes, by [`Algorithm::ALL`].
    pub bytes: [u64; ALGORITHMS],
    /// Requests with a body that has no digest.
    pub uncacheable: u64,
    /// Requests by what the cache did, as [`CACHE_STATUSES`].
    pub cache: [u64; CACHE_STATUSES.len()],
}

impl Bodies {
    /// A body of `bytes` bytes was hashed.
    pub fn hashed(&self, algorithm: Algorithm, hashed: Hashed, bytes: u64) {
        self.digests[algorithm.index()][hashed.index()].fetch_add(1, Relaxed);
        self.bytes[algorithm.index()].fetch_add(bytes, Relaxed);
    }

    /// A request had a body and no digest of it.
    pub fn unhashed(&self) {
        self.uncacheable.fetch_add(1, Relaxed);
    }

    /// A request ended with nginx's number for what the cache did; 0 = the cache was not asked.
    pub fn cache_status(&self, status: usize) {
        if let Some(counter) = status.checked_sub(1).and_then(|index| self.cache.get(index)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// All counts; of neighbouring moments.
    #[must_use]
    pub fn snapshot(&self) -> BodiesSnapshot {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        BodiesSnapshot {
            digests: self.digests.each_ref().map(|forms| forms.each_ref().map(load)),
            bytes: self.bytes.each_ref().map(load),
            uncacheable: load(&self.uncacheable),
            cache: self.cache.each_ref().map(load),
        }
    }
}

impl BodiesSnapshot {
    /// Requests with a body that could not be parsed as its form.
    #[must_use]
    pub fn unparsed(&self) -> u64 {
        self.digests.iter().map(|forms| forms[Hashed::Unparsed.index()]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_nginx_has_its_counter_and_the_others_none() {
        let bodies = Bodies::default();
        (0..20).for_each(|status| bodies.cache_status(status));
        assert_eq!(bodies.snapshot().cache, [1; 8]);
        bodies.hashed(Algorithm::Sha256, Hashed::Unparsed, 7);
        bodies.unhashed();
        let seen = bodies.snapshot();
        assert_eq!((seen.unparsed(), seen.uncacheable), (1, 1));
        assert_eq!(seen.bytes.iter().sum::<u64>(), 7);
    }
}
