//! The zone's first bytes: what it is, how far it was configured, what is in force, and the counters that belong to no peer.
//!
//! Zeroed memory is an uninitialised header; [`Header::init`] makes it one. Everything lives through a reload. The first cache line is
//! read by every claim and written only when workers come and go. Bound: nothing here grows.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::bodies::Bodies;
use super::feed::{Connection, StateFile};
use super::fences::Fences;
use super::layout::Counts;
use super::{Layout, TooSmall};

/// `pincer` and the version of the zone's layout; a zone made by another version is not read.
const MAGIC: u64 = u64::from_be_bytes(*b"pincer\0\x05");

/// The zone's header.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Header {
    magic: AtomicU64,
    /// Upper bound of taken worker slots, and a count of its changes: see `worker.rs`.
    pub(super) workers_high: AtomicU64,
    upstreams: AtomicU32,
    peers: AtomicU32,
    generation: AtomicU32,
    classes: AtomicU32,
    pub(super) revision: AtomicU64,
    pub(super) unknown: AtomicU64,
    /// Who writes overlays: see `feed.rs`.
    pub(super) feed: AtomicU64,
    rate_sets: AtomicU32,
    seat_sets: AtomicU32,
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

/// Counters of the whole zone; they only rise, over reloads too.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests served by plain weighted balancing because something of ours failed.
    pub fail_open: AtomicU64,
    /// Panics caught at the border to nginx.
    pub faults: AtomicU64,
    /// Kicks sent to other workers.
    pub kicks: AtomicU64,
    /// Claims that lost a slot to another worker and looked again.
    pub collisions: AtomicU64,
    /// Worker slots taken back from dead processes.
    pub reclaimed_workers: AtomicU64,
    /// In-flight requests of dead workers taken off their peers.
    pub reclaimed_requests: AtomicU64,
    /// Releases that found nothing in flight: always 0 unless our accounting is wrong.
    pub unbalanced: AtomicU64,
    /// Workers that found every slot of the zone taken and run without it.
    pub workers_refused: AtomicU64,
    /// Purges of nginx's caches that were run.
    pub purges: AtomicU64,
    /// Entries that they removed.
    pub purged_entries: AtomicU64,
    /// Answers that were not kept, because a purge came while they were fetched.
    pub purge_voided: AtomicU64,
    /// Keys of limits that were forgotten while they still owed, because their place was needed.
    pub limit_evictions: AtomicU64,
    /// Requests that no limit could be kept for, and that passed: the table of rates was in tumult, or that of bandwidths full.
    pub limit_untracked: AtomicU64,
    /// Requests refused because the table of requests in flight had no room to count them.
    pub limit_no_room: AtomicU64,
}

impl Header {
    /// Makes zeroed memory a zone of this layout. The magic is stored last: a process that dies in here leaves no zone behind.
    ///
    /// `secret` must be unpredictable: whoever knows it can make keys of limits collide.
    pub fn init(&self, layout: &Layout, secret: [u64; 2]) {
        let counts = [
            (&self.upstreams, layout.upstreams),
            (&self.peers, layout.peers),
            (&self.classes, layout.classes),
            (&self.rate_sets, layout.rate_sets),
            (&self.seat_sets, layout.seat_sets),
        ];
        for (field, count) in counts {
            field.store(u32::try_from(count).unwrap_or(0), SeqCst);
        }
        for (field, word) in self.secret.iter().zip(secret) {
            field.store(word, SeqCst);
        }
        self.magic.store(MAGIC, SeqCst);
    }

    /// The layout that this zone was made with; `None` when it was not, or by another version.
    pub fn layout(&self) -> Option<Layout> {
        let count = |field: &AtomicU32| field.load(SeqCst) as usize;
        let counts = Counts {
            upstreams: count(&self.upstreams),
            peers: count(&self.peers),
            classes: count(&self.classes),
            rate_sets: count(&self.rate_sets),
            seat_sets: count(&self.seat_sets),
        };
        (self.magic.load(SeqCst) == MAGIC).then(|| Layout::of(counts))
    }

    /// The zone's secret for [`crate::limit::KeyHash::new`].
    pub fn secret(&self) -> [u64; 2] {
        [self.secret[0].load(Relaxed), self.secret[1].load(Relaxed)]
    }

    /// The layout that was stored, if it is the one for `usable` bytes of memory.
    ///
    /// `Err` when `usable` is too small for any zone; `Ok(None)` when the zone is not one, or of other measures.
    pub fn layout_for(&self, usable: usize) -> Result<Option<Layout>, TooSmall> {
        let wanted = Layout::for_bytes(usable)?;
        Ok(self.layout().filter(|layout| *layout == wanted))
    }

    /// Configurations that this zone has seen; the newest has this number. 0 before the first.
    pub fn generation(&self) -> u32 {
        self.generation.load(SeqCst)
    }

    /// Begins a new configuration and returns its number. By the master, before it reserves upstreams.
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
