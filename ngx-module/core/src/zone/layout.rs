//! Where each part of the zone lies in its memory, and how many records fit.
//!
//! The header and the parts of `parts.rs`, one after the other, each aligned to a cache line. A
//! sixth goes to classes (up to [`CLASSES_MAX`]), an eighth each to rates and to requests in flight
//! (up to [`SEATS_BYTES_MAX`]). Of the rest, one upstream record for every [`PEERS_PER_UPSTREAM`]
//! peer records, and with it room for [`KEYS_PER_UPSTREAM`] API keys. A zone that is too small for
//! that has no classes. Never touches memory: only numbers. Bound: indices fit 16 bits.

use core::mem::size_of;

use super::counts::Counts;
use super::keys::KEYS_MAX;
use super::parts::{LINE, Memory, Parts};
use super::rates::RateSet;
use super::seats::SeatSet;
use super::{CLASSES_MAX, Class, Header, Peer, Zone};

/// Peer records per upstream record: pools of inference replicas are small, and an upstream record
/// is as big as a peer's.
const PEERS_PER_UPSTREAM: usize = 4;

/// API keys per upstream record: some 590 in a zone of 1 MB.
const KEYS_PER_UPSTREAM: usize = 37;

/// More upstream records than this are never made; 0xffff is kept free as "none".
const UPSTREAMS_MAX: usize = 4_096;

/// The part of the zone that class records may take: one of so many. All of them fit into a
/// megabyte.
const CLASSES_PART: usize = 6;

/// The part that each of the limiter's tables takes: one of so many.
const TABLE_PART: usize = 8;

/// The table of requests in flight is never larger: a reclaim walks it. Some 100,000 keys at once.
const SEATS_BYTES_MAX: usize = 8 << 20;

/// The table of rates is never larger: 16 million keys.
const RATES_BYTES_MAX: usize = 256 << 20;

/// Byte offsets and record counts of a zone. Same input, same layout: every process computes or
/// reads the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) counts: Counts,
    /// Where each part lies.
    pub parts: Parts,
    /// Bytes used in all. The start must be aligned to 64 bytes.
    pub bytes: usize,
}

/// The zone cannot hold even the least useful content: one upstream of four peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{have} bytes are too few, {need} are needed for 1 upstream of 4 peers")]
pub struct TooSmall {
    /// Usable bytes offered.
    pub have: usize,
    /// Usable bytes needed at least.
    pub need: usize,
}

impl Counts {
    /// API keys that the zone has room for.
    pub fn keys(self) -> usize {
        (self.upstreams * KEYS_PER_UPSTREAM).min(KEYS_MAX)
    }
}

impl Layout {
    /// The layout that fills `usable` bytes best; the start is assumed to be aligned to 64 bytes.
    pub fn for_bytes(usable: usize) -> Result<Self, TooSmall> {
        let least = Self::least(1);
        if usable < least.bytes {
            return Err(TooSmall { have: usable, need: least.bytes });
        }
        let table = usable / TABLE_PART;
        let classes = (usable / CLASSES_PART).min(CLASSES_MAX * size_of::<Class>());
        let parts = [classes, table.min(RATES_BYTES_MAX), table.min(SEATS_BYTES_MAX)];
        let rest = usable - parts.iter().sum::<usize>();
        if rest < least.bytes {
            return Ok(Self::of(Self::fill(usable, &least)));
        }
        let [classes, rates, seats] = parts;
        Ok(Self::of(Counts {
            classes: classes / size_of::<Class>(),
            rate_sets: rates / size_of::<RateSet>(),
            seat_sets: seats / size_of::<SeatSet>(),
            ..Self::fill(rest, &least)
        }))
    }

    /// Bytes that a zone needs for at least so many records: for messages that name the need. Up to
    /// 16 KiB more are enough too, for whoever rounds it up: one record more of a kind takes the
    /// place of several of another, so that more bytes are not always more of each.
    ///
    /// `classes` is at most [`CLASSES_MAX`]: no zone has more.
    pub fn bytes_for(upstreams: usize, peers: usize, classes: usize) -> usize {
        let classes = classes.min(CLASSES_MAX);
        let fits = |layout: Self| {
            let counts = layout.counts;
            counts.upstreams >= upstreams && counts.peers >= peers && counts.classes >= classes
        };
        let mut bytes = Self::least(upstreams.max(peers.div_ceil(PEERS_PER_UPSTREAM)).max(1)).bytes;
        let is_enough = |bytes: usize| (0..=16).all(|more| Self::for_bytes(bytes + more * 1024).is_ok_and(fits));
        while !is_enough(bytes) && bytes < usize::MAX / 2 {
            bytes = (bytes + bytes / 64).next_multiple_of(LINE);
        }
        bytes
    }

    /// The size of a `pincer_zone`, in KiB, that leaves `bytes` for records: nginx takes its part
    /// for the table of pages, its own head and alignment.
    #[must_use]
    pub fn size_kib(bytes: usize) -> usize {
        const PAGE_KIB: usize = 4;
        const OWN_PAGES: usize = 4;
        (bytes + bytes / 64).div_ceil(1024).next_multiple_of(PAGE_KIB) + OWN_PAGES * PAGE_KIB
    }

    /// The smallest layout for `groups` of an upstream and its peers, without limits.
    fn least(groups: usize) -> Self {
        Self::of(Counts { upstreams: groups, peers: groups * PEERS_PER_UPSTREAM, ..Counts::default() })
    }

    /// As many upstreams and peers as `usable` bytes hold.
    fn fill(usable: usize, least: &Self) -> Counts {
        let group = Self::least(2).bytes - least.bytes;
        let upstreams = (1 + (usable - least.bytes) / group).clamp(1, UPSTREAMS_MAX);
        let peers = upstreams * PEERS_PER_UPSTREAM;
        let left = usable.saturating_sub(Self::least(upstreams).bytes);
        let peers = (peers + left / size_of::<Peer>()).min(usize::from(u16::MAX) - 1);
        Counts { upstreams, peers, ..Counts::default() }
    }

    /// The layout with exactly these counts.
    pub(super) fn of(counts: Counts) -> Self {
        let (parts, bytes) = Parts::of(counts, size_of::<Header>());
        Self { counts, parts, bytes }
    }
}

impl Header {
    /// Makes zeroed memory a zone of this layout. A process that dies in here leaves no zone
    /// behind.
    ///
    /// `secret` must be unpredictable: whoever knows it can make keys of limits collide.
    pub fn init(&self, layout: &Layout, secret: [u64; 2]) {
        self.make(layout.counts, Parts::FINGERPRINT, secret);
    }

    /// The layout that this zone was made with; `None` when it was not, or by another version.
    pub fn layout(&self) -> Option<Layout> {
        self.counts(Parts::FINGERPRINT).map(Layout::of)
    }

    /// The layout that was stored, if it is the one for `usable` bytes of memory.
    ///
    /// `Err` when `usable` is too small for any zone; `Ok(None)` when the zone is not one, or of
    /// other measures.
    pub fn layout_for(&self, usable: usize) -> Result<Option<Layout>, TooSmall> {
        let wanted = Layout::for_bytes(usable)?;
        Ok(self.layout().filter(|layout| *layout == wanted))
    }
}

impl<'a> Zone<'a> {
    /// The zone of this layout in this memory.
    pub fn map(layout: &Layout, memory: &impl Memory<'a>) -> Self {
        Self::at(&layout.parts, memory)
    }
}

#[cfg(test)]
mod tests {
    use super::super::WORKERS_MAX;
    use super::*;

    #[test]
    fn every_part_starts_on_a_cache_line_and_none_overlaps() {
        for kib in [64, 100, 128, 256, 1_000, 16_384, 1_048_576] {
            let layout = Layout::for_bytes(kib * 1_024).unwrap();
            let mut end = size_of::<Header>();
            for (extent, size) in layout.parts.all() {
                assert!(extent.at >= end && extent.at % LINE == 0, "{layout:?}");
                end = extent.at + extent.count * size;
            }
            assert!(end == layout.bytes && end <= kib * 1_024);
            assert_eq!(layout.parts.workers.count, WORKERS_MAX);
            let Parts { peers, upstreams, .. } = layout.parts;
            assert!(peers.count < usize::from(u16::MAX) && upstreams.count <= UPSTREAMS_MAX);
        }
    }

    #[test]
    fn a_zone_of_the_size_an_error_names_is_big_enough() {
        let error = Layout::for_bytes(4_096).unwrap_err();
        assert!(Layout::for_bytes(error.need).is_ok());
        assert!(Layout::for_bytes(error.need - 1).is_err());
        for (upstreams, peers, classes) in [(1, 4, 0), (3, 200, 1), (40, 1, 64), (16, 1_000, 0), (1, 1, 5)] {
            let need = Layout::bytes_for(upstreams, peers, classes);
            // Whoever rounds the need up, or adds what nginx keeps for itself, gets room too.
            for bytes in [need, need + 4_096, need + need / 64 + 16 * 4_096, 2 * need, 10 * need] {
                let layout = Layout::for_bytes(bytes).unwrap();
                assert!(layout.counts.upstreams >= upstreams && layout.counts.peers >= peers, "{bytes}: {layout:?}");
                assert!(layout.counts.classes >= classes, "{bytes}: {layout:?}");
            }
        }
    }

    #[test]
    fn a_zone_of_a_megabyte_holds_all_classes_and_thousands_of_keys() {
        let layout = Layout::for_bytes(1 << 20).unwrap();
        assert_eq!(layout.counts.classes, CLASSES_MAX);
        assert!(layout.counts.rate_sets * size_of::<RateSet>() >= 128 * 1_024, "{layout:?}");
        assert!(layout.counts.seat_sets >= 220, "{layout:?}");
        assert!(Layout::for_bytes(96 << 10).unwrap().counts.classes >= 4);
    }
}
