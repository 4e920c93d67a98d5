//! A zone in private memory, for tests, benchmarks and tools: the same structs without a map.
//!
//! Shared memory starts as zeroes; so does this: every field's default is its zero. Allocates; never used by the module.

use core::ops::Deref;
use core::sync::atomic::AtomicU64;

use super::layout::Counts;
use super::rates::RateSet;
use super::seats::SeatSet;
use super::{Class, Header, Layout, Peer, Upstream, WORKERS_MAX, WorkerSlot, Zone};

/// Class records and sets of the limiter's tables of [`HeapZone::new`].
const LIMITS: Counts = Counts { upstreams: 0, peers: 0, classes: 8, rate_sets: 64, seat_sets: 16 };

/// The secret of every zone in private memory: none of them is attacked.
const SECRET: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// Owns what a [`Zone`] borrows.
#[derive(Debug)]
pub struct HeapZone {
    header: Box<Header>,
    workers: Vec<WorkerSlot>,
    upstreams: Vec<Upstream>,
    peers: Vec<Peer>,
    keys: Vec<AtomicU64>,
    classes: Vec<Class>,
    rates: Vec<RateSet>,
    seats: Vec<SeatSet>,
}

impl HeapZone {
    /// A fresh zone with exactly these upstreams and peers, eight classes and small tables of limits.
    pub fn new(upstreams: usize, peers: usize) -> Self {
        Self::of(&Layout::of(Counts { upstreams, peers, ..LIMITS }))
    }

    /// A fresh zone of one peer, with so many classes and tables of limits of so many sets.
    pub fn with_limits(classes: usize, rate_sets: usize, seat_sets: usize) -> Self {
        Self::of(&Layout::of(Counts { upstreams: 1, peers: 1, classes, rate_sets, seat_sets }))
    }

    /// A fresh zone of this layout.
    pub fn of(layout: &Layout) -> Self {
        let zone = Self {
            header: Box::default(),
            workers: fresh(WORKERS_MAX),
            upstreams: fresh(layout.upstreams),
            peers: fresh(layout.peers),
            keys: fresh(layout.key_words()),
            classes: fresh(layout.classes),
            rates: fresh(layout.rate_sets),
            seats: fresh(layout.seat_sets),
        };
        zone.header.init(layout, SECRET);
        zone
    }

    /// The zone.
    pub fn zone(&self) -> Zone<'_> {
        let Self { header, workers, upstreams, peers, keys, classes, rates, seats } = self;
        Zone { header, workers, upstreams, peers, keys, classes, rates, seats }
    }
}

fn fresh<T: Default>(count: usize) -> Vec<T> {
    (0..count).map(|_| T::default()).collect()
}

/// An array whose default is the default of each element, whatever its length.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Array<T, const N: usize>([T; N]);

impl<T: Default, const N: usize> Default for Array<T, N> {
    fn default() -> Self {
        Self(core::array::from_fn(|_| T::default()))
    }
}

impl<T, const N: usize> Deref for Array<T, N> {
    type Target = [T; N];

    fn deref(&self) -> &[T; N] {
        &self.0
    }
}
