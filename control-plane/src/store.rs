//! The store of settings, revision and known nodes: one redb file.
//!
//! A commit is on disk when `commit` returns, and holds either all of a revision or nothing of it;
//! that is redb's promise (copy on write, checksums, fsync), so kill -9 at any moment loses no
//! change whose call has returned. One process at a time: redb locks the file.
//! An error of the disk closes the store, because redb takes no more writes after one. `reopen`
//! opens it again. A commit that failed half way leaves its outcome in doubt until then.
//! The store only writes while its path leads to the file that was opened.
//! Cost: one or two fsyncs a change; the whole file is read when it is opened. Blocks: call it from
//! a thread that may. Bound: `PEERS_PER_UPSTREAM_MAX` × `UPSTREAMS_MAX` records.

mod check;
mod error;
#[cfg(test)]
pub mod faulty;
mod image;
mod record;
mod unfit;

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use self::error::mapped;
pub use self::{
    error::{StoreError, WriteError},
    record::{NodeRecord, PeerRecord, UpstreamRecord},
};
use crate::model::{Changes, Config, Record};

/// `revision`, `created_s`, `format`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// (upstream, address) → `Record` as JSON.
const PEERS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("peers");
/// Class' name → `classes::Record` as JSON. Not in stores of version 0.1.0 and before.
const CLASSES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("classes");
/// Key's id → `keys::Record` as JSON. As `CLASSES`.
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// Node's name → `NodeRecord` as JSON.
const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");
/// Written and removed when the store is opened again, to see that there is room.
const PROBE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("probe");

/// A table of records by one name.
type Named = TableDefinition<'static, &'static str, &'static [u8]>;

/// The layout of the file; another number is refused.
const FORMAT: u64 = 1;

/// Bytes that must find room before a store that failed is called usable: more than nearly every
/// change takes.
const PROBE_BYTES: usize = 64 << 10;

/// Bytes that are read and written back at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// Has redb open a file. Another one in tests.
type Opener = Arc<dyn Fn(File) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// What tells one file from another: device and inode.
type Identity = (u64, u64);

/// The embedded store.
pub struct Store {
    path: PathBuf,
    opener: Opener,
    identity: Identity,
    state: Mutex<State>,
}

/// The database, and why it has to be looked at before the next change.
struct State {
    db: Option<Database>,
    /// Why the store is closed, or why the outcome of the last change is unknown.
    trouble: Option<String>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

fn identity_of(file: &File) -> std::io::Result<Identity> {
    file.metadata().map(|data| (data.dev(), data.ino()))
}

/// redb panics where a page is damaged in a way that it does not expect.
fn caught<T>(path: &Path, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let unreadable = |_| StoreError::Unreadable { path: path.to_owned() };
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(unreadable)?
}

impl Store {
    /// Opens the file, or makes it (mode 0600). Repairs what a kill left. Refuses a file whose
    /// bytes are not those that pincerd wrote.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_by(path, Arc::new(|file| redb::Builder::new().create_file(file)))
    }

    fn open_by(path: &Path, opener: Opener) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let identity = identity_of(&file).map_err(failed)?;
        let db = database(path, file, &opener)?;
        prepare(path, &db)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let state = Mutex::new(State { db: Some(db), trouble: None });
        Ok(Self { path: path.to_owned(), opener, identity, state })
    }

    fn redb<E: Into<redb::Error>>(&self) -> impl Fn(E) -> StoreError + '_ {
        mapped(&self.path)
    }

    fn closed(&self, state: &State) -> StoreError {
        let why = state.trouble.clone().unwrap_or_else(|| "it is being opened again".to_owned());
        StoreError::Closed { path: self.path.clone(), why }
    }

    /// Whether the store has to be opened again, or read again, before the next change.
    pub fn is_in_doubt(&self) -> bool {
        let state = self.state.lock();
        state.db.is_none() || state.trouble.is_some()
    }

    /// Checks that the path leads to the file that was opened.
    pub fn check_place(&self) -> Result<(), StoreError> {
        let moved = |how| Err(StoreError::Moved { path: self.path.clone(), how });
        match std::fs::metadata(&self.path) {
            Ok(data) if (data.dev(), data.ino()) == self.identity => Ok(()),
            Ok(_) => moved("replaced"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => moved("moved or removed"),
            Err(source) => Err(StoreError::Open { path: self.path.clone(), source }),
        }
    }

    /// Opens the store again after an error, if it is closed, and checks that there is room for a
    /// change. The caller reads it again and then calls [`Store::settled`].
    pub fn reopen(&self) -> Result<(), StoreError> {
        self.check_place()?;
        let mut state = self.state.lock();
        if state.db.is_some() {
            return Ok(());
        }
        let failed = |source| StoreError::Open { path: self.path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(failed)?;
        if identity_of(&file).map_err(failed)? != self.identity {
            return Err(StoreError::Moved { path: self.path.clone(), how: "replaced" });
        }
        rewrite(&file).map_err(failed)?;
        let db = database(&self.path, file, &self.opener)?;
        caught(&self.path, || probe(&self.path, &db))?;
        state.db = Some(db);
        Ok(())
    }

    /// The outcome of the last change is known.
    pub fn settled(&self) {
        self.state.lock().trouble = None;
    }

    /// Reading the store ended by a panic.
    pub fn unreadable(&self) -> StoreError {
        StoreError::Unreadable { path: self.path.clone() }
    }

    /// The store has an older revision than operators were told.
    pub fn behind(&self, found: u64, acknowledged: u64) -> StoreError {
        StoreError::Behind { path: self.path.clone(), found, acknowledged }
    }

    /// Closes the store, because its content is not what it should be.
    pub fn distrust(&self, error: &StoreError) {
        let mut state = self.state.lock();
        (state.db, state.trouble) = (None, Some(error.to_string()));
    }

    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let state = self.state.lock();
        let db = state.db.as_ref().ok_or_else(|| self.closed(&state))?;
        caught(&self.path, || read(db))
    }

    /// Fills a transaction and makes it durable. An error of the disk closes the store.
    fn write(&self, fill: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>) -> Result<(), WriteError> {
        let mut state = self.state.lock();
        let Some(db) = state.db.as_ref() else { return Err(self.closed(&state).into()) };
        self.check_place()?;
        let filled = caught(&self.path, || {
            let write = db.begin_write().map_err(self.redb())?;
            fill(&write)?;
            Ok(write)
        });
        let write = match filled {
            Ok(write) => write,
            Err(error) => {
                if !matches!(error, StoreError::Encode(_)) {
                    (state.db, state.trouble) = (None, Some(error.to_string()));
                }
                return Err(error.into());
            }
        };
        if let Err(error) = caught(&self.path, || write.commit().map_err(self.redb())) {
            (state.db, state.trouble) = (None, Some(error.to_string()));
            return Err(WriteError::Unknown(error));
        }
        // What went into a file that nobody finds any more is not kept.
        self.check_place().map_err(|error| {
            state.trouble = Some(error.to_string());
            WriteError::Unknown(error)
        })
    }

    /// Loads the settings of the last revision, and checks every value.
    pub fn load(&self) -> Result<Config, StoreError> {
        let config = self.read(|db| self.load_from(db))?;
        check::config(&self.path, &config)?;
        Ok(config)
    }

    fn load_from(&self, db: &Database) -> Result<Config, StoreError> {
        let read = db.begin_read().map_err(self.redb())?;
        let meta = read.open_table(META).map_err(self.redb())?;
        let number = |key| Ok::<_, StoreError>(meta.get(key).map_err(self.redb())?.map_or(0, |v| v.value()));
        let created_s = i64::try_from(number("created_s")?)
            .map_err(|_| StoreError::Number { path: self.path.clone(), what: "created_s" })?;
        let mut config = Config { revision: number("revision")?, created_s, ..Config::default() };
        for entry in read.open_table(PEERS).map_err(self.redb())?.iter().map_err(self.redb())? {
            let (key, value) = entry.map_err(self.redb())?;
            let (upstream, address) = key.value();
            let record: Record = self.parse(value.value(), || format!("{upstream} {address}"))?;
            config.upstreams.entry(upstream.to_owned()).or_default().insert(address.to_owned(), record);
        }
        config.classes = self.load_named(db, CLASSES)?.into_iter().collect();
        config.keys = self.load_named(db, KEYS)?.into_iter().collect();
        Ok(config)
    }

    fn load_named<T: DeserializeOwned>(&self, db: &Database, table: Named) -> Result<Vec<(String, T)>, StoreError> {
        let read = db.begin_read().map_err(self.redb())?;
        let mut all = Vec::new();
        for entry in read.open_table(table).map_err(self.redb())?.iter().map_err(self.redb())? {
            let (key, value) = entry.map_err(self.redb())?;
            all.push((key.value().to_owned(), self.parse(value.value(), || key.value().to_owned())?));
        }
        Ok(all)
    }

    /// Writes a revision; on disk when this returns.
    pub fn commit(&self, next: &Config, changes: &Changes) -> Result<(), WriteError> {
        self.write(|write| self.fill(write, next, changes))
    }

    fn fill(&self, write: &WriteTransaction, next: &Config, changes: &Changes) -> Result<(), StoreError> {
        {
            let mut meta = write.open_table(META).map_err(self.redb())?;
            let created_s = u64::try_from(next.created_s).unwrap_or(0);
            meta.insert("revision", next.revision).map_err(self.redb())?;
            meta.insert("created_s", created_s).map_err(self.redb())?;
            let mut peers = write.open_table(PEERS).map_err(self.redb())?;
            for change in &changes.peers {
                let key = (change.upstream.as_str(), change.address.as_str());
                match next.record(&change.upstream, &change.address) {
                    Some(record) => peers.insert(key, encode(record)?.as_slice()).map_err(self.redb())?,
                    None => peers.remove(key).map_err(self.redb())?,
                };
            }
        }
        self.put_named(write, CLASSES, changes.classes.iter().map(|c| (c.id.as_str(), next.classes.get(&c.id))))?;
        self.put_named(write, KEYS, changes.keys.iter().map(|c| (c.id.as_str(), next.keys.get(&c.id))))
    }

    /// All known nodes by name.
    pub fn load_nodes(&self) -> Result<Vec<(String, NodeRecord)>, StoreError> {
        let nodes = self.read(|db| self.load_named(db, NODES))?;
        check::nodes(&self.path, &nodes)?;
        Ok(nodes)
    }

    /// Stores each node, or removes it.
    pub fn put_nodes(&self, nodes: &[(String, Option<NodeRecord>)]) -> Result<(), WriteError> {
        self.write(|write| {
            self.put_named(write, NODES, nodes.iter().map(|(name, node)| (name.as_str(), node.as_ref())))
        })
    }

    /// Stores each record, or removes it.
    fn put_named<'a, T: Serialize + 'a>(
        &self,
        write: &WriteTransaction,
        table: Named,
        entries: impl Iterator<Item = (&'a str, Option<&'a T>)>,
    ) -> Result<(), StoreError> {
        let mut table = write.open_table(table).map_err(self.redb())?;
        for (key, value) in entries {
            match value {
                Some(value) => table.insert(key, encode(value)?.as_slice()).map_err(self.redb())?,
                None => table.remove(key).map_err(self.redb())?,
            };
        }
        Ok(())
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8], key: impl FnOnce() -> String) -> Result<T, StoreError> {
        let damaged = |source| StoreError::Damaged { path: self.path.clone(), key: key(), source };
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// Locks the file, checks its bytes and opens it.
fn database(path: &Path, file: File, opener: &Opener) -> Result<Database, StoreError> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
        // A file system without locks; redb says what it needs.
        Err(TryLockError::Error(_)) => {}
    }
    image::check(path, &file)?;
    caught(path, || {
        opener(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
            other => mapped(path)(other),
        })
    })
}

fn prepare(path: &Path, db: &Database) -> Result<(), StoreError> {
    let write = db.begin_write().map_err(mapped(path))?;
    {
        let mut meta = write.open_table(META).map_err(mapped(path))?;
        write.open_table(PEERS).map_err(mapped(path))?;
        write.open_table(CLASSES).map_err(mapped(path))?;
        write.open_table(KEYS).map_err(mapped(path))?;
        write.open_table(NODES).map_err(mapped(path))?;
        let found = meta.get("format").map_err(mapped(path))?.map(|v| v.value());
        match found {
            None => {
                meta.insert("format", FORMAT).map_err(mapped(path))?;
                meta.insert("revision", 1).map_err(mapped(path))?;
            }
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::Format { path: path.to_owned(), found, known: FORMAT }),
        }
    }
    write.commit().map_err(mapped(path))
}

/// Writes as much as a change takes, and removes it again.
fn probe(path: &Path, db: &Database) -> Result<(), StoreError> {
    for value in [Some(vec![0; PROBE_BYTES]), None] {
        let write = db.begin_write().map_err(mapped(path))?;
        {
            let mut table = write.open_table(PROBE).map_err(mapped(path))?;
            match &value {
                Some(value) => table.insert("room", value.as_slice()).map_err(mapped(path))?,
                None => table.remove("room").map_err(mapped(path))?,
            };
        }
        write.commit().map_err(mapped(path))?;
    }
    Ok(())
}

/// Writes all bytes of the file as they are. After an fsync that failed, Linux calls the pages
/// clean that it could not write, so what is read may not be on disk.
fn rewrite(file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let mut bytes = vec![0; REWRITE_BYTES];
    let mut at = 0;
    while at < length {
        let part = usize::try_from(length - at).unwrap_or(REWRITE_BYTES).min(REWRITE_BYTES);
        file.read_exact_at(&mut bytes[..part], at)?;
        file.write_all_at(&bytes[..part], at)?;
        at += part as u64;
    }
    file.sync_all()
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(StoreError::Encode)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
