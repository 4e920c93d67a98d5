//! Whose fault a failure is: the request's, if it fails on another peer too, or the peer's, if
//! another one answers it.
//!
//! An upstream keeps the last [`FAILING`] fingerprints of requests that failed, each with up to two
//! peers that failed it. A failure whose fingerprint failed on another peer counts for no breaker,
//! and those of the other one are taken back, with a breaker that they opened. If a peer answers it
//! after all, they count again: the request was well. A breaker that would leave less than half of
//! the pool in stays closed while failures occur elsewhere too, unless this peer's are unusual
//! beside those of the peers that answer over the same time ([`crate::mutes::is_unusual`]).
//!
//! Each entry is one word, changed by compare-and-swap: `tag:40 | peers:2 × 8 (index + 1) |
//! opened:1 | count:7`. All-zero memory is an empty table. Entries go round, so a death or a lost
//! race costs one entry. Cost: a scan of the table for a failure, and for a response within
//! [`RECENT_NS`] of one.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64};

use super::array::Array;
use crate::limit::KeyHash;
use crate::time::{MILLISECOND_NS, MonoNs};

/// Fingerprints that an upstream keeps.
pub const FAILING: usize = 256;
/// Answers are compared with the table so long after the last failure, ns: failures that are older
/// have had their effect.
const RECENT_NS: u64 = 30_000 * MILLISECOND_NS;

/// What tells one request from another, hashed with the zone's secret: 40 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    const BITS: u32 = 40;

    /// Of a hash of all that tells requests apart ([`KeyHash::of_parts`]).
    #[must_use]
    pub fn new(hash: KeyHash) -> Self {
        // 0 is an empty entry.
        Self((hash.tag >> (64 - Self::BITS)).max(1))
    }
}

/// An entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub tag: u64,
    pub peers: [Option<u8>; 2],
    /// The first peer's failures opened its breaker.
    pub opened: bool,
    /// Failures of the first peer, up to [`Self::COUNT_MAX`].
    pub count: u8,
}

impl Entry {
    pub const COUNT_MAX: u8 = 0x7f;
    const OPENED: u64 = 0x80;

    fn decode(word: u64) -> Option<Self> {
        let peer = |shift: u32| (word >> shift & 0xff).checked_sub(1).and_then(|index| u8::try_from(index).ok());
        let count = u8::try_from(word & u64::from(Self::COUNT_MAX)).unwrap_or(0);
        let opened = word & Self::OPENED != 0;
        (word != 0).then(|| Self { tag: word >> 24, peers: [peer(16), peer(8)], opened, count })
    }

    fn encode(self) -> u64 {
        let [first, second] = self.peers.map(|peer| peer.map_or(0, |index| u64::from(index) + 1));
        let opened = if self.opened { Self::OPENED } else { 0 };
        self.tag << 24 | first << 16 | second << 8 | opened | u64::from(self.count)
    }
}

/// What the table says of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody else failed it, as far as is known.
    Own,
    /// Another peer failed it before.
    Elsewhere {
        /// That entry, if the other peer's failures counted until now.
        take_back: Option<Entry>,
    },
}

/// The table of an upstream.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// When the last failure came, ns; 0 = never.
    at: AtomicU64,
    /// Where the next entry goes.
    next: AtomicU32,
    /// Failures that were noted.
    pub(super) count: AtomicU32,
    entries: Array<AtomicU64, FAILING>,
}

impl Failing {
    fn find(&self, fingerprint: Fingerprint) -> Option<(&AtomicU64, u64, Entry)> {
        self.entries.iter().find_map(|entry| {
            let word = entry.load(Relaxed);
            (word >> 24 == fingerprint.0).then(|| Entry::decode(word)).flatten().map(|decoded| (entry, word, decoded))
        })
    }

    /// A peer has failed a request that was not even sent: it has no fingerprint.
    pub(super) fn note_unsent(&self, now: MonoNs) {
        self.at.store(now.0, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// Peer `index` has failed the request.
    pub(super) fn note(&self, fingerprint: Fingerprint, index: u8, now: MonoNs) -> Verdict {
        self.at.store(now.0, Relaxed);
        self.count.fetch_add(1, Relaxed);
        let Some((entry, word, decoded)) = self.find(fingerprint) else {
            let at = self.next.fetch_add(1, Relaxed) as usize % FAILING;
            let fresh = Entry { tag: fingerprint.0, peers: [Some(index), None], opened: false, count: 1 };
            if let Some(entry) = self.entries.get(at) {
                entry.store(fresh.encode(), Relaxed);
            }
            return Verdict::Own;
        };
        match decoded.peers {
            [Some(first), None] if first == index => {
                let again = Entry { count: decoded.count.saturating_add(1).min(Entry::COUNT_MAX), ..decoded };
                // A lost race is one failure that is not taken back.
                let _ = entry.compare_exchange(word, again.encode(), Relaxed, Relaxed);
                Verdict::Own
            }
            [first, None] => {
                let both = Entry { peers: [first, Some(index)], ..decoded };
                let won = entry.compare_exchange(word, both.encode(), Relaxed, Relaxed).is_ok();
                Verdict::Elsewhere { take_back: won.then_some(decoded) }
            }
            _ => Verdict::Elsewhere { take_back: None },
        }
    }

    /// The failure that was noted last opened its peer's breaker.
    pub(super) fn note_opened(&self, fingerprint: Fingerprint) {
        if let Some((entry, word, decoded)) = self.find(fingerprint) {
            let opened = Entry { opened: true, ..decoded };
            let _ = entry.compare_exchange(word, opened.encode(), Relaxed, Relaxed);
        }
    }

    /// A peer has answered the request: its entry is gone.
    pub(super) fn take(&self, fingerprint: Fingerprint) -> Option<Entry> {
        let (entry, word, decoded) = self.find(fingerprint)?;
        entry.compare_exchange(word, 0, Relaxed, Relaxed).is_ok().then_some(decoded)
    }

    pub(super) fn is_recent(&self, now: MonoNs) -> bool {
        let at = self.at.load(Relaxed);
        at != 0 && now.since(MonoNs(at)) < RECENT_NS
    }

    /// Forgets all: the table's peers change.
    pub(super) fn reset(&self) {
        self.entries.iter().for_each(|entry| entry.store(0, SeqCst));
        self.at.store(0, SeqCst);
    }
}
