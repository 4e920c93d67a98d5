//! Both tables in the words of the zone.
//!
//! Never checks what it is to write, never decides what a key is worth. Any words are a table.
//! Cost: a load for each word.

use core::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release, Ordering::SeqCst};

use super::image::Image;
use super::measures::{ENTRY_WORDS, HEAD_WORDS, capacity, half_words};

/// Both tables and the count.
pub(super) struct Table<'a>(pub &'a [AtomicU64]);

/// One of the tables.
pub(super) struct Half<'a> {
    pub words: &'a [AtomicU64],
    keys_max: usize,
}

impl<'a> Table<'a> {
    /// How often a table was put in force.
    pub fn head(&self) -> u64 {
        self.0.first().map_or(0, |head| head.load(SeqCst))
    }

    /// The table that is in force while the count is `head`.
    pub fn half(&self, head: u64) -> Half<'a> {
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
    pub fn count(&self) -> usize {
        usize::try_from(self.word(0)).unwrap_or(0).min(self.keys_max)
    }

    pub fn entry(&self, index: usize, word: usize) -> u64 {
        self.word(HEAD_WORDS + index * ENTRY_WORDS + word)
    }

    pub fn arena(&self, at: usize) -> u64 {
        self.word(HEAD_WORDS + self.keys_max * ENTRY_WORDS + at)
    }

    pub fn write(&self, image: &Image) {
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
