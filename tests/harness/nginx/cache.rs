//! What lies in nginx's cache folder: read from its files, never changed.

use std::fs;
use std::path::Path;

use super::Nginx;

/// A cache of 1 MB of keys, called `c`, in the folder `cache` of the prefix: a directive of `http`.
pub const CACHE: &str = "proxy_cache_path cache keys_zone=c:1m levels=1:2;";

impl Nginx {
    /// The keys of all answers in the cache, as nginx wrote them, sorted.
    #[must_use]
    pub fn cached_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        collect(&self.path("cache"), &mut keys);
        keys.sort();
        keys
    }
}

fn collect(folder: &Path, keys: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), keys);
        } else if let Some(key) = fs::read(entry.path()).ok().and_then(|file| key_of(&file)) {
            keys.push(key);
        }
    }
}

/// A cache file has a binary header, then `\nKEY: ` and the key on a line.
fn key_of(file: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"\nKEY: ";
    let from = file.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let len = file[from..].iter().position(|&byte| byte == b'\n')?;
    Some(String::from_utf8_lossy(&file[from..from + len]).into_owned())
}
