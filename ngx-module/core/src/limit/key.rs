//! The hash under which the tables know a key: SipHash-1-3 of 128 bits, keyed with the zone's
//! secret.
//!
//! Keys come from clients (addresses, header fields), and who could make two collide could spend
//! another one's allowance. XXH3 is faster, but no secret makes it a pseudo-random function: pairs
//! that collide for a good part of all seeds are known. SipHash (Aumasson and Bernstein 2012) is
//! made for hash tables under attack; 1-3 is what Rust's own tables use. Two keys share an entry by
//! accident with a chance below 2^-64 for each pair.
//! Cost: about 1 ns a byte after 15 ns. Bound: none.

use core::hash::Hasher;
use siphasher::sip128::{Hasher128, SipHasher13};

/// A key's hash: for the tables, all that there is of it. Never the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash {
    /// What tells keys apart.
    pub(crate) tag: u64,
    /// Where to look.
    pub(crate) place: u64,
}

impl KeyHash {
    /// The hash of `key` with the zone's secret ([`crate::zone::Header::secret`]). The empty key is
    /// a key as any other: all share it.
    #[must_use]
    pub fn new(secret: [u64; 2], key: &[u8]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(secret[0], secret[1]);
        hasher.write(key);
        let hash = hasher.finish128();
        Self { tag: hash.h1, place: hash.h2 }
    }

    /// The hash of several parts, each with its length: no other parts run into the same bytes.
    #[must_use]
    pub fn of_parts(secret: [u64; 2], parts: &[&[u8]]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(secret[0], secret[1]);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        let hash = hasher.finish128();
        Self { tag: hash.h1, place: hash.h2 }
    }

    /// The hash of the key within one life of one class: `salt` differs for each.
    #[inline]
    pub(crate) fn within(self, salt: u64) -> Self {
        Self { tag: self.tag.wrapping_add(salt), place: self.place.wrapping_add(salt) }
    }

    /// Which of `count` sets the key belongs to.
    #[inline]
    pub(crate) fn index(self, count: usize) -> usize {
        let wide = u128::from(self.place) * count as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_decides_where_a_key_lies() {
        let hash = |secret, key: &str| KeyHash::new(secret, key.as_bytes());
        assert_eq!(hash([1, 2], "10.0.0.1"), hash([1, 2], "10.0.0.1"));
        assert_ne!(hash([1, 2], "10.0.0.1"), hash([1, 3], "10.0.0.1"));
        assert_ne!(hash([1, 2], "10.0.0.1"), hash([1, 2], "10.0.0.2"));
        assert_ne!(hash([1, 2], "a").within(1), hash([1, 2], "a").within(2));
    }

    #[test]
    fn every_set_gets_its_part_of_the_keys() {
        let mut counts = [0_u32; 37];
        for key in 0..37_000_u32 {
            counts[KeyHash::new([5, 9], &key.to_le_bytes()).within(77).index(37)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
