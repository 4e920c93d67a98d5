//! Why the store failed, and what an operator can do about it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Why the store failed. Always the fault of the file, the disk or the machine, never the caller's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("store {0} is in use by another pincerd")]
    Locked(PathBuf),
    /// The file can't be opened.
    #[error("cannot open the store {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file of another version.
    #[error("store {path} has format {found}, this pincerd knows {known}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format that pincerd knows.
        known: u64,
    },
    /// A file that is no store, or whose pages are damaged.
    #[error("store {path} is damaged or no store of pincerd: {source}; {}", advice(path))]
    NoStore {
        /// The file.
        path: PathBuf,
        /// What redb found.
        source: Box<redb::Error>,
    },
    /// Pages that redb doesn't expect: it panics.
    #[error("store {path} is damaged, reading it ended half way; {}", advice(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// A record that can't be read.
    #[error("store {path} is damaged, its record of {key} cannot be read: {source}; {}", advice(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The name of the record.
        key: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// A record that can't be written.
    #[error("cannot write a record: {0}")]
    Encode(#[source] serde_json::Error),
    /// The disk's or redb's fault.
    #[error("store {path}: {source}")]
    Redb {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// A page whose bytes are not those that pincerd wrote.
    #[error(
        "store {path} is damaged at byte {offset}: its bytes there are not those that pincerd wrote; {}",
        advice(path)
    )]
    Spoiled {
        /// The file.
        path: PathBuf,
        /// Where the page begins.
        offset: u64,
    },
    /// A record with a value that no operator can set.
    #[error("store {path} is damaged, its record of {key} has a value out of range: {why}; {}", advice(path))]
    Value {
        /// The file.
        path: PathBuf,
        /// The name of the record.
        key: String,
        /// What is wrong.
        why: Box<super::unfit::Unfit>,
    },
    /// The path does not lead to the file that pincerd opened.
    #[error(
        "store {path} was {how} while pincerd runs: move the file back, or restart pincerd to serve what is at the path"
    )]
    Moved {
        /// The path.
        path: PathBuf,
        /// What happened to the file.
        how: &'static str,
    },
    /// The store ended by an error, and pincerd has not opened it again yet.
    #[error("store {path} is not usable: {why}")]
    Closed {
        /// The file.
        path: PathBuf,
        /// The error.
        why: String,
    },
    /// The file has less than was acknowledged.
    #[error(
        "store {path} has lost what pincerd wrote: it has revision {found}, revision {acknowledged} is in force; \
         restore it from a backup, or restart pincerd to serve what the file has"
    )]
    Behind {
        /// The file.
        path: PathBuf,
        /// The revision in the file.
        found: u64,
        /// The revision that operators were told.
        acknowledged: u64,
    },
    /// A number that doesn't fit.
    #[error("store {path} is damaged, its {what} does not fit; {}", advice(path))]
    Number {
        /// The file.
        path: PathBuf,
        /// The number.
        what: &'static str,
    },
}

/// What to do about a store that can't be read.
fn advice(path: &Path) -> String {
    let path = path.display();
    format!(
        "restore it from a backup, or move it away (mv {path} {path}.damaged) to begin with an empty one, without anything that operators set"
    )
}

/// What went wrong with the file at `path`.
pub(super) fn mapped<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> StoreError + Copy + '_ {
    move |error| {
        let (path, source) = (path.to_owned(), Box::new(error.into()));
        match &*source {
            redb::Error::Corrupted(_) | redb::Error::RepairAborted => StoreError::NoStore { path, source },
            redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                StoreError::NoStore { path, source }
            }
            _ => StoreError::Redb { path, source },
        }
    }
}

/// Why a change was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing of the change is in the store.
    #[error(transparent)]
    NotMade(#[from] StoreError),
    /// The store failed while the change was made durable, so it may be in the store or not.
    #[error("{0}")]
    Unknown(StoreError),
}
