//! The zone's first bytes: what it is, how far it was configured, what is in force, and the
//! counters that belong to no peer.
//!
//! Zeroed memory is an uninitialised header; [`Header::init`] makes it one. Everything lives
//! through a reload. The first cache line is read by every claim and written only when workers come
//! and go. Bound: nothing here grows.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::bodies::Bodies;
use super::counters::Counters;
use super::counts::Counts;
use super::fences::Fences;
use super::link::{Connection, StateFile};

/// `pincer` and the version of what the words mean; a zone made by another version is not read.
const MAGIC: u64 = u64::from_be_bytes(*b"pincer\0\x05");

/// The zone's header.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Header {
    magic: AtomicU64,
    /// Upper bound of taken worker slots, and a count of its changes: see `worker.rs`.
    pub(super) workers_high: AtomicU64,
    generation: AtomicU32,
    pub(super) revision: AtomicU64,
    pub(super) unknown: AtomicU64,
    /// Who writes overlays: see `feed.rs`.
    pub(super) feed: AtomicU64,
    counts: [AtomicU32; Counts::LEN],
    /// What keys of limits are hashed with.
    secret: [AtomicU64; 2],
    /// The link to the control plane.
    pub connection: Connection,
    /// Whether the state file is refused.
    pub state_file: StateFile,
    /// Counters of the whole zone.
    pub counters: Counters,
    /// What became of request bodies.
    pub bodies: Bodies,
    /// What purges keep out of nginx's caches.
    pub fences: Fences,
}

impl Header {
    /// Makes zeroed memory a zone of so many records of the layout that `fingerprint` stands for.
    /// The magic is stored last: a process that dies in here leaves no zone behind.
    pub(super) fn make(&self, counts: Counts, fingerprint: u64, secret: [u64; 2]) {
        for (field, count) in self.counts.iter().zip(counts.to_array()) {
            field.store(u32::try_from(count).unwrap_or(0), SeqCst);
        }
        for (field, word) in self.secret.iter().zip(secret) {
            field.store(word, SeqCst);
        }
        self.magic.store(MAGIC ^ fingerprint, SeqCst);
    }

    /// The numbers of records of the zone; `None` when it was not made, or by another version.
    pub(super) fn counts(&self, fingerprint: u64) -> Option<Counts> {
        let counts = Counts::from_array(core::array::from_fn(|at| self.counts[at].load(SeqCst) as usize));
        (self.magic.load(SeqCst) == MAGIC ^ fingerprint).then_some(counts)
    }

    /// The zone's secret for [`crate::limit::KeyHash::new`].
    pub fn secret(&self) -> [u64; 2] {
        [self.secret[0].load(Relaxed), self.secret[1].load(Relaxed)]
    }

    /// Configurations that this zone has seen; the newest has this number. 0 before the first.
    pub fn generation(&self) -> u32 {
        self.generation.load(SeqCst)
    }

    /// Begins a new configuration and returns its number. By the master, before it reserves
    /// upstreams.
    pub fn generation_begin(&self) -> u32 {
        self.generation.fetch_add(1, SeqCst).wrapping_add(1)
    }

    /// The control plane's revision that is in force; 0 = none, nginx.conf alone.
    pub fn revision(&self) -> u64 {
        self.revision.load(SeqCst)
    }

    /// Upstreams and peers that the revision in force names and this node does not have.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Relaxed)
    }
}
