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

/// Each byte's two digits: a look-up for each, where those of a key would be a thousand instructions one by one.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

impl Hex {
    /// The text of `bytes`; what is beyond the first 32 is left out.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(DIGEST_BYTES_MAX)];
        let mut hex =
            Self { ascii: [b'0'; 2 * DIGEST_BYTES_MAX], len: u8::try_from(2 * bytes.len()).unwrap_or_default() };
        for (pair, byte) in hex.ascii.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
        }
        hex
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
