//! For tests: a disk that fails at will.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use redb::{Builder, StorageBackend, backends::FileBackend};

use super::{Store, StoreError};

/// What the disk does next.
#[derive(Debug, Default)]
pub struct Disk {
    /// Writes, fsyncs and changes of the length until one fails; 0 = none does.
    pub fails_in: AtomicU64,
    /// Nothing can be written.
    pub is_full: AtomicBool,
}

impl Disk {
    /// A store on this disk.
    pub fn open(self: &Arc<Self>, path: &Path) -> Result<Store, StoreError> {
        let disk = Arc::clone(self);
        let open = move |file: File| {
            Builder::new().create_with_backend(Faulty { file: FileBackend::new(file)?, disk: Arc::clone(&disk) })
        };
        Store::open_by(path, Arc::new(open))
    }

    fn act(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let left = self.fails_in.load(Ordering::SeqCst);
        self.fails_in.store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 { Err(io::Error::other("I/O error of the test")) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    disk: Arc<Disk>,
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.act()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.act()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.act()?;
        self.file.write(offset, data)
    }
}
