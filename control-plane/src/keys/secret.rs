//! Makes secrets of API keys: `pk_`, 256 random bits as 43 characters, and 6 characters of a
//! checksum. By the checksum, scanners and people tell a secret from a typo offline (as with
//! GitHub's tokens, 2021).
//!
//! The code that makes a secret passes it on at once and keeps only its hash. `Debug` does not show
//! the secret, and there is no `Display`. Cost: a call of the system's randomness.

use std::fmt;

use rand::{TryRngCore as _, rngs::OsRng};
use sha2::{Digest as _, Sha256};

use super::Hash;

/// What every secret starts with.
pub const PREFIX: &str = "pk_";

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Digits that 256 bits need.
const RANDOM_DIGITS: usize = 43;
/// Digits that 32 bits need.
const CHECK_DIGITS: usize = 6;
/// Characters of an id that was made up: 60 bits, so that it names one key of many for ever.
const ID_CHARS: usize = 12;

/// The system provides no random numbers. The machine's fault.
#[derive(Debug, thiserror::Error)]
#[error("the system has no random numbers: {0}")]
pub struct NoRandomness(#[from] rand::rand_core::OsError);

/// A secret.
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new secret.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut random = [0; 32];
        OsRng.try_fill_bytes(&mut random)?;
        Ok(Self::of(random))
    }

    fn of(random: [u8; 32]) -> Self {
        let mut text = String::with_capacity(PREFIX.len() + RANDOM_DIGITS + CHECK_DIGITS);
        text.push_str(PREFIX);
        push_digits(&mut text, &random, RANDOM_DIGITS);
        let check = crc32(text.as_bytes());
        push_digits(&mut text, &check.to_be_bytes(), CHECK_DIGITS);
        Self(text)
    }

    /// The hash, which is stored.
    pub fn hash(&self) -> Hash {
        Hash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The secret itself, for the one response that shows it.
    pub fn reveal(self) -> String {
        self.0
    }
}

/// A name for a key whose operator gave none: letters and digits that are hard to mix up.
pub fn make_id() -> Result<String, NoRandomness> {
    const CHARS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; ID_CHARS];
    OsRng.try_fill_bytes(&mut random)?;
    Ok(random.iter().map(|byte| char::from(CHARS[usize::from(byte % 32)])).collect())
}

/// Appends the big-endian number `bytes` in base 62, with leading zeros.
fn push_digits(text: &mut String, bytes: &[u8], digits: usize) {
    let mut number = bytes.to_vec();
    let mut reversed = Vec::with_capacity(digits);
    for _ in 0..digits {
        let rest = number.iter_mut().fold(0_u16, |carry, byte| {
            let value = carry << 8 | u16::from(*byte);
            // The quotient is below 256, since the carry is below 62.
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            value % 62
        });
        reversed.push(char::from(DIGITS[usize::from(rest)]));
    }
    text.extend(reversed.iter().rev());
}

/// CRC-32 as in zip and PNG (ISO 3309), bit by bit: 46 bytes a key need no table.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_secret_has_its_prefix_its_length_and_its_checksum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        for secret in [Secret::of([0; 32]), Secret::of([255; 32]), Secret::generate().unwrap()] {
            let hash = secret.hash();
            let text = secret.reveal();
            assert_eq!(hash, Hash(Sha256::digest(&text).into()));
            assert_eq!(text.len(), 52);
            let (body, check) = text.split_at(46);
            assert!(body.strip_prefix("pk_").unwrap().bytes().all(|byte| byte.is_ascii_alphanumeric()));
            let mut again = String::new();
            push_digits(&mut again, &crc32(body.as_bytes()).to_be_bytes(), CHECK_DIGITS);
            assert_eq!(check, again);
        }
        assert!(Secret::of([0; 32]).reveal().starts_with(&format!("pk_{}", "0".repeat(43))));
    }

    #[test]
    fn all_256_bits_are_in_the_secret_and_no_two_are_the_same() {
        let mut seen = BTreeSet::new();
        for bit in 0..256 {
            let mut random = [0; 32];
            random[bit / 8] = 1 << (bit % 8);
            assert!(seen.insert(Secret::of(random).reveal()[..46].to_owned()));
        }
        assert!((0..100).all(|_| seen.insert(Secret::generate().unwrap().reveal())));
        assert!((0..100).all(|_| seen.insert(make_id().unwrap())));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::of([7; 32]);
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret Secret");
    }
}
