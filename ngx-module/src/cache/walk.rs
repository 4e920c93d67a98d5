//! Walks the files of nginx's cache on disk, a few at a time: for a cache that nginx itself has not
//! read in yet.
//!
//! Goes as deep as the cache's levels and no deeper, follows no link, and names only files whose
//! names are digests: temporary and foreign files are left alone. A folder that goes away meanwhile
//! is empty. Cost: one directory read at a time, held open. Bound: four open folders.

use std::ffi::OsStr;
use std::fs::{self, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::{Digest, file};

/// Where a walk stands. Dropping it ends it.
pub(crate) struct Walk {
    /// Digits of a folder's name at each level.
    levels: Vec<usize>,
    /// Open folders, the cache's own first.
    open: Vec<ReadDir>,
}

impl Walk {
    /// Begins at `directory`, whose path has these levels (0 = none).
    pub(crate) fn new(directory: &[u8], levels: &[usize]) -> io::Result<Self> {
        let levels: Vec<usize> = levels.iter().copied().take_while(|level| *level != 0).collect();
        let open = match fs::read_dir(Path::new(OsStr::from_bytes(directory))) {
            Ok(folder) => vec![folder],
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { levels, open })
    }

    /// Looks at one directory entry more. `Ok(None)`: it was no cache file, go on.
    /// [`Walk::is_done`] says when to stop.
    pub(crate) fn step(&mut self) -> io::Result<Option<(Digest, PathBuf)>> {
        let depth = self.open.len();
        let Some(folder) = self.open.last_mut() else { return Ok(None) };
        let Some(entry) = folder.next() else {
            self.open.pop();
            return Ok(None);
        };
        let entry = entry?;
        let name = entry.file_name().into_vec();
        if let Some(&digits) = self.levels.get(depth - 1) {
            if name.len() == digits && name.iter().all(u8::is_ascii_hexdigit) && entry.file_type()?.is_dir() {
                match fs::read_dir(entry.path()) {
                    Ok(folder) => self.open.push(folder),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(None);
        }
        Ok(file::digest_of_name(&name).map(|digest| (digest, entry.path())))
    }

    /// Whether all was seen.
    pub(crate) fn is_done(&self) -> bool {
        self.open.is_empty()
    }
}
