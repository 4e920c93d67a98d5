//! Where each part of the zone lies in its memory, and how many records fit.
//!
//! Header, worker slots, upstream records, peer records, key tables, one after the other, each aligned to a cache line. Gives one upstream
//! record for every [`PEERS_PER_UPSTREAM`] peer records, and with it room for [`KEYS_PER_UPSTREAM`] API keys. Never touches memory: only numbers. Bound: indices fit 16 bits.

use core::mem::size_of;

use super::keys::{self, KEYS_MAX};
use super::{Header, Peer, Upstream, WORKERS_MAX, WorkerSlot};

/// Peer records per upstream record: pools of inference replicas are small, and an upstream record is as big as a peer's.
const PEERS_PER_UPSTREAM: usize = 4;

/// API keys per upstream record: about a thousand in a zone of 1 MB.
const KEYS_PER_UPSTREAM: usize = 20;

/// More upstream records than this are never made; 0xffff is kept free as "none".
const UPSTREAMS_MAX: usize = 4_096;

/// Alignment of every part, in bytes: a cache line.
const LINE: usize = 64;

/// Byte offsets and record counts of a zone. Same input, same layout: every process computes or reads the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Upstream records.
    pub upstreams: usize,
    /// Peer records, shared by all upstreams.
    pub peers: usize,
    /// Offset of the [`WORKERS_MAX`] worker slots, in bytes from the header.
    pub workers_at: usize,
    /// Offset of the upstream records, in bytes.
    pub upstreams_at: usize,
    /// Offset of the peer records, in bytes.
    pub peers_at: usize,
    /// API keys that fit.
    pub keys: usize,
    /// Offset of their tables, in bytes.
    pub keys_at: usize,
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

impl Layout {
    /// The layout that fills `usable` bytes best; the start is assumed to be aligned to 64 bytes.
    pub fn for_bytes(usable: usize) -> Result<Self, TooSmall> {
        let least = Self::of(1, PEERS_PER_UPSTREAM);
        if usable < least.bytes {
            return Err(TooSmall { have: usable, need: least.bytes });
        }
        let group = Self::of(2, 2 * PEERS_PER_UPSTREAM).bytes - least.bytes;
        let upstreams = (1 + (usable - least.bytes) / group).clamp(1, UPSTREAMS_MAX);
        let mut peers = upstreams * PEERS_PER_UPSTREAM;
        let left = usable - Self::of(upstreams, peers).bytes;
        peers = (peers + left / size_of::<Peer>()).min(usize::from(u16::MAX) - 1);
        Ok(Self::of(upstreams, peers))
    }

    /// Bytes that a zone needs for at least `upstreams` and `peers` records: for messages that name the need.
    pub fn bytes_for(upstreams: usize, peers: usize) -> usize {
        let groups = upstreams.max(peers.div_ceil(PEERS_PER_UPSTREAM)).max(1);
        Self::of(groups, groups * PEERS_PER_UPSTREAM).bytes
    }

    /// The layout with exactly these counts.
    pub(super) fn of(upstreams: usize, peers: usize) -> Self {
        let workers_at = size_of::<Header>().next_multiple_of(LINE);
        let upstreams_at = workers_at + (WORKERS_MAX * size_of::<WorkerSlot>()).next_multiple_of(LINE);
        let peers_at = upstreams_at + upstreams * size_of::<Upstream>();
        let keys_at = peers_at + peers * size_of::<Peer>();
        let keys = (upstreams * KEYS_PER_UPSTREAM).min(KEYS_MAX);
        let bytes = keys_at + size_of::<u64>() * keys::words(keys);
        Self { upstreams, peers, workers_at, upstreams_at, peers_at, keys, keys_at, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_starts_on_a_cache_line_and_none_overlaps() {
        for kib in [64, 100, 128, 256, 1_000, 16_384, 1_048_576] {
            let layout = Layout::for_bytes(kib * 1_024).unwrap();
            assert!(layout.bytes <= kib * 1_024);
            assert_eq!((layout.workers_at | layout.upstreams_at | layout.peers_at | layout.keys_at) % LINE, 0);
            assert!(layout.workers_at >= size_of::<Header>());
            assert!(layout.upstreams_at >= layout.workers_at + WORKERS_MAX * size_of::<WorkerSlot>());
            assert!(layout.peers_at >= layout.upstreams_at + layout.upstreams * size_of::<Upstream>());
            assert!(layout.peers < usize::from(u16::MAX) && layout.upstreams <= UPSTREAMS_MAX);
        }
    }

    #[test]
    fn a_zone_of_the_size_an_error_names_is_big_enough() {
        let error = Layout::for_bytes(4_096).unwrap_err();
        assert!(Layout::for_bytes(error.need).is_ok());
        assert!(Layout::for_bytes(error.need - 1).is_err());
        for (upstreams, peers) in [(1, 4), (3, 200), (40, 1), (16, 1_000)] {
            let layout = Layout::for_bytes(Layout::bytes_for(upstreams, peers)).unwrap();
            assert!(layout.upstreams >= upstreams && layout.peers >= peers, "{layout:?}");
        }
    }
}
