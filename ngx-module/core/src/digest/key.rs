//! One key for the cache from several fields.
//!
//! Injective: the number of fields, then each with its length before it, so ("ab", "c") and ("a", "bc") differ, and no field can pretend to be
//! the start of the next. BLAKE3 in its key derivation mode (paper, section 2.3) makes 32 bytes of it, in a domain that no body's digest shares.
//!
//! Cost: about a microsecond for a request's fields. Never allocates.

use arrayvec::ArrayVec;
use std::sync::LazyLock;

/// Never changes once it is in use, or every cached answer is lost.
const CONTEXT: &str = "pincer cache key v1: number of fields, each field's length and bytes";

/// Most keys' fields are shorter in all.
const GATHERED_BYTES: usize = 1 << 10;

/// The key of `fields`, in their order. Fields may be empty, and there may be none.
#[must_use]
pub fn cache_key(fields: &[&[u8]]) -> [u8; 32] {
    static BEGUN: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key(CONTEXT));
    let mut hasher = BEGUN.clone();
    // Gathered, since BLAKE3 is slow with crumbs.
    let mut text: ArrayVec<u8, GATHERED_BYTES> = ArrayVec::new();
    let mut add = |bytes: &[u8]| {
        if text.try_extend_from_slice(bytes).is_err() {
            hasher.update(&text).update(bytes);
            text.clear();
        }
    };
    add(&(fields.len() as u64).to_le_bytes());
    for field in fields {
        add(&(field.len() as u64).to_le_bytes());
        add(field);
    }
    hasher.update(&text);
    *hasher.finalize().as_bytes()
}
