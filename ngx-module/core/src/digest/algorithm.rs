//! The three hash functions behind one streaming state, and the domains that keep forms of a body
//! apart.
//!
//! Which crate: those that choose SIMD at run time, since one module serves every machine of a
//! kind. `blake3` (O'Connor, Aumasson, Neves, Wilcox-O'Hearn 2020): AVX-512, AVX2, SSE4.1 or SSE2
//! (NEON on ARM). `sha2` (FIPS 180-4): SHA extensions where there are any. `twox-hash` (XXH3 with
//! 128 bits, Collet): AVX2 or SSE2 or NEON; `xxhash-rust` chooses at compile time, so it only
//! checks this one in the tests.
//!
//! A body in the domain [`Domain::Plain`] has the digest that `b3sum`, `sha256sum` and `xxh128sum`
//! print. No body there imitates another domain's: BLAKE3 uses its key derivation mode (paper,
//! section 2.3), whose flags enter every compression; XXH3 another seed; SHA-256, where a bare
//! prefix could be imitated by a plain body that begins with it, a prefix and a constant that is
//! XORed to the result.
//!
//! Cost: nothing beyond the hash functions' own. Bound: no allocation, below 2 KiB. Never knows
//! what it hashes.

use arrayvec::ArrayVec;
use sha2::{Digest as _, Sha256};
use twox_hash::xxhash3_128::{DEFAULT_SECRET_LENGTH, RawHasher, SecretBuffer};

use super::value::DIGEST_BYTES_MAX;

/// A hash function for bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// 256 bits; the default: no two bodies are known to collide, and the fastest of those for
    /// which that holds.
    Blake3,
    /// 256 bits, for those who must.
    Sha256,
    /// 128 bits; for trusted clients only, since colliding bodies can be made.
    Xxh3,
}

impl Algorithm {
    /// All of them, in the order of [`Algorithm::index`].
    pub const ALL: [Self; 3] = [Self::Blake3, Self::Sha256, Self::Xxh3];

    /// As written in the configuration and in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
            Self::Xxh3 => "xxh3",
        }
    }

    /// The algorithm of that name, exactly as written.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// A place in a table of counters, below `ALL.len()`. Cache keys are made with it: it never
    /// changes.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Blake3 => 0,
            Self::Sha256 => 1,
            Self::Xxh3 => 2,
        }
    }

    /// Characters of a digest in hexadecimal.
    #[must_use]
    pub const fn hex_len(self) -> usize {
        2 * self.digest_len()
    }

    /// Bytes of a digest.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Blake3 | Self::Sha256 => 32,
            Self::Xxh3 => 16,
        }
    }
}

/// What a digest is of. Two domains never give one digest, but by a collision of the hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    /// The body's bytes and nothing else.
    Plain,
    /// The name of a content coding, then the bytes.
    Coded,
    /// A JSON value in canonical form.
    Json,
    /// The members that do not count, then what is left of a JSON value in canonical form.
    JsonIgnoring,
    /// The parts of a multipart body.
    Multipart,
    /// The bytes of a body that could not be read.
    Unparsed,
    /// The two hashes of a body that should have been multipart.
    UnparsedMultipart,
}

impl Domain {
    /// The key derivation's context; never changes once it is in use, or every cached response is
    /// lost.
    const fn context(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Coded => "pincer body digest v1: content coding and bytes",
            Self::Json => "pincer body digest v1: canonical json",
            Self::JsonIgnoring => "pincer body digest v1: ignored members and canonical json",
            Self::Multipart => "pincer body digest v1: multipart parts",
            Self::Unparsed => "pincer body digest v1: bytes that could not be read",
            Self::UnparsedMultipart => "pincer body digest v1: contents and framing that are not multipart",
        }
    }

    /// XXH3's seed; 0 is the plain one. Any distinct numbers do: these are the first of the
    /// fractional digits of π, as in Blowfish.
    const fn seed(self) -> u64 {
        match self {
            Self::Plain => 0,
            Self::Coded => 0x243f_6a88_85a3_08d3,
            Self::Json => 0x1319_8a2e_0370_7344,
            Self::Multipart => 0xa409_3822_299f_31d0,
            Self::Unparsed => 0x082e_fa98_ec4e_6c89,
            Self::UnparsedMultipart => 0x4528_21e6_38d0_1377,
            Self::JsonIgnoring => 0xbe54_66cf_34e9_0c6c,
        }
    }
}

/// One hash function at work.
// All but the largest variant waste space on purpose: a request's state is allocated once, and a
// box would be a second allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub(super) enum Hasher {
    Blake3Start(Start),
    Blake3(blake3::Hasher),
    Sha256(Sha256, Domain),
    Xxh3(RawHasher<[u8; DEFAULT_SECRET_LENGTH]>),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm, domain: Domain) -> Self {
        match algorithm {
            Algorithm::Blake3 => Self::Blake3Start(Start { domain, bytes: ArrayVec::new() }),
            Algorithm::Sha256 => Self::Sha256(sha256(domain), domain),
            Algorithm::Xxh3 => match SecretBuffer::with_seed(domain.seed(), [0; DEFAULT_SECRET_LENGTH]) {
                Ok(secret) => Self::Xxh3(RawHasher::new(secret)),
                // not reached: the length is the one it asks for. A slower function is still a
                // right one
                Err(_) => Self::Sha256(sha256(domain), domain),
            },
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3Start(start) => {
                if start.bytes.try_extend_from_slice(bytes).is_err() {
                    *self = Self::Blake3(start.hasher_after(bytes));
                }
            }
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha256(hasher, _) => hasher.update(bytes),
            Self::Xxh3(hasher) => hasher.write(bytes),
        }
    }

    /// A number, so that what stands beside it is framed.
    pub(super) fn number(&mut self, number: u64) {
        self.update(&number.to_le_bytes());
    }

    /// The digest, zeroes behind it, and how many bytes it has.
    pub(super) fn finish(&self) -> ([u8; DIGEST_BYTES_MAX], usize) {
        let mut out = [0; DIGEST_BYTES_MAX];
        match self {
            Self::Blake3Start(start) => out = *start.hasher_after(&[]).finalize().as_bytes(),
            Self::Blake3(hasher) => out = *hasher.finalize().as_bytes(),
            Self::Sha256(hasher, domain) => {
                out = hasher.clone().finalize().into();
                if *domain != Domain::Plain {
                    let constant: [u8; 32] = Sha256::digest(domain.context()).into();
                    out.iter_mut().zip(constant).for_each(|(byte, other)| *byte ^= other);
                }
            }
            Self::Xxh3(hasher) => {
                // big endian: the order in which xxh128sum prints
                let bytes = hasher.finish_128().to_be_bytes();
                out[..bytes.len()].copy_from_slice(&bytes);
                return (out, bytes.len());
            }
        }
        (out, DIGEST_BYTES_MAX)
    }
}

/// What [`Hasher::finish`] gives for these bytes, with [`Algorithm::Blake3`] in [`Domain::Plain`].
pub(super) fn plain_blake3(bytes: &[u8]) -> ([u8; DIGEST_BYTES_MAX], usize) {
    (*blake3::hash(bytes).as_bytes(), DIGEST_BYTES_MAX)
}

/// The first bytes of a body for BLAKE3, kept until more come.
///
/// BLAKE3 is fast where it gets many of its chunks of 1,024 bytes at once, and only if they are as
/// many as divide what came before. The first part of a body may be small and odd (a client's first
/// chunk, a name before it); hashed by itself it makes what follows four times as slow.
#[derive(Clone)]
pub(super) struct Start {
    domain: Domain,
    bytes: ArrayVec<u8, START_BYTES>,
}

/// What is kept of a body's start: nginx reads headers, and what of a chunked body comes with them,
/// in buffers of 1 KiB.
const START_BYTES: usize = 1 << 10;
/// What is hashed at once with it: 16 of BLAKE3's chunks, so that those that follow begin evenly
/// too.
const TOGETHER_BYTES: usize = 16 << 10;

impl Start {
    /// The hasher after the start and `bytes`.
    fn hasher_after(&self, bytes: &[u8]) -> blake3::Hasher {
        let mut hasher = match self.domain {
            Domain::Plain => blake3::Hasher::new(),
            domain => blake3::Hasher::new_derive_key(domain.context()),
        };
        if self.bytes.is_empty() || bytes.is_empty() {
            hasher.update(&self.bytes).update(bytes);
            return hasher;
        }
        let mut together: ArrayVec<u8, TOGETHER_BYTES> = ArrayVec::new();
        let (first, rest) = bytes.split_at(bytes.len().min(TOGETHER_BYTES - self.bytes.len()));
        // Both fit: the bound is what was just subtracted from.
        let _ = together.try_extend_from_slice(&self.bytes);
        let _ = together.try_extend_from_slice(first);
        hasher.update(&together).update(rest);
        hasher
    }
}

fn sha256(domain: Domain) -> Sha256 {
    let mut hasher = Sha256::new();
    if domain != Domain::Plain {
        hasher.update((domain.context().len() as u64).to_le_bytes());
        hasher.update(domain.context());
    }
    hasher
}
