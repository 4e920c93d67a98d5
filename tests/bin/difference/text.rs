//! How bytes are shown and made comparable: escaped, shortened with a hash, without what two nginx
//! may have different.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::documented;

/// Bytes shown of a body.
const SHOWN: usize = 60;

/// Bytes as a Rust string shows them, non-ASCII as `\x..`.
pub fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Length, hash and beginning.
pub fn summary(bytes: &[u8]) -> String {
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    format!("{} bytes, {:016x}, \"{}\"", bytes.len(), hash.finish(), escaped(&bytes[..bytes.len().min(SHOWN)]))
}

/// What the origin received, without documented differences.
pub fn received<'a>(
    by: &str,
    method: &[u8],
    uri: &[u8],
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> String {
    let mut line = format!("{by} {} {}", escaped(method), escaped(&neutral(uri)));
    for (name, value) in headers.filter(|(name, _)| !documented::to_origin(name)) {
        let _ = write!(line, " [{}: {}]", escaped(name), escaped(&neutral(value)));
    }
    line
}

/// First bytes of the addresses of both sides' servers; of the same length, so that no other length
/// changes.
const SIDES: [&[u8]; 2] = [b"127.8.", b"127.9."];

/// Digits of nginx's multipart boundaries.
const BOUNDARY_DIGITS: usize = 20;

/// The bytes without a side's own address and without boundaries, which nginx counts.
pub fn neutral(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(SIDES[1]) {
            bytes[at..at + SIDES[0].len()].copy_from_slice(SIDES[0]);
        }
        let run = bytes[at..].iter().take(BOUNDARY_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
        if run == BOUNDARY_DIGITS {
            bytes[at..at + run].fill(b'N');
        }
    }
    bytes
}
