//! How the two tables lie in the words of the zone, and how many keys fit. Pure.

use super::cidr::Cidr;
use super::spec::{KEY_CIDRS_MAX, KEY_NAME_MAX};

/// Words of an entry: 4 of the hash, the deadline, the wall clock's second it stands for, and two
/// of places and lengths in the arena.
pub(super) const ENTRY_WORDS: usize = 8;
/// Words of the arena per entry: 32 bytes. Tenants and classes recur, and most keys have no blocks.
pub(super) const ARENA_WORDS_PER_KEY: usize = 4;
/// The arena of the smallest table holds one secret of the largest size.
pub(super) const ARENA_WORDS_LEAST: usize = 2 * KEY_NAME_MAX / 8 + KEY_CIDRS_MAX * Cidr::WORDS;
/// Words before the tables, of which the first is the count; and before the entries of each, of
/// which the first is their number. A cache line.
pub(super) const HEAD_WORDS: usize = 8;

/// Words of memory for `keys` secrets; a multiple of a cache line.
pub(in super::super) const fn words(keys: usize) -> usize {
    HEAD_WORDS + 2 * half_words(keys)
}

pub(super) const fn half_words(keys: usize) -> usize {
    HEAD_WORDS + keys * (ENTRY_WORDS + ARENA_WORDS_PER_KEY) + ARENA_WORDS_LEAST
}

/// Secrets that fit into `words`.
pub(super) const fn capacity(words: usize) -> usize {
    let least = HEAD_WORDS + ARENA_WORDS_LEAST;
    (words.saturating_sub(HEAD_WORDS) / 2).saturating_sub(least) / (ENTRY_WORDS + ARENA_WORDS_PER_KEY)
}

/// A hash as words that sort as its bytes do.
pub(super) fn words_of(sha256: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(sha256.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    words
}
