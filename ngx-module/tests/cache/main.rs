//! The files of nginx's cache, without nginx: names, heads and the walk over them. What nginx
//! really writes is tested end to end, in `tests/purge.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, unused_imports, missing_docs, reason = "the module's files are here only in part")]

#[path = "../../src/cache/mod.rs"]
mod cache;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use cache::file::{self, Layout};
use cache::walk::Walk;

/// A small header of another machine: the parser takes offsets from its caller.
const LAYOUT: Layout = Layout { bytes: 32, version_at: 0, version: 5, header_start_at: 8, vary_len_at: 12 };

/// Digest of the empty text, from `md5sum < /dev/null`.
const EMPTY: [u8; 16] =
    [0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e];

fn written(key: &[u8], vary_len: u8, answer: &[u8]) -> Vec<u8> {
    let start = u16::try_from(LAYOUT.bytes + b"\nKEY: ".len() + key.len() + 1).unwrap();
    let mut bytes = [0; LAYOUT.bytes];
    bytes[..8].copy_from_slice(&5_usize.to_ne_bytes());
    bytes[8..10].copy_from_slice(&start.to_ne_bytes());
    bytes[12] = vary_len;
    [&bytes[..], b"\nKEY: ", key, b"\n", answer].concat()
}

fn head_of(bytes: &[u8]) -> Option<file::Head> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap();
    file::read_head(&path, &LAYOUT).unwrap()
}

#[test]
fn an_entry_lies_where_nginx_puts_it() {
    // The example of proxy_cache_path's documentation.
    let digest = file::digest_of_name(b"b7f54b2df7773722d382f4809d65029c").unwrap();
    let path = |levels: &[usize]| String::from_utf8(file::path_of(b"/data/nginx/cache", levels, &digest)).unwrap();
    assert_eq!(path(&[1, 2, 0]), "/data/nginx/cache/c/29/b7f54b2df7773722d382f4809d65029c");
    assert_eq!(path(&[0, 0, 0]), "/data/nginx/cache/b7f54b2df7773722d382f4809d65029c");
    assert_eq!(path(&[2, 2, 2]), "/data/nginx/cache/9c/02/65/b7f54b2df7773722d382f4809d65029c");
    for name in [&b""[..], b"b7f54b2df7773722d382f4809d65029", b"B7F54B2DF7773722D382F4809D65029C"] {
        assert_eq!(file::digest_of_name(name), None);
    }
    assert_eq!(file::digest_of_name(b"b7f54b2df7773722d382f4809d65029c.0000000001"), None, "a temporary file");
}

#[test]
fn a_file_tells_its_key_whatever_its_length_and_whether_it_varies() {
    assert_eq!(head_of(&written(b"", 0, b"")), Some(file::Head { key: EMPTY, varies: false }));
    let long = vec![b'k'; 30_000];
    let (a, b) = (head_of(&written(&long, 9, b"HTTP")).unwrap(), head_of(&written(&long[1..], 0, b"HTTP")).unwrap());
    assert!(a.varies && !b.varies && a.key != b.key);
    assert_eq!(head_of(&written(&long, 9, b"other")).unwrap().key, a.key, "the answer is no part of it");
}

#[test]
fn what_is_no_cache_file_is_told_and_never_misread() {
    let good = written(b"key", 0, b"answer");
    for cut in 0..good.len() - b"answer".len() {
        assert_eq!(head_of(&good[..cut]), None, "cut at {cut}");
    }
    for (at, byte) in [(0, 4), (8, 0), (8, 255), (9, 255), (32, b' '), (37, b'x')] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(head_of(&bad), None, "byte {at}");
    }
    assert!(file::read_head(Path::new("/nonexistent"), &LAYOUT).is_err());
}

#[test]
fn a_walk_finds_every_entry_at_its_depth_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().as_os_str().as_bytes();
    let mut entries = BTreeSet::new();
    for n in 0..200_u8 {
        let mut digest = [n.wrapping_mul(37); 16];
        digest[0] = n;
        let path = file::path_of(root, &[1, 2, 0], &digest);
        let path = Path::new(std::ffi::OsStr::from_bytes(&path)).to_owned();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        fs::write(path.with_extension("0000000001"), b"").unwrap();
        entries.insert(digest);
    }
    fs::create_dir(folder.path().join("temp")).unwrap();
    fs::write(folder.path().join("b7f54b2df7773722d382f4809d65029c"), b"at another level").unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("f")).unwrap_or_default();
    let mut walk = Walk::new(root, &[1, 2, 0]).unwrap();
    let mut found = BTreeSet::new();
    while !walk.is_done() {
        if let Some((digest, path)) = walk.step().unwrap() {
            assert!(path.is_file());
            assert!(found.insert(digest), "each once");
        }
    }
    assert_eq!(found, entries);
    assert!(Walk::new(b"/nonexistent", &[1, 0, 0]).unwrap().is_done(), "no folder, no entries");
}
