//! The state file: the last snapshot that was applied, for a start without the control plane.
//!
//! ```text
//! "PINCERST"  version u32  payload bytes u32  XXH3-64 of all that follows u64
//! revision u64  payload: pincer.v1.Snapshot
//! ```
//! Numbers are little endian; the checksum is against accidents, not against those who may write
//! the file: where others than root and the workers' user can, nothing is read and nothing written
//! ([`super::folder`]). Written to `PATH.tmp`, synced and renamed, so a reader finds the old file
//! or the new one; the temporary file is locked while it is written, because two generations of
//! workers may do so at once, and the older must not undo the newer: a higher revision stays. Opens
//! only regular files. Bound: [`FILE_BYTES_MAX`].

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use pincer_core::trust::Trusted;
use pincer_proto::limits;
use pincer_proto::v1::Snapshot;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::folder::{self, Fault, Folder, Owner};

const MAGIC: &[u8; 8] = b"PINCERST";
const VERSION: u32 = 1;

/// Bytes before the payload.
const HEADER_BYTES: usize = 32;

/// The first byte that the checksum covers.
const CHECKED_FROM: usize = 24;

/// The largest file that is read.
const FILE_BYTES_MAX: usize = HEADER_BYTES + limits::SNAPSHOT_BYTES_MAX;

/// How often, and after which pause, the temporary file is tried for while another process writes
/// it: a second in all.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Where the state file is, and whose it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateFile {
    /// Its path.
    pub(crate) path: PathBuf,
    /// Who may have written it.
    pub(crate) trusted: Trusted,
}

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
        reason: Damage,
    },
    /// Others can write it, or the system does not let us look.
    Unreadable(Fault),
}

/// What is wrong with the content of a state file. A crash's doing, or another version's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// It is longer than any that we write.
    #[error("it has more than {FILE_BYTES_MAX} bytes")]
    TooLong,
    /// It ends within the header.
    #[error("it has {have} bytes, at least {HEADER_BYTES} are needed")]
    TooShort {
        /// Its length.
        have: usize,
    },
    /// It begins like no state file.
    #[error("it is no state file of Pincer")]
    Foreign,
    /// Another version has written it.
    #[error("it has format {0}, {VERSION} is needed")]
    Format(u64),
    /// It was not written to its end.
    #[error("it has {have} bytes of content, {need} are needed")]
    Cut {
        /// Bytes behind the header.
        have: usize,
        /// Bytes that the header tells of.
        need: u64,
    },
    /// It has changed since it was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Its content is no snapshot.
    #[error("its content cannot be read: {0}")]
    Content(#[from] prost::DecodeError),
    /// Header and content name different revisions.
    #[error("its content is of revision {have}, {need} is needed")]
    Revision {
        /// The content's.
        have: u64,
        /// The header's.
        need: u64,
    },
}

/// How [`StateFile::store`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Written,
    /// It was there already.
    Same,
    /// A higher revision is there, from another generation of workers.
    Newer,
}

/// Everything here blocks: it is for the start of a process and for a thread, not for an event
/// loop.
impl StateFile {
    /// Makes the folder if it is missing, for `owner`, and judges what is there. Reads and writes
    /// no file.
    pub(crate) fn prepare(&self, owner: Owner) -> Result<(), Fault> {
        let folder = Folder::make(self.folder_path(), self.trusted, owner)?;
        match folder.inspect(self.name()?) {
            Err(fault) if fault.is_missing() => Ok(()),
            inspected => inspected,
        }
    }

    /// Reads the state file.
    pub(crate) fn load(&self) -> Loaded {
        match self.folder().and_then(|folder| read(&folder, self.name()?)) {
            Ok(bytes) => match decode(&bytes) {
                Ok(snapshot) => Loaded::Good(snapshot),
                Err(reason) => Loaded::Damaged { reason },
            },
            Err(fault) if fault.is_missing() => Loaded::Missing,
            Err(fault) => Loaded::Unreadable(fault),
        }
    }

    /// Renames a damaged state file to `PATH.damaged`, in place of an earlier one, and says where
    /// it is now.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, Fault> {
        let (name, aside) = (self.name()?, self.name_with(".damaged")?);
        self.folder()?.rename(name, &aside)?;
        Ok(self.path.with_file_name(aside))
    }

    /// Replaces the state file by `snapshot`; all of it or nothing.
    pub(super) fn store(&self, snapshot: &Snapshot) -> Result<Stored, Fault> {
        let bytes = encode(snapshot)?;
        let (folder, name, temporary) = (self.folder()?, self.name()?, self.name_with(".tmp")?);
        match folder.inspect(name) {
            Err(fault) if !fault.is_missing() => return Err(fault),
            _ => {}
        }
        let mut file = open_locked(&folder, &temporary)?;
        let found = match read(&folder, name) {
            Ok(found) if found == bytes => Stored::Same,
            Ok(found) if decode(&found).is_ok_and(|found| found.revision > snapshot.revision) => Stored::Newer,
            _ => Stored::Written,
        };
        let written =
            if found == Stored::Written { replace(&folder, name, &temporary, &mut file, &bytes) } else { Ok(()) };
        if written.is_err() || found != Stored::Written {
            // Ours by the lock; left behind it would only take room on a full disk.
            let _ = folder.remove(&temporary);
        }
        Ok(written.map(|()| found)?)
    }

    fn folder_path(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn folder(&self) -> Result<Folder, Fault> {
        Folder::open(self.folder_path(), self.trusted)
    }

    fn name(&self) -> Result<&OsStr, Fault> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "its path does not end with a name");
        Ok(self.path.file_name().ok_or_else(none)?)
    }

    fn name_with(&self, suffix: &str) -> Result<OsString, Fault> {
        let mut name = self.name()?.to_owned();
        name.push(suffix);
        Ok(name)
    }
}

fn replace(folder: &Folder, name: &OsStr, temporary: &OsStr, file: &mut File, bytes: &[u8]) -> io::Result<()> {
    folder::close_to_others(file)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    folder.rename(temporary, name)?;
    folder.sync()
}

/// Opens the temporary file such that nobody else writes to it. Does not wait for ever: a stopped
/// process may hold it.
fn open_locked(folder: &Folder, temporary: &OsStr) -> Result<File, Fault> {
    for _ in 0..LOCK_TRIES {
        let file = match folder.write(temporary) {
            // Left by others from a time when the folder was open to them: they may have it open to
            // write still.
            Err(Fault::Refused { .. }) => {
                folder.remove(temporary)?;
                continue;
            }
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                thread::sleep(LOCK_PAUSE);
                continue;
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // Whoever held it may have renamed it since it was opened.
        if folder.is_called(&file, temporary)? {
            return Ok(file);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another worker is writing it").into())
}

fn read(folder: &Folder, name: &OsStr) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    folder.read(name)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
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

fn decode(bytes: &[u8]) -> Result<Snapshot, Damage> {
    let have = bytes.len();
    if have > FILE_BYTES_MAX {
        return Err(Damage::TooLong);
    }
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Damage::TooShort { have });
    };
    if !header.starts_with(MAGIC) {
        return Err(Damage::Foreign);
    }
    let version = number(&header[8..12]);
    if version != u64::from(VERSION) {
        return Err(Damage::Format(version));
    }
    let payload_bytes = number(&header[12..16]);
    if payload_bytes != payload.len() as u64 {
        return Err(Damage::Cut { have: payload.len(), need: payload_bytes });
    }
    if number(&header[16..24]) != xxh3_64(&bytes[CHECKED_FROM..]) {
        return Err(Damage::Checksum);
    }
    let snapshot = Snapshot::decode(payload)?;
    let revision = number(&header[24..32]);
    if snapshot.revision != revision {
        return Err(Damage::Revision { have: snapshot.revision, need: revision });
    }
    Ok(snapshot)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pincer_proto::v1::UpstreamConfig;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn snapshot(revision: u64) -> Snapshot {
        let upstreams = vec![UpstreamConfig { name: "chat".to_owned(), peers: Vec::new() }];
        Snapshot { revision, upstreams, ..Snapshot::default() }
    }

    fn folder() -> (tempfile::TempDir, StateFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = at(&folder.path().join("state"));
        (folder, file)
    }

    fn at(path: &Path) -> StateFile {
        StateFile { path: path.to_owned(), trusted: Trusted { user: rustix::process::geteuid().as_raw() } }
    }

    fn entries(folder: &tempfile::TempDir) -> usize {
        fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn what_is_stored_is_loaded_and_only_the_owner_may_read_it() {
        let (folder, file) = folder();
        assert!(matches!(file.load(), Loaded::Missing));
        assert_eq!(file.store(&snapshot(7)).unwrap(), Stored::Written);
        assert!(matches!(file.load(), Loaded::Good(found) if found == snapshot(7)));
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn the_same_is_not_written_twice_and_a_higher_revision_stays() {
        let (folder, file) = folder();
        file.store(&snapshot(7)).unwrap();
        let inode = fs::metadata(&file.path).unwrap().ino();
        assert_eq!(file.store(&snapshot(7)).unwrap(), Stored::Same);
        assert_eq!(file.store(&snapshot(6)).unwrap(), Stored::Newer);
        assert_eq!(fs::metadata(&file.path).unwrap().ino(), inode);
        let other = Snapshot { revision: 7, ..Snapshot::default() };
        assert_eq!(file.store(&other).unwrap(), Stored::Written, "same number, other content");
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn any_changed_missing_or_additional_byte_is_damage() {
        let (_folder, file) = folder();
        file.store(&snapshot(7)).unwrap();
        let good = fs::read(&file.path).unwrap();
        let is_damaged = |bytes: &[u8]| {
            fs::write(&file.path, bytes).unwrap();
            matches!(file.load(), Loaded::Damaged { .. })
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
        let (folder, file) = folder();
        for content in ["first", "second"] {
            fs::write(&file.path, content).unwrap();
            let aside = file.set_aside().unwrap();
            assert_eq!(fs::read_to_string(&aside).unwrap(), content);
            assert_eq!(aside, folder.path().join("state.damaged"));
        }
        fs::write(&file.path, "third").unwrap();
        assert_eq!(file.store(&snapshot(1)).unwrap(), Stored::Written, "damage does not stop a write");
        assert!(matches!(file.load(), Loaded::Good(_)));
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_waited_for() {
        let (_folder, file) = folder();
        fs::create_dir(&file.path).unwrap();
        assert!(matches!(file.load(), Loaded::Unreadable(_)));
        let device = file.path.join("device");
        symlink("/dev/zero", &device).unwrap();
        assert!(matches!(at(&device).load(), Loaded::Unreadable(_)));
        assert!(file.store(&snapshot(1)).is_err());
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there_and_no_temporary_file() {
        let (folder, file) = folder();
        file.store(&snapshot(1)).unwrap();
        let upstreams = vec![UpstreamConfig { name: "x".repeat(limits::SNAPSHOT_BYTES_MAX), peers: Vec::new() }];
        let huge = Snapshot { revision: 2, upstreams, ..Snapshot::default() };
        assert!(file.store(&huge).unwrap_err().to_string().contains("at most"));
        assert!(matches!(file.load(), Loaded::Good(found) if found.revision == 1));
        assert_eq!(entries(&folder), 1);
        assert!(at(&folder.path().join("missing/state")).store(&snapshot(1)).is_err());
    }

    #[test]
    fn two_writers_never_mix_and_the_highest_revision_wins() {
        let (folder, file) = folder();
        std::thread::scope(|scope| {
            for start in 1..=4 {
                let file = &file;
                scope.spawn(move || {
                    for revision in (start..200).step_by(4) {
                        while file.store(&snapshot(revision)).is_err() {
                            std::thread::yield_now();
                        }
                        assert!(matches!(file.load(), Loaded::Good(found) if found.revision >= revision));
                    }
                });
            }
        });
        assert!(matches!(file.load(), Loaded::Good(found) if found.revision == 199));
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn a_temporary_file_left_by_a_killed_worker_is_used_again() {
        let (folder, file) = folder();
        fs::write(
            folder.path().join("state.tmp"),
            "half of a much longer state file that was never finished".repeat(9),
        )
        .unwrap();
        file.store(&snapshot(3)).unwrap();
        assert!(matches!(file.load(), Loaded::Good(found) if found.revision == 3));
        assert_eq!(entries(&folder), 1);
    }

    #[test]
    fn where_others_can_write_nothing_is_read_or_written_until_that_is_mended() {
        let (folder, file) = folder();
        file.store(&snapshot(1)).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for (path, mended) in [(folder.path(), 0o700), (file.path.as_path(), 0o600)] {
            mode(path, 0o722);
            assert!(matches!(file.load(), Loaded::Unreadable(Fault::Refused { .. })));
            assert!(matches!(file.prepare(None), Err(Fault::Refused { .. })));
            assert!(matches!(file.store(&snapshot(2)), Err(Fault::Refused { .. })));
            assert_eq!(entries(&folder), 1, "no temporary file is left");
            mode(path, mended);
            assert!(matches!(file.load(), Loaded::Good(found) if found == snapshot(1)));
        }
        assert_eq!(file.store(&snapshot(2)).unwrap(), Stored::Written);
    }

    #[test]
    fn a_temporary_file_that_others_may_still_write_is_not_used() {
        let (folder, file) = folder();
        let temporary = folder.path().join("state.tmp");
        fs::write(&temporary, "theirs").unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666)).unwrap();
        let mut theirs = fs::OpenOptions::new().append(true).open(&temporary).unwrap();
        file.store(&snapshot(3)).unwrap();
        theirs.write_all(b"more").unwrap();
        assert!(matches!(file.load(), Loaded::Good(found) if found == snapshot(3)));
        symlink(folder.path().join("elsewhere"), &temporary).unwrap();
        file.store(&snapshot(4)).unwrap();
        assert_eq!(entries(&folder), 1, "a link there is neither followed nor kept");
    }
}
