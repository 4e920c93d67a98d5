//! A digest and its text.
//!
//! Never allocates; both are plain values of a fixed size.

use super::Hashed;

/// Bytes of the longest digest.
pub const DIGEST_BYTES_MAX: usize = 32;

/// A body's digest, and what was hashed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    bytes: [u8; DIGEST_BYTES_MAX],
    len: u8,
    hashed: Hashed,
}

impl Digest {
    pub(super) fn new((bytes, len): ([u8; DIGEST_BYTES_MAX], usize), hashed: Hashed) -> Self {
        Self { bytes, len: u8::try_from(len.min(DIGEST_BYTES_MAX)).unwrap_or_default(), hashed }
    }

    /// 32 bytes for BLAKE3 and SHA-256, 16 for XXH3 (big endian).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The digest in lower-case hexadecimal, as the `…sum` tools print it.
    #[must_use]
    pub fn hex(&self) -> Hex {
        Hex::new(self.as_bytes())
    }

    /// What was in fact hashed. Digests of different kinds never agree.
    #[must_use]
    pub const fn hashed(&self) -> Hashed {
        self.hashed
    }
}

/// Up to 32 bytes in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex {
    ascii: [u8; 2 * DIGEST_BYTES_MAX],
    len: u8,
}

impl Hex {
    /// The text of `bytes`; what is beyond the first 32 is left out.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(DIGEST_BYTES_MAX);
        let mut all = [0; DIGEST_BYTES_MAX];
        all[..len].copy_from_slice(&bytes[..len]);
        let mut ascii = [0; 2 * DIGEST_BYTES_MAX];
        // All 32, without a branch or a table: the compiler makes a few vector instructions of it,
        // one by one they would be a thousand.
        for (pair, byte) in ascii.chunks_exact_mut(2).zip(all) {
            pair[0] = digit(byte >> 4);
            pair[1] = digit(byte & 15);
        }
        Self { ascii, len: u8::try_from(2 * len).unwrap_or_default() }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // always ASCII
        std::str::from_utf8(self.as_ref()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Hex {
    fn as_ref(&self) -> &[u8] {
        &self.ascii[..usize::from(self.len)]
    }
}

/// The digit of a number below 16.
const fn digit(number: u8) -> u8 {
    number + if number < 10 { b'0' } else { b'a' - 10 }
}
