//! A zone in private memory, for tests, benchmarks and tools: the same structs without a map.
//!
//! Shared memory starts as zeroes; so does this: every field's default is its zero. Allocates; never used by the module.

use core::ops::Deref;
use core::sync::atomic::AtomicU64;

use super::{Header, Layout, Peer, Upstream, WORKERS_MAX, WorkerSlot, Zone};

/// Owns what a [`Zone`] borrows.
#[derive(Debug)]
pub struct HeapZone {
    header: Box<Header>,
    workers: Vec<WorkerSlot>,
    upstreams: Vec<Upstream>,
    peers: Vec<Peer>,
    keys: Vec<AtomicU64>,
}

impl HeapZone {
    /// A fresh zone with exactly these records.
    pub fn new(upstreams: usize, peers: usize) -> Self {
        let zone = Self {
            header: Box::default(),
            workers: (0..WORKERS_MAX).map(|_| WorkerSlot::default()).collect(),
            upstreams: (0..upstreams).map(|_| Upstream::default()).collect(),
            peers: (0..peers).map(|_| Peer::default()).collect(),
            keys: (0..Layout::of(upstreams, peers).key_words()).map(|_| AtomicU64::default()).collect(),
        };
        zone.header.init(&Layout::of(upstreams, peers));
        zone
    }

    /// The zone.
    pub fn zone(&self) -> Zone<'_> {
        let Self { header, workers, upstreams, peers, keys } = self;
        Zone { header, workers, upstreams, peers, keys }
    }
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
