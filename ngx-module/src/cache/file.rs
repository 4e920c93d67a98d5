//! One file of nginx's cache: under which key it was stored, and whether its response varies.
//!
//! A file begins with a header in the C layout of the machine that wrote it, then `\nKEY: `, the
//! key's text, a line feed, and the response. The text of the key is hashed where it is read and
//! never kept. Believes nothing: what does not fit is no cache file. Cost: one open and one read of
//! up to [`FIRST_BYTES`], more for a longer key. Bound: 64 KiB.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use md5::{Digest as _, Md5};

use super::Digest;

/// Holds the header and a key of ordinary length.
const FIRST_BYTES: usize = 1024;

/// What stands between the header and the key.
const MARK: &[u8] = b"\nKEY: ";

/// Where the header's fields lie, in bytes; all but the first are offsets of native integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Of the whole header.
    pub(crate) bytes: usize,
    /// A word.
    pub(crate) version_at: usize,
    /// What the version has to be.
    pub(crate) version: usize,
    /// Two bytes: where the response's own header begins.
    pub(crate) header_start_at: usize,
    /// One byte.
    pub(crate) vary_len_at: usize,
}

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The key's digest, the same for all variants.
    pub(crate) key: Digest,
    /// Its answer depends on what `Vary` names, so there may be variants.
    pub(crate) varies: bool,
}

/// Reads the head of the file at `path`; `None` when it is no cache file of this layout.
pub(crate) fn read_head(path: &Path, layout: &Layout) -> io::Result<Option<Head>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; FIRST_BYTES.max(layout.bytes + MARK.len())];
    let got = read_up_to(&mut file, &mut bytes)?;
    bytes.truncate(got);
    let Some(start) = header_start(&bytes, layout) else { return Ok(None) };
    if start > bytes.len() {
        let had = bytes.len();
        bytes.resize(start, 0);
        let got = read_up_to(&mut file, &mut bytes[had..])?;
        bytes.truncate(had + got);
    }
    Ok(parse(&bytes, start, layout))
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(bytes) => got += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Where the response's header begins, if this is a cache file.
fn header_start(bytes: &[u8], layout: &Layout) -> Option<usize> {
    let version = bytes.get(layout.version_at..)?.first_chunk::<{ size_of::<usize>() }>()?;
    let start = bytes.get(layout.header_start_at..)?.first_chunk::<2>()?;
    (usize::from_ne_bytes(*version) == layout.version).then(|| usize::from(u16::from_ne_bytes(*start)))
}

fn parse(bytes: &[u8], start: usize, layout: &Layout) -> Option<Head> {
    let text = bytes.get(layout.bytes..start)?.strip_prefix(MARK)?.strip_suffix(b"\n")?;
    let varies = *bytes.get(layout.vary_len_at)? != 0;
    Some(Head { key: Md5::digest(text).into(), varies })
}

/// The digest that a file's name says; `None` for temporary and foreign files.
pub(crate) fn digest_of_name(name: &[u8]) -> Option<Digest> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits: &[u8; 32] = name.try_into().ok()?;
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

/// Where the entry of `digest` lies in a cache at `directory` whose path has these levels, as nginx
/// builds it: each level takes its digits from the end of the name.
pub(crate) fn path_of(directory: &[u8], levels: &[usize], digest: &Digest) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let name: Vec<u8> = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|n| DIGITS[usize::from(n)]).collect();
    let mut path = directory.to_vec();
    let mut end = name.len();
    for &level in levels.iter().take_while(|level| **level != 0) {
        let start = end.saturating_sub(level);
        path.push(b'/');
        path.extend_from_slice(&name[start..end]);
        end = start;
    }
    path.push(b'/');
    path.extend_from_slice(&name);
    path
}
