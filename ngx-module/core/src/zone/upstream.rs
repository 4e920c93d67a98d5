//! One upstream's record: which peers it has, its queue's words per worker, its counters.
//!
//! The table of peers keeps its indices while peers come and go, with holes in between, so that a
//! request's set of tried peers stays right. An entry is `peer index + 1`, 0 a hole. Bound:
//! [`PEERS_MAX`] peers, [`WORKERS_MAX`] workers.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::array::Array;
use super::cells::{QueueClass, UpstreamWorker, Waiters};
use super::counters::Record;
use super::failing::Failing;
use super::peer::{PeerCounters, WHYS};
use super::ticket::Signal;
use super::{Bytes, NAME_MAX, PeerIdx, WORKERS_MAX};
use crate::drain::Drain;
use crate::histogram::Histogram;
use crate::looks::Looks;
use crate::pick::PEERS_MAX;
use crate::sync;

/// What became of an upstream's requests before a peer was found; only rises.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct UpstreamCounters {
    /// Requests that left the queue because of its timeout.
    pub timeouts: AtomicU64,
    /// Requests refused because the queue was full.
    pub overflows: AtomicU64,
    /// Requests that found no eligible peer.
    pub no_peer: AtomicU64,
    /// Requests that found every peer full and could not wait.
    pub full: AtomicU64,
    /// Picks of peers that are gone, by [`crate::pick::Why`].
    pub picks: [AtomicU64; WHYS],
}

impl UpstreamCounters {
    /// Takes over what a peer that leaves has counted.
    pub(super) fn keep(&self, peer: &PeerCounters) {
        for (kept, count) in self.picks.iter().zip(&peer.picks) {
            kept.fetch_add(count.load(Relaxed), Relaxed);
        }
    }
}

/// An upstream's record.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Upstream {
    used: AtomicU32,
    pub(super) generation: AtomicU32,
    pub(super) peer_count: AtomicU32,
    pub(super) queue_size: AtomicU32,
    pub(super) signal: AtomicU32,
    /// Attempts that a request may make: the lines of all peers that take requests.
    pub(super) tries: AtomicU32,
    /// The last number that was given to a request in the queue.
    pub(super) sequence: sync::AtomicU64,
    /// Workers in which something waits.
    pub(super) waiters: Waiters,
    /// Slots given to requests that waited.
    pub(super) grants: sync::AtomicU64,
    pub(super) peer_at: Array<AtomicU16, PEERS_MAX>,
    pub(super) counters: UpstreamCounters,
    pub(super) name: Bytes<16>,
    pub(super) queue_times: Histogram,
    pub(super) drain: Drain,
    /// Requests that failed.
    pub(super) failing: Failing,
    pub(super) looks: Looks,
    /// Of each class: what its deadlines count from, see [`crate::turn`].
    bases: Array<sync::AtomicU64, { QueueClass::MAX }>,
    pub(super) workers: Array<UpstreamWorker, WORKERS_MAX>,
}

impl Record for Upstream {}

impl Upstream {
    /// The upstream's name, copied into `out`.
    pub fn name<'o>(&self, out: &'o mut [u8; NAME_MAX]) -> &'o [u8] {
        self.name.load(out)
    }

    /// Whether the record is an upstream's.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(SeqCst) != 0
    }

    /// Entries of the table that may hold a peer.
    pub(super) fn count(&self) -> usize {
        (self.peer_count.load(SeqCst) as usize).min(PEERS_MAX)
    }

    /// The peer at table index `i`; `None` for a hole.
    pub(super) fn peer_at(&self, i: usize) -> Option<PeerIdx> {
        self.peer_at.get(i)?.load(SeqCst).checked_sub(1).map(PeerIdx)
    }

    /// What the deadlines of `class` count from.
    pub(super) fn base(&self, class: QueueClass) -> Option<&sync::AtomicU64> {
        self.bases.get(usize::from(class.0))
    }

    pub(super) fn signal(&self) -> Signal {
        match self.signal.load(SeqCst) {
            1 => Signal::Header,
            2 => Signal::LastByte,
            _ => Signal::FirstByte,
        }
    }

    /// Zeroes worker `w`'s part of the queue and returns the requests that waited there.
    pub(super) fn clear_worker(&self, w: usize) -> u32 {
        let Some(worker) = self.workers.get(w) else { return 0 };
        let waited = worker.clear();
        self.waiters.clear(w);
        waited
    }

    /// Makes a free record the upstream `name`. `used` comes last: a death in here leaves it free.
    pub(super) fn occupy(&self, name: &[u8], generation: u32) {
        self.name.store(name);
        self.generation.store(generation, SeqCst);
        self.used.store(1, SeqCst);
    }

    /// Empties the record. The table must hold no peer any more.
    pub(super) fn vacate(&self) {
        self.used.store(0, SeqCst);
        self.peer_count.store(0, SeqCst);
        self.tries.store(0, SeqCst);
        let counters = &self.counters;
        let numbers = [&counters.timeouts, &counters.overflows, &counters.no_peer, &counters.full];
        for count in numbers.into_iter().chain(&counters.picks) {
            count.store(0, SeqCst);
        }
        self.queue_times.reset();
        self.drain.reset();
        self.failing.reset();
        self.looks.reset();
        self.bases.iter().for_each(|base| base.store(0, SeqCst));
        for column in 0..self.workers.len() {
            self.clear_worker(column);
        }
        // Only now: what a base counts from never lies ahead of the grants.
        self.grants.store(0, SeqCst);
    }
}
