//! The API keys in force: who holds a key, its class, from where and until when, found by the
//! SHA-256 of the secret.
//!
//! Two tables lie side by side; the parity of a count says which one is in force. The one writer
//! (the feed's holder, under the caller's lock) fills the other and then raises the count, in one
//! store. A reader notes the count, reads, and takes what it read only if the count stands: a table
//! is written again only after the count has moved on (a seqlock, Lameter 2005, with the writer on
//! the other side of the fence). So readers take no lock and allocate nothing, and a writer that
//! dies at any point leaves the old table in force. Never holds a secret, only hashes. Secrets are
//! sorted by hash and searched by halves: whoever tries hashes learns from the time nothing but a
//! few bits of a hash of 256 random bits; the comparison that decides takes the same time for all.
//! Texts and blocks are kept once each, in an arena behind the entries.
//! Cost: a look-up reads one word per doubling of the keys, then one entry. Bound: [`KEYS_MAX`] and
//! what [`capacity`] finds room for.

mod cidr;
mod find;
mod image;

use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release, Ordering::SeqCst};

use arrayvec::ArrayVec;

use super::Zone;
use crate::time::MonoNs;

pub use cidr::Cidr;
pub use image::KeysError;

/// Secrets in the largest table.
pub const KEYS_MAX: usize = 8_192;

/// Bytes of a tenant's or a class' name.
pub const KEY_NAME_MAX: usize = 64;

/// Blocks of addresses of one secret.
pub const KEY_CIDRS_MAX: usize = 16;

/// Words of an entry: 4 of the hash, the deadline, the wall clock's second it stands for, and two
/// of places and lengths in the arena.
const ENTRY_WORDS: usize = 8;
/// Words of the arena per entry: 32 bytes. Tenants and classes recur, and most keys have no blocks.
const ARENA_WORDS_PER_KEY: usize = 4;
/// The arena of the smallest table holds one secret of the largest size.
const ARENA_WORDS_LEAST: usize = 2 * KEY_NAME_MAX / 8 + KEY_CIDRS_MAX * Cidr::WORDS;
/// Words before the tables, of which the first is the count; and before the entries of each, of
/// which the first is their number. A cache line.
const HEAD_WORDS: usize = 8;

/// A tenant's or a class' name.
pub type KeyName = ArrayVec<u8, KEY_NAME_MAX>;

/// What a presented secret is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyVerdict {
    /// It is valid.
    Found {
        /// Who holds it.
        tenant: KeyName,
        /// The class of its requests; the zone need not have it.
        class: KeyName,
    },
    /// No key has this secret.
    Unknown,
    /// Its time is over.
    Expired,
    /// It may not be used from this address.
    Forbidden,
}

/// When a secret ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExpiry {
    /// By the wall clock, in seconds since 1970: tells whether it is the same end as before.
    pub wall_s: u64,
    /// The same moment by the monotonic clock, as far as the caller can tell. Kept from the first
    /// time on: a later step of the wall clock moves nothing.
    pub deadline: MonoNs,
}

/// A secret to be published.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec<'a> {
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
    /// 1 to [`KEY_NAME_MAX`] bytes.
    pub tenant: &'a [u8],
    /// 1 to [`KEY_NAME_MAX`] bytes.
    pub class: &'a [u8],
    /// At most [`KEY_CIDRS_MAX`]; none = from anywhere.
    pub cidrs: &'a [Cidr],
    /// `None` = never.
    pub expires: Option<KeyExpiry>,
}

/// Words of memory for `keys` secrets; a multiple of a cache line.
pub(super) const fn words(keys: usize) -> usize {
    HEAD_WORDS + 2 * half_words(keys)
}

const fn half_words(keys: usize) -> usize {
    HEAD_WORDS + keys * (ENTRY_WORDS + ARENA_WORDS_PER_KEY) + ARENA_WORDS_LEAST
}

/// Secrets that fit into `words`.
const fn capacity(words: usize) -> usize {
    let least = HEAD_WORDS + ARENA_WORDS_LEAST;
    (words.saturating_sub(HEAD_WORDS) / 2).saturating_sub(least) / (ENTRY_WORDS + ARENA_WORDS_PER_KEY)
}

impl Zone<'_> {
    /// What the secret whose SHA-256 this is is worth, for a client at `addr`. For any worker, at
    /// any time.
    ///
    /// An IPv4 address mapped into IPv6 counts as the IPv4 address. Without a control plane all are
    /// unknown.
    pub fn key_find(&self, sha256: &[u8; 32], addr: IpAddr, now: MonoNs) -> KeyVerdict {
        Table(self.keys).find(sha256, addr, now)
    }

    /// Secrets in force.
    pub fn keys_count(&self) -> usize {
        let table = Table(self.keys);
        table.half(table.head()).count()
    }

    /// Secrets that the zone has room for.
    pub fn keys_capacity(&self) -> usize {
        capacity(self.keys.len())
    }

    /// Whether [`Zone::keys_publish`] would take them. Changes nothing.
    pub fn keys_check(&self, keys: &[KeySpec<'_>]) -> Result<(), KeysError> {
        self.keys_image(keys).map(drop)
    }

    /// Puts these secrets in the place of all before, at once for every worker; on an error all is
    /// as it was.
    ///
    /// By the feed's holder, under the caller's lock. A secret that was there with the same end
    /// keeps its deadline.
    pub fn keys_publish(&self, keys: &[KeySpec<'_>]) -> Result<(), KeysError> {
        let image = self.keys_image(keys)?;
        let table = Table(self.keys);
        let next = table.head().wrapping_add(1);
        table.half(next).write(&image);
        if let Some(head) = self.keys.first() {
            head.store(next, SeqCst);
        }
        Ok(())
    }

    fn keys_image(&self, keys: &[KeySpec<'_>]) -> Result<image::Image, KeysError> {
        let table = Table(self.keys);
        let half = table.half(table.head());
        image::Image::of(keys, capacity(self.keys.len()), |hash, wall_s| half.deadline(hash, wall_s))
    }
}

/// Both tables and the count.
struct Table<'a>(&'a [AtomicU64]);

/// One of the tables.
struct Half<'a> {
    words: &'a [AtomicU64],
    keys_max: usize,
}

impl<'a> Table<'a> {
    /// How often a table was put in force.
    fn head(&self) -> u64 {
        self.0.first().map_or(0, |head| head.load(SeqCst))
    }

    /// The table that is in force while the count is `head`.
    fn half(&self, head: u64) -> Half<'a> {
        let keys_max = capacity(self.0.len());
        let words = half_words(keys_max);
        let from = HEAD_WORDS + if head.is_multiple_of(2) { 0 } else { words };
        Half { words: self.0.get(from..from + words).unwrap_or(&[]), keys_max }
    }
}

impl Half<'_> {
    fn word(&self, at: usize) -> u64 {
        // With the writer's Release: whoever reads a word of the next table sees that the count has
        // moved on.
        self.words.get(at).map_or(0, |word| word.load(Acquire))
    }

    /// Entries; never more than fit, whatever the memory says.
    fn count(&self) -> usize {
        usize::try_from(self.word(0)).unwrap_or(0).min(self.keys_max)
    }

    fn entry(&self, index: usize, word: usize) -> u64 {
        self.word(HEAD_WORDS + index * ENTRY_WORDS + word)
    }

    fn arena(&self, at: usize) -> u64 {
        self.word(HEAD_WORDS + self.keys_max * ENTRY_WORDS + at)
    }

    fn write(&self, image: &image::Image) {
        let entries = image.entries.iter().flatten().enumerate().map(|(at, word)| (HEAD_WORDS + at, *word));
        let arena_at = HEAD_WORDS + self.keys_max * ENTRY_WORDS;
        let arena = image.arena.iter().enumerate().map(|(at, word)| (arena_at + at, *word));
        for (at, word) in entries.chain(arena).chain([(0, image.entries.len() as u64)]) {
            if let Some(place) = self.words.get(at) {
                place.store(word, Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::HeapZone;

    #[test]
    fn the_words_of_a_layout_hold_as_many_keys_as_they_were_reserved_for() {
        for keys in [0, 1, 20, 1_000, KEYS_MAX] {
            assert_eq!(capacity(words(keys)), keys);
            assert_eq!(words(keys) % 8, 0);
        }
        assert_eq!((capacity(0), capacity(7)), (0, 0));
    }

    #[test]
    fn a_writer_that_dies_half_way_leaves_the_old_table_in_force() {
        let heap = HeapZone::new(1, 4);
        let zone = heap.zone();
        let key = |byte| KeySpec { sha256: [byte; 32], tenant: b"acme", class: b"vip", cidrs: &[], expires: None };
        let (addr, now) = (IpAddr::from([127, 0, 0, 1]), MonoNs(1));
        zone.keys_publish(&[key(1)]).unwrap();
        let image = zone.keys_image(&[key(2), key(3)]).unwrap();
        let next = Table(zone.keys).half(Table(zone.keys).head() + 1);
        for written in 0..next.words.len() {
            // Each prefix of its stores, with garbage after it.
            next.write(&image);
            next.words[written..].iter().for_each(|word| word.store(u64::MAX, SeqCst));
            assert!(matches!(zone.key_find(&[1; 32], addr, now), KeyVerdict::Found { .. }));
            assert_eq!(zone.key_find(&[2; 32], addr, now), KeyVerdict::Unknown);
        }
        zone.keys_publish(&[key(2), key(3)]).unwrap();
        assert_eq!(zone.key_find(&[1; 32], addr, now), KeyVerdict::Unknown);
        assert!(matches!(zone.key_find(&[3; 32], addr, now), KeyVerdict::Found { .. }));
        assert_eq!(zone.keys_count(), 2);
    }

    #[test]
    fn garbage_in_the_memory_is_no_panic_and_finds_nothing() {
        let heap = HeapZone::new(1, 4);
        let zone = heap.zone();
        for garbage in [u64::MAX, 1 << 63, 0x0101_0101_0101_0101] {
            zone.keys.iter().for_each(|word| word.store(garbage, SeqCst));
            assert!(zone.keys_count() <= zone.keys_capacity());
            assert_eq!(zone.key_find(&[7; 32], IpAddr::from([10, 0, 0, 1]), MonoNs(1)), KeyVerdict::Unknown);
            zone.key_find(&garbage.to_be_bytes().repeat(4).try_into().unwrap(), IpAddr::from([0; 16]), MonoNs(1));
        }
    }
}
