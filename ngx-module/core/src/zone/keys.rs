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
//! what [`Zone::keys_capacity`] says.

mod cidr;
mod find;
mod image;
mod measures;
mod spec;
mod table;

use core::net::IpAddr;
use core::sync::atomic::Ordering::SeqCst;

use measures::capacity;
use table::Table;

use super::Zone;
use crate::time::MonoNs;

pub use cidr::Cidr;
pub use image::KeysError;
pub(super) use measures::words;
pub use spec::{KEY_CIDRS_MAX, KEY_NAME_MAX, KEYS_MAX, KeyExpiry, KeyName, KeySpec, KeyVerdict};

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
