//! Short byte strings in shared memory: names, addresses.
//!
//! Words of atomics, so that a reader in another process never meets a data race; zeroed memory is
//! the empty string. A reader that runs while a writer changes the string may see a mix of both:
//! callers compare the record's generation before and after, or hold a ticket on the record, which
//! keeps it from changing. Never allocates on its own. Cost: one load per eight bytes.
//! Bound: `WORDS * 8` bytes; longer input is cut, so callers check the length first.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::array::Array;

/// A byte string of at most `WORDS * 8` bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Bytes<const WORDS: usize> {
    len: AtomicU32,
    spare: AtomicU32,
    words: Array<AtomicU64, WORDS>,
}

impl<const WORDS: usize> Bytes<WORDS> {
    /// The most bytes it can hold.
    pub const CAPACITY: usize = WORDS * 8;

    /// The number of bytes held.
    pub fn len(&self) -> usize {
        (self.len.load(Ordering::Acquire) as usize).min(Self::CAPACITY)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces the content by the first `CAPACITY` bytes of `bytes`.
    pub(crate) fn store(&self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(Self::CAPACITY)];
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)) {
            let mut raw = [0_u8; 8];
            raw[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(raw), Ordering::Release);
        }
        self.len.store(u32::try_from(bytes.len()).unwrap_or(0), Ordering::Release);
    }

    /// Copies the content into `out` and returns the filled part; what does not fit is cut.
    pub fn load<'o>(&self, out: &'o mut [u8]) -> &'o [u8] {
        let len = self.len().min(out.len());
        for (chunk, word) in out[..len].chunks_mut(8).zip(self.words.iter()) {
            let raw = word.load(Ordering::Acquire).to_le_bytes();
            let part = chunk.len();
            chunk.copy_from_slice(&raw[..part]);
        }
        &out[..len]
    }

    /// A copy on the heap: for status pages, not for the request path.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; Self::CAPACITY];
        let len = self.load(&mut out).len();
        out.truncate(len);
        out
    }

    /// Whether the content equals `bytes`.
    pub fn equals(&self, bytes: &[u8]) -> bool {
        self.len() == bytes.len()
            && self.words.iter().zip(bytes.chunks(8)).all(|(word, chunk)| {
                let raw = word.load(Ordering::Acquire).to_le_bytes();
                raw[..chunk.len()] == *chunk
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_up_to_the_capacity_comes_back_as_it_went_in() {
        let text = Bytes::<2>::default();
        let source = b"0123456789abcdef";
        for len in 0..=source.len() {
            text.store(&source[..len]);
            assert_eq!(text.to_vec(), &source[..len]);
            assert!(text.equals(&source[..len]));
            assert!(!text.equals(b"x"));
        }
    }

    #[test]
    fn a_longer_string_is_cut_and_a_shorter_buffer_gets_its_part() {
        let text = Bytes::<2>::default();
        text.store(b"0123456789abcdefgh");
        assert_eq!(text.to_vec(), b"0123456789abcdef");
        let mut three = [0; 3];
        assert_eq!(text.load(&mut three), b"012");
    }
}
