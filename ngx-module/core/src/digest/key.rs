//! One key for the cache from several fields.
//!
//! Injective: the number of fields, then each with its length before it, so ("ab", "c") and ("a",
//! "bc") differ, and no field can pretend to be the start of the next. Numbers are in LEB128 (as in
//! DWARF), a byte for most: BLAKE3 works on short texts block by block, 64 bytes in 0.1 µs, and
//! lengths of eight bytes would be most of the text. In its keyed mode (paper, section 2.3), whose
//! flag enters every compression, it makes 32 bytes of it, in a domain that no body's digest
//! shares.
//!
//! Fields that are mostly the same from one request to the next make a [`KeyContext`], whose own
//! key the others are hashed under: it is kept until they change, so that most requests cost a
//! block or two.
//!
//! Cost: 0.1 to 0.5 µs for a request's fields. Never allocates.

use arrayvec::ArrayVec;
use data_encoding::BASE32_DNSSEC;
use std::sync::LazyLock;

/// Neither this nor what is hashed changes once it is in use, or every cached response is lost.
const CONTEXT: &str = "pincer cache key v1: number of fields, each field's length and bytes";

/// Most keys' fields are shorter in all.
const GATHERED_BYTES: usize = 512;
/// Of the greatest number.
const LEB128_BYTES_MAX: usize = usize::BITS.div_ceil(7) as usize;

static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key(CONTEXT, &[]));

/// The key of `fields`, in their order. Fields may be empty, and there may be none.
#[must_use]
pub fn cache_key(fields: &[&[u8]]) -> [u8; 32] {
    key_under(&KEY, fields)
}

/// The part of keys that rarely changes. Bound: 0.6 KiB.
#[derive(Debug, Default)]
pub struct KeyContext {
    /// Of the last fields, as they were hashed; empty if that was too long.
    text: ArrayVec<u8, GATHERED_BYTES>,
    key: [u8; 32],
}

impl KeyContext {
    /// The key of `fields` in the context of `stable_fields`: as of both together, each in its
    /// order, and injective in both.
    #[must_use]
    pub fn key(&mut self, stable_fields: &[&[u8]], fields: &[&[u8]]) -> [u8; 32] {
        let mut room = [0; GATHERED_BYTES];
        match gather(stable_fields, &mut room) {
            Some(text) if *text == *self.text => {}
            Some(text) => {
                self.key = *blake3::keyed_hash(&KEY, text).as_bytes();
                self.text.clear();
                // It fits: both are of one size.
                let _ = self.text.try_extend_from_slice(text);
            }
            None => {
                self.key = long(&KEY, stable_fields);
                self.text.clear();
            }
        }
        key_under(&self.key, fields)
    }
}

fn key_under(key: &[u8; 32], fields: &[&[u8]]) -> [u8; 32] {
    let mut room = [0; GATHERED_BYTES];
    match gather(fields, &mut room) {
        Some(text) => *blake3::keyed_hash(key, text).as_bytes(),
        None => long(key, fields),
    }
}

/// What is to be hashed, in one piece, since BLAKE3 is slow with crumbs and its streaming state is
/// 2 KiB; `None` if it is too long for `room`.
fn gather<'r>(fields: &[&[u8]], room: &'r mut [u8; GATHERED_BYTES]) -> Option<&'r [u8]> {
    let mut at = put(room, 0, fields.len())?;
    for field in fields {
        at = put(room, at, field.len())?;
        if !field.is_empty() {
            let end = at + field.len();
            room.get_mut(at..end)?.copy_from_slice(field);
            at = end;
        }
    }
    room.get(..at)
}

/// Writes a number at `at`, and says where it ends.
fn put(room: &mut [u8], at: usize, number: usize) -> Option<usize> {
    if number < 0x80 {
        *room.get_mut(at)? = number.to_le_bytes()[0];
        return Some(at + 1);
    }
    let number = leb128(number);
    room.get_mut(at..at + number.len())?.copy_from_slice(&number);
    Some(at + number.len())
}

#[cold]
fn long(key: &[u8; 32], fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&leb128(fields.len()));
    for field in fields {
        hasher.update(&leb128(field.len())).update(field);
    }
    *hasher.finalize().as_bytes()
}

/// Characters of [`key_text`]. With up to 55 nginx's MD5 of a key is one block, with the 64 of
/// hexadecimal it would be two, 0.15 µs for every request.
pub const KEY_TEXT_BYTES: usize = 52;

/// A key as text: base 32 with the digits 0 to v (RFC 5155, section 1.3), in lower case, without
/// padding.
#[must_use]
pub fn key_text(key: &[u8; 32]) -> [u8; KEY_TEXT_BYTES] {
    let mut text = [0; KEY_TEXT_BYTES];
    BASE32_DNSSEC.encode_mut(key, &mut text);
    text
}

/// What stands for `field` in a key that has `whole` too: its length and nothing if `whole` begins
/// with it, else 0 and the field itself. Only an empty field has neither. Hosts and URIs come
/// twice, as the client wrote them and as they were understood, and are mostly the same.
#[must_use]
pub fn abbreviated<'f>(field: &'f [u8], whole: &[u8]) -> ([u8; 2], &'f [u8]) {
    match u16::try_from(field.len()) {
        Ok(len) if whole.starts_with(field) => (len.to_be_bytes(), &[]),
        _ => ([0; 2], field),
    }
}

/// Seven bits a byte, the lowest first; all but the last byte have the eighth set. No number's
/// bytes begin another's.
fn leb128(mut number: usize) -> ArrayVec<u8, LEB128_BYTES_MAX> {
    let mut bytes = ArrayVec::new();
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Hashed};
    use super::{
        BASE32_DNSSEC, GATHERED_BYTES, KEY_TEXT_BYTES, KeyContext, abbreviated, cache_key, gather, key_text, leb128,
        long,
    };

    #[test]
    fn the_numbers_that_keys_are_made_with_stay() {
        let algorithms = [Algorithm::Blake3, Algorithm::Sha256, Algorithm::Xxh3].map(Algorithm::index);
        let forms = [Hashed::Raw, Hashed::Json, Hashed::Multipart, Hashed::Unparsed].map(Hashed::index);
        assert_eq!((algorithms, forms), ([0, 1, 2], [0, 1, 2, 3]));
    }

    #[test]
    fn a_key_is_the_same_in_one_piece_and_in_many() {
        let all = vec![b'x'; 2 * GATHERED_BYTES];
        for len in (0..300).chain(GATHERED_BYTES - 9..GATHERED_BYTES + 9) {
            let fields: [&[u8]; 4] = [b"", &all[..len / 2], b"y", &all[len / 2..len]];
            let (key, mut room) = ([7; 32], [0; GATHERED_BYTES]);
            match gather(&fields, &mut room) {
                Some(text) => assert_eq!(*blake3::keyed_hash(&key, text).as_bytes(), long(&key, &fields), "{len}"),
                None => assert!(len + 6 > GATHERED_BYTES - 4, "{len}"),
            }
        }
    }

    #[test]
    fn a_context_answers_the_same_whatever_it_was_asked_before() {
        let long = vec![b'x'; 5000];
        let contexts: [&[&[u8]]; 5] = [&[], &[b"a"], &[b"a", b""], &[&long], &[&long, b"a"]];
        let keys =
            |context: &mut KeyContext| contexts.map(|stable_fields| context.key(stable_fields, &[b"field", &long]));
        let fresh = contexts.map(|stable_fields| KeyContext::default().key(stable_fields, &[b"field", &long]));
        let mut kept = KeyContext::default();
        assert_eq!((keys(&mut kept), keys(&mut kept)), (fresh, fresh));
        for stable_fields in contexts {
            assert_eq!(kept.key(stable_fields, &[b"field"]), kept.key(stable_fields, &[b"field"]));
            assert_ne!(kept.key(stable_fields, &[b"field"]), kept.key(stable_fields, &[b"fiel", b"d"]));
            assert_ne!(kept.key(stable_fields, &[]), cache_key(&[]));
        }
        let different: std::collections::HashSet<_> = fresh.into_iter().collect();
        assert_eq!(different.len(), contexts.len());
    }

    #[test]
    fn a_key_s_text_is_of_its_length_and_gives_it_back() {
        assert_eq!(BASE32_DNSSEC.encode_len(32), KEY_TEXT_BYTES);
        let key = std::array::from_fn(|at| u8::try_from(at * 7 + 3).unwrap());
        assert_eq!(BASE32_DNSSEC.decode_len(KEY_TEXT_BYTES), Ok(32));
        let mut decoded = [0; 32];
        assert_eq!(BASE32_DNSSEC.decode_mut(&key_text(&key), &mut decoded), Ok(32));
        assert_eq!(decoded, key);
        assert_eq!(key_text(&[0xff; 32]), *b"vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvg");
    }

    #[test]
    fn numbers_are_written_seven_bits_a_byte() {
        let written = |number| leb128(number).to_vec();
        assert_eq!(written(0), [0]);
        assert_eq!(written(127), [0x7f]);
        assert_eq!(written(128), [0x80, 0x01]);
        assert_eq!(written(624_485), [0xe5, 0x8e, 0x26]);
        assert_eq!(written(usize::MAX), [0xff; 9].into_iter().chain([1]).collect::<Vec<u8>>());
    }

    #[test]
    fn a_field_that_begins_another_is_told_by_its_length() {
        assert_eq!(abbreviated(b"/a", b"/a?b"), ([0, 2], &b""[..]));
        assert_eq!(abbreviated(b"/b", b"/a?b"), ([0, 0], &b"/b"[..]));
        assert_eq!(abbreviated(b"", b"/a"), ([0, 0], &b""[..]));
        let (short, long) = (vec![b'a'; usize::from(u16::MAX)], vec![b'a'; usize::from(u16::MAX) + 1]);
        assert_eq!(abbreviated(&short, &long), ([0xff; 2], &b""[..]));
        assert_eq!(abbreviated(&long, &long), ([0, 0], &long[..]));
    }
}
