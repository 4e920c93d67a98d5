//! The reader's side of the key table.

use core::hint::black_box;
use core::net::IpAddr;

use arrayvec::ArrayVec;

use super::cidr::Cidr;
use super::measures::words_of;
use super::spec::{KEY_CIDRS_MAX, KEY_NAME_MAX, KeyName, KeyVerdict};
use super::table::{Half, Table};
use crate::time::MonoNs;

/// How often a look-up begins anew because the tables were changed meanwhile. Each time takes a
/// whole publication within a few hundred nanoseconds; after that many the key counts as unknown.
const TRIES: usize = 64;

impl Table<'_> {
    pub(super) fn find(&self, sha256: &[u8; 32], addr: IpAddr, now: MonoNs) -> KeyVerdict {
        let hash = words_of(sha256);
        for _ in 0..TRIES {
            let head = self.head();
            let verdict = self.half(head).find(&hash, addr, now);
            if self.head() == head {
                return verdict;
            }
        }
        KeyVerdict::Unknown
    }
}

impl Half<'_> {
    fn find(&self, hash: &[u64; 4], addr: IpAddr, now: MonoNs) -> KeyVerdict {
        let Some(index) = self.position(hash) else { return KeyVerdict::Unknown };
        let deadline = self.entry(index, 4);
        if deadline != 0 && now.0 >= deadline {
            return KeyVerdict::Expired;
        }
        let (texts, rest) = (self.entry(index, 6), self.entry(index, 7));
        let byte = |at: u32| usize::try_from(rest >> at & 0xff).unwrap_or(0);
        let (texts_low, texts_high, cidrs_at) = (low(texts), low(texts >> 32), low(rest));
        let count = byte(48).min(KEY_CIDRS_MAX);
        let allows = |n: usize| self.cidr(cidrs_at.saturating_add(n * Cidr::WORDS)).contains(addr);
        if count > 0 && !(0..count).any(allows) {
            return KeyVerdict::Forbidden;
        }
        KeyVerdict::Found { tenant: self.text(texts_low, byte(32)), class: self.text(texts_high, byte(40)) }
    }

    /// The deadline that the secret of this hash has, if it is there with this end.
    pub(super) fn deadline(&self, hash: &[u64; 4], wall_s: u64) -> Option<u64> {
        let index = self.position(hash)?;
        (self.entry(index, 5) == wall_s).then(|| self.entry(index, 4)).filter(|deadline| *deadline != 0)
    }

    fn position(&self, hash: &[u64; 4]) -> Option<usize> {
        let count = self.count();
        let (mut from, mut to) = (0, count);
        while from < to {
            let middle = from.midpoint(to);
            if self.entry(middle, 0) < hash[0] { from = middle + 1 } else { to = middle }
        }
        (from..count).take_while(|&index| self.entry(index, 0) == hash[0]).find(|&index| self.is(index, hash))
    }

    /// Compares all of the hash, in the same time whatever differs.
    fn is(&self, index: usize, hash: &[u64; 4]) -> bool {
        let difference = (0..4).fold(0, |seen, word| black_box(seen | (self.entry(index, word) ^ hash[word])));
        difference == 0
    }

    fn text(&self, at: usize, bytes: usize) -> KeyName {
        let bytes = bytes.min(KEY_NAME_MAX);
        let mut text = ArrayVec::new();
        for n in 0..bytes.div_ceil(8) {
            let word = self.arena(at.saturating_add(n)).to_le_bytes();
            // There is room: no more than `KEY_NAME_MAX` bytes are read.
            let _ = text.try_extend_from_slice(&word[..8.min(bytes - n * 8)]);
        }
        text
    }

    fn cidr(&self, at: usize) -> Cidr {
        Cidr::from_words([0, 1, 2].map(|n| self.arena(at.saturating_add(n))))
    }
}

fn low(word: u64) -> usize {
    usize::try_from(word & 0xffff_ffff).unwrap_or(0)
}
