//! A zone in private memory, for tests, benchmarks and tools: the same structs without a map.
//!
//! Shared memory starts as zeroes; so does this: every field's default is its zero. Allocates;
//! never used by the module.

use super::counts::Counts;
use super::layout::Layout;
use super::parts::Records;
use super::{Header, Zone};

/// Class records and sets of the limiter's tables of [`HeapZone::new`].
const LIMITS: Counts = Counts { upstreams: 0, peers: 0, classes: 8, rate_sets: 64, seat_sets: 16 };

/// The secret of every zone in private memory: none of them is attacked.
const SECRET: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// Owns what a [`Zone`] borrows.
#[derive(Debug)]
pub struct HeapZone {
    header: Box<Header>,
    records: Records,
}

impl HeapZone {
    /// A fresh zone with exactly these upstreams and peers, eight classes and small tables of
    /// limits.
    pub fn new(upstreams: usize, peers: usize) -> Self {
        Self::of(&Layout::of(Counts { upstreams, peers, ..LIMITS }))
    }

    /// A fresh zone of one peer, with so many classes and tables of limits of so many sets.
    pub fn with_limits(classes: usize, rate_sets: usize, seat_sets: usize) -> Self {
        Self::of(&Layout::of(Counts { upstreams: 1, peers: 1, classes, rate_sets, seat_sets }))
    }

    /// A fresh zone of this layout.
    pub fn of(layout: &Layout) -> Self {
        let zone = Self { header: Box::default(), records: Records::of(&layout.parts) };
        zone.header.init(layout, SECRET);
        zone
    }

    /// The zone.
    pub fn zone(&self) -> Zone<'_> {
        self.records.zone(&self.header)
    }
}
