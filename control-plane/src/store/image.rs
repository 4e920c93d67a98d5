//! Checks the bytes of a store before they are served.
//!
//! redb checks the pages that it writes by checksums, but only after a crash, and then falls back
//! to the state before. So the file is read into memory, and redb checks all pages of that copy:
//! nothing is written, and nothing that was acknowledged is given up without a word. What a kill
//! left half written is no damage: the repair of redb at the opening of the copy removes it.
//! Cost: the file is read once and lies in memory meanwhile.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::error::{StoreError, mapped};

/// The byte of redb's header whose lowest bit names the commit slot in force.
const SLOT_BYTE: usize = 9;
/// Where the two slots of redb's header begin, and their length.
const SLOTS: [usize; 2] = [64, 192];
const SLOT_BYTES: usize = 128;

/// A copy of a file in memory.
#[derive(Debug, Clone, Default)]
struct Image {
    bytes: Arc<Mutex<Vec<u8>>>,
    last_read: Arc<AtomicU64>,
}

fn range(offset: u64, len: usize, have: usize) -> io::Result<std::ops::Range<usize>> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let to = from.checked_add(len).filter(|to| *to <= have);
    to.map(|to| from..to).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.lock();
        out.copy_from_slice(&bytes[range(offset, out.len(), bytes.len())?]);
        if range(offset, 0, SLOTS[1] + SLOT_BYTES).is_err() {
            self.last_read.store(offset, Ordering::Relaxed);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.bytes.lock().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes.lock();
        let range = range(offset, data.len(), bytes.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }
}

/// Opens the copy without a cache, so that each page is read when it is looked at.
fn open(image: &Image) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(0).create_with_backend(image.clone())
}

/// Whether all pages of the copy are as redb wrote them.
fn is_sound(path: &Path, image: &Image) -> Result<bool, StoreError> {
    let checked = panic::catch_unwind(AssertUnwindSafe(|| open(image)?.check_integrity()));
    match checked {
        Ok(checked) => checked.map_err(mapped(path)),
        Err(_) => Ok(false),
    }
}

/// Where the first page begins that is not as redb wrote it. The last commit takes the place of the
/// one before in the copy, so that redb cannot fall back and ends at that page.
fn find(bytes: Vec<u8>) -> u64 {
    let image = Image { bytes: Arc::new(Mutex::new(bytes)), ..Image::default() };
    {
        let mut bytes = image.bytes.lock();
        let in_force = usize::from(bytes.get(SLOT_BYTE).is_some_and(|byte| byte & 1 == 1));
        let (from, to) = (SLOTS[in_force], SLOTS[1 - in_force]);
        if bytes.len() >= SLOTS[1] + SLOT_BYTES {
            bytes.copy_within(from..from + SLOT_BYTES, to);
        }
    }
    // The result does not matter: only where the reading ended.
    let _ = is_sound(Path::new(""), &image);
    image.last_read.load(Ordering::Relaxed)
}

/// Refuses a file whose bytes are not those that pincerd wrote. An empty one is sound.
pub fn check(path: &Path, file: &File) -> Result<(), StoreError> {
    let failed = |source| StoreError::Open { path: path.to_owned(), source };
    let length = usize::try_from(file.metadata().map_err(failed)?.len()).map_err(io::Error::other).map_err(failed)?;
    if length == 0 {
        return Ok(());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    let image = Image { bytes: Arc::new(Mutex::new(bytes.clone())), ..Image::default() };
    let found = match is_sound(path, &image) {
        Ok(true) => return Ok(()),
        Ok(false) => None,
        Err(error) => Some(error),
    };
    // No page was read: the header says that this is no store, or of another version.
    let offset = find(bytes);
    Err(found.filter(|_| offset == 0).unwrap_or(StoreError::Spoiled { path: path.to_owned(), offset }))
}
