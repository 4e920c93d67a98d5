//! The state file: the last snapshot that was applied, for a start without the control plane.
//!
//! ```text
//! "PINCERST"  version u32  payload bytes u32  XXH3-64 of all that follows u64  revision u64  payload: pincer.v1.Snapshot
//! ```
//! Numbers are little endian; the checksum is against accidents, not against those who may write the file. Written to `PATH.tmp`, synced and renamed, so a reader finds the old file or the new one; the temporary file is
//! locked while it is written, because two generations of workers may do so at once, and the older must not undo the newer: a higher
//! revision stays. Opens only regular files. Bound: [`FILE_BYTES_MAX`].

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pincer_proto::limits;
use pincer_proto::v1::Snapshot;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"PINCERST";
const VERSION: u32 = 1;

/// Bytes before the payload.
const HEADER_BYTES: usize = 32;

/// The first byte that the checksum covers.
const CHECKED_FROM: usize = 24;

/// The largest file that is read.
const FILE_BYTES_MAX: usize = HEADER_BYTES + limits::SNAPSHOT_BYTES_MAX;

/// Owner only: addresses of replicas are nobody else's business.
const MODE: u32 = 0o600;

/// How often a temporary file that another process has just renamed is opened again.
const REOPEN_MAX: usize = 3;

/// What is in the state file.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// There is none.
    Missing,
    /// The last snapshot that was applied. Not yet checked against what this nginx allows.
    Good(Snapshot),
    /// Something that was not written by this version of the module, or not to its end.
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The system does not let us look.
    Unreadable(io::Error),
}

/// How [`store`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Written,
    /// It was there already.
    Same,
    /// A higher revision is there, from another generation of workers.
    Newer,
}

/// Reads the state file. Blocks: for the start of a process, not for its event loop.
pub(crate) fn load(path: &Path) -> Loaded {
    match read(path) {
        Ok(bytes) => match decode(&bytes) {
            Ok(snapshot) => Loaded::Good(snapshot),
            Err(reason) => Loaded::Damaged { reason },
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Loaded::Missing,
        Err(error) => Loaded::Unreadable(error),
    }
}

/// Renames a damaged state file to `PATH.damaged`, in place of an earlier one, and says where it is now.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = with_suffix(path, ".damaged");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Replaces the state file by `snapshot`; all of it or nothing. Blocks.
pub(super) fn store(path: &Path, snapshot: &Snapshot) -> io::Result<Stored> {
    let bytes = encode(snapshot)?;
    let temporary = with_suffix(path, ".tmp");
    let mut file = open_locked(&temporary)?;
    let found = match read(path) {
        Ok(found) if found == bytes => Stored::Same,
        Ok(found) if decode(&found).is_ok_and(|found| found.revision > snapshot.revision) => Stored::Newer,
        _ => Stored::Written,
    };
    let written = if found == Stored::Written { replace(path, &temporary, &mut file, &bytes) } else { Ok(()) };
    if written.is_err() || found != Stored::Written {
        // Ours by the lock; left behind it would only take room on a full disk.
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| found)
}

fn replace(path: &Path, temporary: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Opens the temporary file such that nobody else writes to it. Does not wait: a stopped process may hold it for ever.
fn open_locked(temporary: &Path) -> io::Result<File> {
    for _ in 0..REOPEN_MAX {
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(MODE).open(temporary)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let ours = file.metadata()?;
        if fs::metadata(temporary).is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev()) {
            return Ok(file);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another worker is writing it"))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let payload_bytes = snapshot.encoded_len();
    if payload_bytes > limits::SNAPSHOT_BYTES_MAX {
        let reason = format!("snapshot has {payload_bytes} bytes, at most {} are allowed", limits::SNAPSHOT_BYTES_MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(u32::try_from(payload_bytes).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(snapshot.revision.to_le_bytes());
    bytes.extend(snapshot.encode_to_vec());
    let checksum = xxh3_64(&bytes[CHECKED_FROM..]);
    bytes[CHECKED_FROM - 8..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Snapshot, String> {
    let have = bytes.len();
    if have > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(format!("it has {have} bytes, at least {HEADER_BYTES} are needed"));
    };
    if !header.starts_with(MAGIC) {
        return Err("it is no state file of Pincer".to_owned());
    }
    let version = number(&header[8..12]);
    if version != u64::from(VERSION) {
        return Err(format!("it has format {version}, {VERSION} is needed"));
    }
    let payload_bytes = number(&header[12..16]);
    if payload_bytes != payload.len() as u64 {
        return Err(format!("it has {} bytes of content, {payload_bytes} are needed", payload.len()));
    }
    if number(&header[16..24]) != xxh3_64(&bytes[CHECKED_FROM..]) {
        return Err("its checksum is wrong".to_owned());
    }
    let snapshot = Snapshot::decode(payload).map_err(|error| format!("its content cannot be read: {error}"))?;
    let revision = number(&header[24..32]);
    if snapshot.revision != revision {
        return Err(format!("its content is of revision {}, {revision} is needed", snapshot.revision));
    }
    Ok(snapshot)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
