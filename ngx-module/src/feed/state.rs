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
use std::thread;
use std::time::Duration;

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

/// How often, and after which pause, the temporary file is tried for while another process writes it: a second in all.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

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

/// Opens the temporary file such that nobody else writes to it. Does not wait for ever: a stopped process may hold it.
fn open_locked(temporary: &Path) -> io::Result<File> {
    for _ in 0..LOCK_TRIES {
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(MODE).open(temporary)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                thread::sleep(LOCK_PAUSE);
                continue;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held it may have renamed it since it was opened.
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

#[cfg(test)]
mod tests {
    use super::*;
    use pincer_proto::v1::UpstreamConfig;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn snapshot(revision: u64) -> Snapshot {
        let upstreams = vec![UpstreamConfig { name: "chat".to_owned(), peers: Vec::new() }];
        Snapshot { revision, upstreams, ..Snapshot::default() }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        (folder, path)
    }

    fn entries(folder: &tempfile::TempDir) -> usize {
        fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn what_is_stored_is_loaded_and_only_the_owner_may_read_it() {
        let (folder, path) = folder();
        assert!(matches!(load(&path), Loaded::Missing));
        assert_eq!(store(&path, &snapshot(7)).unwrap(), Stored::Written);
        assert!(matches!(load(&path), Loaded::Good(found) if found == snapshot(7)));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn the_same_is_not_written_twice_and_a_higher_revision_stays() {
        let (folder, path) = folder();
        store(&path, &snapshot(7)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(store(&path, &snapshot(7)).unwrap(), Stored::Same);
        assert_eq!(store(&path, &snapshot(6)).unwrap(), Stored::Newer);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        let other = Snapshot { revision: 7, ..Snapshot::default() };
        assert_eq!(store(&path, &other).unwrap(), Stored::Written, "same number, other content");
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn any_changed_missing_or_additional_byte_is_damage() {
        let (_folder, path) = folder();
        store(&path, &snapshot(7)).unwrap();
        let good = fs::read(&path).unwrap();
        let is_damaged = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            matches!(load(&path), Loaded::Damaged { .. })
        };
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(is_damaged(&bytes), "byte {at}");
            assert!(is_damaged(&good[..at]), "cut at {at}");
        }
        assert!(is_damaged(&[&good[..], b"x"].concat()));
        assert!(is_damaged(&vec![0; FILE_BYTES_MAX + 1]));
        assert!(!is_damaged(&good));
    }

    #[test]
    fn a_damaged_file_is_set_aside_in_place_of_an_earlier_one_and_the_next_is_written() {
        let (folder, path) = folder();
        for content in ["first", "second"] {
            fs::write(&path, content).unwrap();
            let aside = set_aside(&path).unwrap();
            assert_eq!(fs::read_to_string(&aside).unwrap(), content);
            assert_eq!(aside, folder.path().join("state.damaged"));
        }
        fs::write(&path, "third").unwrap();
        assert_eq!(store(&path, &snapshot(1)).unwrap(), Stored::Written, "damage does not stop a write");
        assert!(matches!(load(&path), Loaded::Good(_)));
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_waited_for() {
        let (_folder, path) = folder();
        fs::create_dir(&path).unwrap();
        assert!(matches!(load(&path), Loaded::Unreadable(_)));
        let device = path.join("device");
        symlink("/dev/zero", &device).unwrap();
        assert!(matches!(load(&device), Loaded::Unreadable(_)));
        assert!(store(&path, &snapshot(1)).is_err());
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there_and_no_temporary_file() {
        let (folder, path) = folder();
        store(&path, &snapshot(1)).unwrap();
        let upstreams = vec![UpstreamConfig { name: "x".repeat(limits::SNAPSHOT_BYTES_MAX), peers: Vec::new() }];
        let huge = Snapshot { revision: 2, upstreams, ..Snapshot::default() };
        assert!(store(&path, &huge).unwrap_err().to_string().contains("at most"));
        assert!(matches!(load(&path), Loaded::Good(found) if found.revision == 1));
        assert_eq!(entries(&folder), 1);
        assert!(store(&folder.path().join("missing/state"), &snapshot(1)).is_err());
    }

    #[test]
    fn two_writers_never_mix_and_the_highest_revision_wins() {
        let (folder, path) = folder();
        std::thread::scope(|scope| {
            for start in 1..=4 {
                let path = &path;
                scope.spawn(move || {
                    for revision in (start..200).step_by(4) {
                        while store(path, &snapshot(revision)).is_err() {
                            std::thread::yield_now();
                        }
                        assert!(matches!(load(path), Loaded::Good(found) if found.revision >= revision));
                    }
                });
            }
        });
        assert!(matches!(load(&path), Loaded::Good(found) if found.revision == 199));
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn a_temporary_file_left_by_a_killed_worker_is_used_again() {
        let (folder, path) = folder();
        fs::write(with_suffix(&path, ".tmp"), "half of a much longer state file that was never finished".repeat(9))
            .unwrap();
        store(&path, &snapshot(3)).unwrap();
        assert!(matches!(load(&path), Loaded::Good(found) if found.revision == 3));
        assert_eq!(entries(&folder), 1);
    }
}
