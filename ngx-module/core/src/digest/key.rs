//! One key for the cache from several fields.
//!
//! Injective: the number of fields, then each with its length before it, so ("ab", "c") and ("a", "bc") differ, and no field can pretend to be
//! the start of the next. Numbers are in LEB128 (as in DWARF), a byte for most: BLAKE3 works on short texts block by block, 64 bytes in 0.1 µs, and lengths of eight
//! bytes would be most of the text. In its keyed mode (paper, section 2.3), whose flag enters every compression, it makes 32 bytes of it, in a domain that no body's digest shares.
//!
//! Cost: 0.2 to 0.5 µs for a request's fields. Never allocates.

use arrayvec::ArrayVec;
use std::sync::LazyLock;

/// Never changes once it is in use, or every cached answer is lost.
const CONTEXT: &str = "pincer cache key v1: number of fields, each field's length and bytes";

/// Most keys' fields are shorter in all.
const GATHERED_BYTES: usize = 1 << 10;

/// The key of `fields`, in their order. Fields may be empty, and there may be none.
#[must_use]
pub fn cache_key(fields: &[&[u8]]) -> [u8; 32] {
    static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key(CONTEXT, &[]));
    // Gathered and hashed at once, since BLAKE3 is slow with crumbs and its streaming state is 2 KiB.
    let mut text: ArrayVec<u8, GATHERED_BYTES> = ArrayVec::new();
    let mut long: Option<blake3::Hasher> = None;
    let mut add = |bytes: &[u8]| {
        if text.try_extend_from_slice(bytes).is_err() {
            long.get_or_insert_with(|| blake3::Hasher::new_keyed(&KEY)).update(&text).update(bytes);
            text.clear();
        }
    };
    add(&leb128(fields.len()));
    for field in fields {
        add(&leb128(field.len()));
        add(field);
    }
    match long {
        None => *blake3::keyed_hash(&KEY, &text).as_bytes(),
        Some(mut hasher) => *hasher.update(&text).finalize().as_bytes(),
    }
}

/// Seven bits a byte, the lowest first; all but the last byte have the eighth set. No number's bytes begin another's.
fn leb128(mut number: usize) -> ArrayVec<u8, { usize::BITS.div_ceil(7) as usize }> {
    let mut bytes = ArrayVec::new();
    loop {
        let more = number >> 7;
        let low = number.to_le_bytes()[0] & 0x7f;
        bytes.push(if more == 0 { low } else { low | 0x80 });
        if more == 0 {
            return bytes;
        }
        number = more;
    }
}

#[cfg(test)]
mod tests {
    use super::leb128;

    #[test]
    fn numbers_are_written_seven_bits_a_byte() {
        assert_eq!(leb128(0).as_slice(), [0]);
        assert_eq!(leb128(127).as_slice(), [0x7f]);
        assert_eq!(leb128(128).as_slice(), [0x80, 0x01]);
        assert_eq!(leb128(624_485).as_slice(), [0xe5, 0x8e, 0x26]);
        assert_eq!(leb128(usize::MAX).as_slice(), [0xff; 9].into_iter().chain([1]).collect::<Vec<u8>>());
    }
}
