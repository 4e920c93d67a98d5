//! The folder that holds the state file: found from the root down, one name at a time, and refused
//! where others could change what is in it.
//!
//! Every folder on the way is opened first, without following a link, and judged by what its
//! descriptor says ([`pincer_core::trust`]); the next name is looked up in that descriptor. So what
//! was judged is what is used, whatever happens to the path meanwhile. A symbolic link that root or
//! the workers' user has made is followed the same way. What is missing is made only where
//! [`Folder::make`] asks for it: with mode 0700 whatever the umask, for the workers' user alone. A
//! missing folder above it is made likewise, since nobody else has business below it: that user
//! passes, and nobody else can write or rename there. Blocks. Bound: [`LINKS_MAX`] links.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use pincer_core::trust::{Distrust, Place, Trusted};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// Symbolic links on the way, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Of folders that are made.
const FOLDER_MODE: Mode = Mode::RWXU;

/// Of files that are made.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// To look at something without opening it for reading.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Others can change it or what leads to it.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The file or folder that is to be mended.
        path: PathBuf,
        /// What is wrong with it.
        why: Distrust,
    },
    /// The system.
    #[error("{source}")]
    System {
        /// What it says.
        #[from]
        source: io::Error,
    },
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        Self::System { source: error.into() }
    }
}

impl Fault {
    /// Why the file is not believed; `None` when the system is to blame.
    pub(crate) fn distrust(&self) -> Option<Distrust> {
        match self {
            Self::Refused { why, .. } => Some(*why),
            Self::System { .. } => None,
        }
    }

    /// Whether there is nothing there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::System { source } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Who owns the folders that are made: user and group. `None` = whoever makes them.
pub(crate) type Owner = Option<(u32, u32)>;

/// A folder that only root and one user can change.
pub(crate) struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
    trusted: Trusted,
}

impl Folder {
    /// Opens the folder at `path`.
    pub(crate) fn open(path: &Path, trusted: Trusted) -> Result<Self, Fault> {
        walk(path, trusted, None)
    }

    /// Opens the folder at `path`; makes it, and every missing folder above it.
    pub(crate) fn make(path: &Path, trusted: Trusted, owner: Owner) -> Result<Self, Fault> {
        walk(path, trusted, Some(owner))
    }

    /// Judges the file called `name` without opening it; the error is "not found" if there is none.
    pub(crate) fn inspect(&self, name: &OsStr) -> Result<(), Fault> {
        let descriptor = fs::openat(&self.descriptor, name, LOOK, Mode::empty())?;
        self.judge(name, &fs::fstat(descriptor)?)
    }

    /// Opens the file called `name` for reading.
    pub(crate) fn read(&self, name: &OsStr) -> Result<File, Fault> {
        // Not opened before it is known to be a file: opening a device may do something.
        self.inspect(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = fs::openat(&self.descriptor, name, flags, Mode::empty())?;
        self.judge(name, &fs::fstat(&descriptor)?)?;
        Ok(descriptor.into())
    }

    /// Opens the file called `name` for writing, and makes it if it is missing.
    pub(crate) fn write(&self, name: &OsStr) -> Result<File, Fault> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = match fs::openat(&self.descriptor, name, flags, FILE_MODE) {
            Err(Errno::LOOP) => return Err(self.refused(name, Distrust::Link)),
            opened => opened?,
        };
        self.judge(name, &fs::fstat(&descriptor)?)?;
        Ok(descriptor.into())
    }

    /// Gives the file called `from` the name `to`; one that was called so is gone.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.descriptor, from, &self.descriptor, to)?)
    }

    /// Removes the file called `name`.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }

    /// Whether `file` is what is called `name` now.
    pub(crate) fn is_called(&self, file: &File, name: &OsStr) -> io::Result<bool> {
        let ours = fs::fstat(file)?;
        let there = fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW);
        Ok(there.is_ok_and(|there| there.st_ino == ours.st_ino && there.st_dev == ours.st_dev))
    }

    /// Waits until the folder itself is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::fsync(fs::openat(&self.descriptor, c".", flags, Mode::empty())?)?)
    }

    fn judge(&self, name: &OsStr, found: &Stat) -> Result<(), Fault> {
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => return Err(self.refused(name, Distrust::Link)),
            FileType::RegularFile => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file").into()),
        }
        self.trusted.judge(Place::File, found.st_uid, found.st_mode).map_err(|why| self.refused(name, why))
    }

    fn refused(&self, name: &OsStr, why: Distrust) -> Fault {
        Fault::Refused { path: self.path.join(name), why }
    }
}

/// Makes an open file readable for its owner alone, whatever the umask was.
pub(crate) fn close_to_others(file: &File) -> io::Result<()> {
    Ok(fs::fchmod(file, FILE_MODE)?)
}

/// The names of a path, the first one last. `..` is one of them: it is looked up like any other.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    names.collect()
}

fn walk(path: &Path, trusted: Trusted, missing: Option<Owner>) -> Result<Folder, Fault> {
    let mut rest = names(&std::path::absolute(path)?);
    let mut here = Folder { descriptor: root()?, path: PathBuf::from("/"), trusted };
    here.judge_folder(rest.is_empty())?;
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let (descriptor, path) = (here.find(&name, missing)?, here.path.join(&name));
        let found = fs::fstat(&descriptor)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            trusted.judge(Place::Link, found.st_uid, found.st_mode).map_err(|why| Fault::Refused { path, why })?;
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            // The link that was judged, whatever has that name by now.
            let target = PathBuf::from(OsString::from_vec(fs::readlinkat(&descriptor, c"", Vec::new())?.into_bytes()));
            rest.extend(names(&target));
            if target.is_absolute() {
                here = Folder { descriptor: root()?, path: PathBuf::from("/"), trusted };
            }
        } else {
            here = Folder { descriptor, path, trusted };
        }
        // A link to "/" or "." leaves where it stands as the last one.
        here.judge_folder(rest.is_empty())?;
    }
    Ok(here)
}

fn root() -> Result<OwnedFd, Errno> {
    fs::open(c"/", LOOK | OFlags::DIRECTORY, Mode::empty())
}

impl Folder {
    fn judge_folder(&self, is_last: bool) -> Result<(), Fault> {
        let found = fs::fstat(&self.descriptor)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let place = if is_last { Place::Folder } else { Place::Above };
        let refused = |why| Fault::Refused { path: self.path.clone(), why };
        self.trusted.judge(place, found.st_uid, found.st_mode).map_err(refused)
    }

    /// What is called `name` here; a folder is made for `missing`'s owner if nothing is.
    fn find(&self, name: &OsStr, missing: Option<Owner>) -> Result<OwnedFd, Errno> {
        match (fs::openat(&self.descriptor, name, LOOK, Mode::empty()), missing) {
            (Err(Errno::NOENT), Some(owner)) => match fs::mkdirat(&self.descriptor, name, FOLDER_MODE) {
                Ok(()) => self.give(name, owner),
                // Another nginx was faster: what it made is judged like all else.
                Err(Errno::EXIST) => fs::openat(&self.descriptor, name, LOOK, Mode::empty()),
                Err(error) => Err(error),
            },
            (found, _) => found,
        }
    }

    /// Opens a folder that was just made, and gives it to `owner`.
    fn give(&self, name: &OsStr, owner: Owner) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = fs::openat(&self.descriptor, name, flags, Mode::empty())?;
        // The umask has taken bits away; nginx's master has none, which is why none is relied on.
        fs::fchmod(&made, FOLDER_MODE)?;
        if let Some((user, group)) = owner {
            fs::fchown(&made, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as disk;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn me() -> Trusted {
        Trusted { user: rustix::process::geteuid().as_raw() }
    }

    fn mode(path: &Path, mode: u32) {
        disk::set_permissions(path, disk::Permissions::from_mode(mode)).unwrap();
    }

    fn mode_of(path: &Path) -> u32 {
        disk::metadata(path).unwrap().mode() & 0o7777
    }

    /// What is refused, and where.
    fn refused<T>(done: Result<T, Fault>) -> (PathBuf, Distrust) {
        match done {
            Err(Fault::Refused { path, why }) => (path, why),
            Err(fault) => panic!("{fault}"),
            Ok(_) => panic!("not refused"),
        }
    }

    #[test]
    fn every_missing_folder_is_made_for_its_owner_alone_and_what_is_there_stays_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        mode(parent.path(), 0o755);
        let path = parent.path().join("a/b/c");
        Folder::make(&path, me(), None).unwrap();
        for made in ["a", "a/b", "a/b/c"] {
            assert_eq!(mode_of(&parent.path().join(made)), 0o700, "{made}");
        }
        assert_eq!(mode_of(parent.path()), 0o755);
        mode(&path, 0o750);
        Folder::make(&path, me(), None).unwrap();
        assert_eq!(mode_of(&path), 0o750);
        assert!(Folder::open(&path.join("missing"), me()).err().unwrap().is_missing());
    }

    #[test]
    fn nothing_is_made_below_a_folder_that_others_can_write() {
        let parent = tempfile::tempdir().unwrap();
        mode(parent.path(), 0o777);
        let (place, why) = refused(Folder::make(&parent.path().join("a/b"), me(), None));
        assert_eq!((place.as_path(), why), (parent.path(), Distrust::Writable { place: Place::Above, mode: 0o777 }));
        assert_eq!(disk::read_dir(parent.path()).unwrap().count(), 0);
        // As /tmp is.
        mode(parent.path(), 0o1777);
        Folder::make(&parent.path().join("a/b"), me(), None).unwrap();
        // But no folder for the file itself: others could put one there first.
        refused(Folder::open(parent.path(), me()));
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_set_them_and_what_they_lead_to_is_judged() {
        let parent = tempfile::tempdir().unwrap();
        let there = parent.path().join("there");
        disk::create_dir_all(there.join("deep/er")).unwrap();
        disk::write(there.join("deep/er/last"), "last").unwrap();
        symlink("there/deep/../deep", parent.path().join("relative")).unwrap();
        symlink(parent.path().join("relative/er"), parent.path().join("absolute")).unwrap();
        symlink("circle", parent.path().join("circle")).unwrap();
        let read = |name: &str| Folder::open(&parent.path().join(name), me())?.read(OsStr::new("last"));
        for name in ["there/deep/er", "relative/er", "absolute", "./absolute/../er/."] {
            read(name).unwrap();
        }
        assert!(matches!(read("circle"), Err(Fault::System { .. })));
        mode(&there.join("deep"), 0o777);
        for name in ["there/deep/er", "relative/er", "absolute"] {
            let (path, why) = refused(read(name));
            assert!(path.ends_with("there/deep"), "{name}: {}", path.display());
            assert_eq!(why, Distrust::Writable { place: Place::Above, mode: 0o777 });
        }
    }

    #[test]
    fn a_file_is_refused_as_a_link_and_where_others_can_write_it_and_a_device_is_not_opened() {
        let parent = tempfile::tempdir().unwrap();
        let name = |name| parent.path().join(name);
        disk::write(name("open"), "open").unwrap();
        mode(&name("open"), 0o646);
        disk::write(name("good"), "good").unwrap();
        symlink("good", name("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, name("pipe"), FileType::Fifo, FILE_MODE, 0).unwrap();
        let folder = Folder::open(parent.path(), me()).unwrap();
        folder.read(OsStr::new("good")).unwrap();
        for ask in [Folder::read, Folder::write] {
            assert_eq!(
                refused(ask(&folder, OsStr::new("open"))).1,
                Distrust::Writable { place: Place::File, mode: 0o646 }
            );
            assert_eq!(refused(ask(&folder, OsStr::new("link"))), (name("link"), Distrust::Link));
            assert!(matches!(ask(&folder, OsStr::new("pipe")), Err(Fault::System { .. })));
        }
        assert_eq!(disk::read_to_string(name("good")).unwrap(), "good");
    }
}
