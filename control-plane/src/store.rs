//! The store of settings, revision and known nodes: one redb file.
//!
//! A commit is on disk when `commit` returns, and holds either all of a revision or nothing of it;
//! that is redb's promise (copy on write, checksums, fsync), so kill -9 at any moment loses no
//! change whose call has returned. One process at a time: redb locks the file.
//! Cost: one or two fsyncs a change. Blocks: call it from a thread that may. Bound:
//! `PEERS_PER_UPSTREAM_MAX` × `UPSTREAMS_MAX` records.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    classes,
    model::{Changes, Config, Record},
};

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

/// A table of records by one name.
type Named = TableDefinition<'static, &'static str, &'static [u8]>;

/// The layout of the file; another number is refused.
const FORMAT: u64 = 1;

/// The stored record of a node, so that operators see its peers while it is disconnected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeRecord {
    /// By its last Hello.
    pub module_version: String,
    /// By its last Hello.
    pub nginx_version: String,
    /// By its last Hello.
    pub worker_processes: u32,
    /// By its last Hello.
    pub upstreams: Vec<UpstreamRecord>,
    /// By its last Hello.
    pub classes: Vec<classes::Declared>,
}

/// A declared upstream, as kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamRecord {
    /// Its name.
    pub name: String,
    /// Its peers.
    pub peers: Vec<PeerRecord>,
}

/// A declared peer, as kept; as in `v1::DeclaredPeer`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PeerRecord {
    pub address: String,
    pub server: String,
    pub weight: u32,
    pub max_conns: u32,
    pub backup: bool,
    pub down: bool,
}

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
    #[error("store {path} has format {found}, this pincerd knows {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
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
fn redb<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> StoreError + Copy + '_ {
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

/// The embedded store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    db: Database,
}

impl Store {
    /// Opens the file, or makes it (mode 0600). Repairs what a kill left.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let db = redb::Builder::new().create_file(file.map_err(failed)?).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
            other => redb(path)(other),
        })?;
        let store = Self { path: path.to_owned(), db };
        store.prepare()?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(store)
    }

    fn redb<E: Into<redb::Error>>(&self) -> impl Fn(E) -> StoreError + '_ {
        redb(&self.path)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(self.redb())?;
        {
            let mut meta = write.open_table(META).map_err(self.redb())?;
            write.open_table(PEERS).map_err(self.redb())?;
            write.open_table(CLASSES).map_err(self.redb())?;
            write.open_table(KEYS).map_err(self.redb())?;
            write.open_table(NODES).map_err(self.redb())?;
            let found = meta.get("format").map_err(self.redb())?.map(|v| v.value());
            match found {
                None => {
                    meta.insert("format", FORMAT).map_err(self.redb())?;
                    meta.insert("revision", 1).map_err(self.redb())?;
                }
                Some(FORMAT) => {}
                Some(found) => return Err(StoreError::Format { path: self.path.clone(), found }),
            }
        }
        write.commit().map_err(self.redb())
    }

    /// Loads the settings of the last revision.
    pub fn load(&self) -> Result<Config, StoreError> {
        let read = self.db.begin_read().map_err(self.redb())?;
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
        config.classes = self.load_named(CLASSES)?.into_iter().collect();
        config.keys = self.load_named(KEYS)?.into_iter().collect();
        Ok(config)
    }

    fn load_named<T: DeserializeOwned>(&self, table: Named) -> Result<Vec<(String, T)>, StoreError> {
        let read = self.db.begin_read().map_err(self.redb())?;
        let mut all = Vec::new();
        for entry in read.open_table(table).map_err(self.redb())?.iter().map_err(self.redb())? {
            let (key, value) = entry.map_err(self.redb())?;
            all.push((key.value().to_owned(), self.parse(value.value(), || key.value().to_owned())?));
        }
        Ok(all)
    }

    /// Writes a revision; on disk when this returns.
    pub fn commit(&self, next: &Config, changes: &Changes) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(self.redb())?;
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
        self.put_named(&write, CLASSES, changes.classes.iter().map(|c| (c.id.as_str(), next.classes.get(&c.id))))?;
        self.put_named(&write, KEYS, changes.keys.iter().map(|c| (c.id.as_str(), next.keys.get(&c.id))))?;
        write.commit().map_err(self.redb())
    }

    /// All known nodes by name.
    pub fn load_nodes(&self) -> Result<Vec<(String, NodeRecord)>, StoreError> {
        self.load_named(NODES)
    }

    /// Stores a node, or removes it.
    pub fn put_node(&self, name: &str, node: Option<&NodeRecord>) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(self.redb())?;
        self.put_named(&write, NODES, std::iter::once((name, node)))?;
        write.commit().map_err(self.redb())
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

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(StoreError::Encode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keys,
        model::{Change, Replaced, Settings},
    };

    fn change(address: &str, after: Option<Record>) -> Change {
        Change { upstream: "llm".into(), address: address.into(), before: None, after }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let settings = Settings { weight: Some(9), ..Settings::default() };
        let changes = [
            change("127.0.0.1:1", Some(Record { settings, added: false, revision: 0 })),
            change("unix:/a", Some(Record { added: true, ..Record::default() })),
        ];
        let store = Store::open(&path).unwrap();
        assert_eq!(store.load().unwrap().revision, 1, "a fresh store starts at revision 1");
        let config = store.load().unwrap().with(&changes, 2, 1_700_000_000);
        store.commit(&config, &changes.to_vec().into()).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Locked(_))));
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.load().unwrap(), config);
        let next = config.with(&[change("unix:/a", None)], 3, 1_700_000_001);
        store.commit(&next, &vec![change("unix:/a", None)].into()).unwrap();
        assert_eq!(store.load().unwrap(), next);
    }

    fn key() -> keys::Record {
        keys::Record {
            tenant: "acme".into(),
            class: "vip".into(),
            cidrs: vec!["10.0.0.0/8".into()],
            expire_s: Some(7),
            sha256: keys::Hash([7; 32]),
            old: Some(keys::Old { sha256: keys::Hash([8; 32]), until_s: 5 }),
            created_s: 1,
            rotated_s: 2,
            revoked_s: None,
            ended: false,
            revision: 0,
        }
    }

    #[test]
    fn classes_and_keys_are_kept_with_the_revision() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let settings = classes::Settings { burst: Some(7), ..classes::Settings::default() };
        let class = classes::Record { settings, added: true, revision: 0 };
        let changes = Changes {
            classes: vec![Replaced { id: "vip".into(), before: None, after: Some(class) }],
            keys: vec![Replaced { id: "k1".into(), before: None, after: Some(key()) }],
            ..Changes::default()
        };
        let store = Store::open(&path).unwrap();
        let config = store.load().unwrap().with_all(&changes, 2, 3);
        store.commit(&config, &changes).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.load().unwrap(), config);
        assert_eq!(config.keys["k1"].revision, 2);
        let gone = Changes {
            classes: vec![Replaced { id: "vip".into(), before: None, after: None }],
            keys: vec![Replaced { id: "k1".into(), before: None, after: None }],
            ..Changes::default()
        };
        let next = config.with_all(&gone, 3, 4);
        store.commit(&next, &gone).unwrap();
        let found = store.load().unwrap();
        assert!(found == next && found.classes.is_empty() && found.keys.is_empty());
    }

    #[test]
    fn a_store_from_before_classes_and_keys_opens_with_all_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let db = Database::create(&path).unwrap();
        let write = db.begin_write().unwrap();
        {
            let mut meta = write.open_table(META).unwrap();
            for (key, value) in [("format", 1), ("revision", 41), ("created_s", 1_700_000_000)] {
                meta.insert(key, value).unwrap();
            }
            let record = br#"{"settings":{"weight":9},"added":false,"revision":41}"#;
            write.open_table(PEERS).unwrap().insert(("llm", "127.0.0.1:1"), record.as_slice()).unwrap();
            let node = br#"{"module_version":"0.1.0","nginx_version":"1.22.1","worker_processes":4,"upstreams":[]}"#;
            write.open_table(NODES).unwrap().insert("web-1", node.as_slice()).unwrap();
        }
        write.commit().unwrap();
        drop(db);
        let store = Store::open(&path).unwrap();
        let config = store.load().unwrap();
        assert_eq!((config.revision, config.created_s), (41, 1_700_000_000));
        assert_eq!(config.record("llm", "127.0.0.1:1").and_then(|r| r.settings.weight), Some(9));
        assert!(config.classes.is_empty() && config.keys.is_empty());
        let nodes = store.load_nodes().unwrap();
        assert_eq!((nodes[0].0.as_str(), nodes[0].1.worker_processes, nodes[0].1.classes.len()), ("web-1", 4, 0));
    }

    #[test]
    fn nodes_are_kept_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.redb")).unwrap();
        let node = NodeRecord { nginx_version: "1.22.1".into(), ..NodeRecord::default() };
        store.put_node("web-1", Some(&node)).unwrap();
        assert_eq!(store.load_nodes().unwrap(), [("web-1".to_owned(), node)]);
        store.put_node("web-1", None).unwrap();
        assert_eq!(store.load_nodes().unwrap(), []);
    }

    #[test]
    fn a_file_that_is_no_store_or_damaged_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let named = |error: StoreError| {
            let said = error.to_string();
            let advice = format!("restore it from a backup, or move it away (mv {0} {0}.damaged)", path.display());
            assert!(said.contains(&path.display().to_string()) && said.contains(&advice), "{said}");
        };
        std::fs::write(&path, "no store at all, but long enough to be taken for one".repeat(100)).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::NoStore { .. }), "{error}");
        named(error);
        std::fs::remove_file(&path).unwrap();
        let store = Store::open(&path).unwrap();
        let write = store.db.begin_write().unwrap();
        write.open_table(NODES).unwrap().insert("web-1", b"{".as_slice()).unwrap();
        write.commit().unwrap();
        let error = store.load_nodes().unwrap_err();
        assert!(error.to_string().contains("its record of web-1 cannot be read"), "{error}");
        named(error);
    }
}
