//! One key for the cache from several fields.
//!
//! Injective: the number of fields, then each with its length before it, so ("ab", "c") and ("a", "bc") differ, and no field can pretend to be
//! the start of the next. BLAKE3 in its key derivation mode (paper, section 2.3) makes 32 bytes of it, in a domain that no body's digest shares.
//!
//! Cost: about a microsecond for a request's fields. Never allocates.

/// Never changes once it is in use, or every cached answer is lost.
const CONTEXT: &str = "pincer cache key v1: number of fields, each field's length and bytes";

/// The key of `fields`, in their order. Fields may be empty, and there may be none.
#[must_use]
pub fn cache_key(fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&(fields.len() as u64).to_le_bytes());
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    *hasher.finalize().as_bytes()
}
