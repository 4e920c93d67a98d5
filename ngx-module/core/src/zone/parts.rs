//! The parts of the zone: one list, from which the zone, its layout, its owner in private memory
//! and the map over shared memory are made.
//!
//! To add a part: one line in the list, its record with [`Record`] in a file of its own, and a word
//! in `counts.rs` if its number of records is no function of the others;
//! [`super::Layout::for_bytes`] decides how many there are. Invariant: nothing outside of this file
//! spells the parts one by one.

use core::sync::atomic::AtomicU64;

use super::counters::{Counter, Record, Sums};
use super::counts::Counts;
use super::rates::RateSet;
use super::seats::SeatSet;
use super::{Class, Header, Peer, Upstream, WORKERS_MAX, WorkerSlot};

/// Alignment of every part, in bytes: a cache line.
pub(super) const LINE: usize = 64;

/// Where the records of a part lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Offset from the header, in bytes.
    pub at: usize,
    /// Records.
    pub count: usize,
}

/// Memory that holds a zone. The module implements it for memory that nginx has mapped.
pub trait Memory<'a> {
    /// The header.
    fn header(&self) -> &'a Header;

    /// The records of a part. Every part is made of atomics, for which any bytes are a value.
    fn records<T>(&self, extent: Extent) -> &'a [T];
}

macro_rules! zone_parts {
    (
        $($(#[doc = $doc:literal])* $part:ident: $record:ty, |$counts:ident| $number:expr;)*
    ) => {
        /// Where each part lies.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Parts {
            $($(#[doc = $doc])* #[doc = concat!("The records are `", stringify!($record), "`.")] pub $part: Extent,)*
        }

        impl Parts {
            /// The parts one after the other from `at` on, each from a cache line on, and their
            /// end.
            pub(super) fn of(counts: Counts, at: usize) -> (Self, usize) {
                let mut parts = Self::default();
                let mut end = at;
                $(
                    let $counts = counts;
                    parts.$part = Extent { at: end.next_multiple_of(LINE), count: $number };
                    end = parts.$part.at + parts.$part.count * size_of::<$record>();
                )*
                (parts, end)
            }

            /// Changes with the list and with the size of its records: memory that was laid out by
            /// another version is not read.
            pub(super) const FINGERPRINT: u64 = {
                let mut hash = size_of::<Header>() as u64;
                $(hash = fingerprint(hash, stringify!($part), size_of::<$record>());)*
                hash
            };

            /// The parts, each with the size of its records.
            #[cfg(test)]
            pub(super) fn all(&self) -> Vec<(Extent, usize)> {
                vec![$((self.$part, size_of::<$record>())),*]
            }
        }

        /// The mapped zone.
        #[derive(Clone, Copy, Debug)]
        pub struct Zone<'a> {
            /// Counters, revision, feed lease.
            pub header: &'a Header,
            $($(#[doc = $doc])* #[doc = concat!("The records are `", stringify!($record), "`.")] pub $part: &'a [$record],)*
        }

        impl<'a> Zone<'a> {
            /// The zone whose parts lie so in this memory.
            pub(super) fn at(parts: &Parts, memory: &impl Memory<'a>) -> Self {
                Self { header: memory.header(), $($part: memory.records(parts.$part),)* }
            }

            /// Counters of the whole zone: the header's, then those of the parts.
            pub(super) fn counters(&self) -> Vec<Counter> {
                let mut sums = Sums::default();
                self.header.counters.snapshot().into_iter().for_each(|counter| sums.add(counter));
                $(self.$part.iter().for_each(|record| record.add_counters(&mut sums));)*
                sums.into_vec()
            }
        }

        /// The records of a zone in private memory.
        #[derive(Debug)]
        pub(super) struct Records {
            $($part: Vec<$record>,)*
        }

        impl Records {
            /// Fresh records, as many as each part has.
            pub fn of(parts: &Parts) -> Self {
                Self { $($part: fresh(parts.$part.count),)* }
            }

            /// The zone of this header and these records.
            pub fn zone<'a>(&'a self, header: &'a Header) -> Zone<'a> {
                Zone { header, $($part: &self.$part,)* }
            }
        }
    };
}

zone_parts! {
    /// One slot for each worker process.
    workers: WorkerSlot, |_counts| WORKERS_MAX;
    /// Upstream records, in use and free.
    upstreams: Upstream, |counts| counts.upstreams;
    /// Peer records of all upstreams, in use and free.
    peers: Peer, |counts| counts.peers;
    /// The words of the API keys' tables.
    keys: AtomicU64, |counts| super::keys::words(counts.keys());
    /// Class records, in use and free.
    classes: Class, |counts| counts.classes;
    /// The table of rates for each class and key.
    rates: RateSet, |counts| counts.rate_sets;
    /// The table of requests in flight and of bandwidth for each class and key.
    seats: SeatSet, |counts| counts.seat_sets;
}

fn fresh<T: Record>(count: usize) -> Vec<T> {
    (0..count).map(|_| T::default()).collect()
}

/// One step of FNV-1a over a part's name, and over the size of its records.
const fn fingerprint(before: u64, name: &str, bytes: usize) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let (name, mut hash, mut at) = (name.as_bytes(), before, 0);
    while at < name.len() {
        hash = (hash ^ name[at] as u64).wrapping_mul(PRIME);
        at += 1;
    }
    (hash ^ bytes as u64).wrapping_mul(PRIME)
}
