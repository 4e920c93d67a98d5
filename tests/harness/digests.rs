//! Digests by programs of other authors: `b3sum`, `sha256sum`, `xxh128sum` from Debian. One run
//! over many bodies.

use std::path::PathBuf;
use std::process::Command;

/// The hexadecimal digests of `bodies` by `algorithm`, as `pincer_body_hash` names it.
///
/// # Panics
/// When the program is missing or fails.
#[must_use]
pub fn independent<B: AsRef<[u8]>>(algorithm: &str, bodies: &[B]) -> Vec<String> {
    let program = match algorithm {
        "blake3" => "b3sum",
        "sha256" => "sha256sum",
        "xxh3" => "xxh128sum",
        other => panic!("no program for {other}"),
    };
    if bodies.is_empty() {
        return Vec::new();
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let files: Vec<PathBuf> = (0..bodies.len()).map(|number| folder.path().join(number.to_string())).collect();
    for (file, body) in files.iter().zip(bodies) {
        std::fs::write(file, body).expect("write a body");
    }
    let output = Command::new(program).args(&files).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; make setup installs it"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digests: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert_eq!(digests.len(), bodies.len(), "{text}");
    digests
}

/// Whether `text` has the form of a `$pincer_cache_key`.
#[must_use]
pub fn is_cache_key(text: &str) -> bool {
    text.len() == 52 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'))
}
