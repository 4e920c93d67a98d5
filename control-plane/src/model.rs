//! The settings of operators, as one value per revision, and the snapshot of them that nodes get.
//!
//! Pure: no I/O, no clock. It never holds declarations of nodes, which are in `fleet`. Cost: a
//! change copies the maps, a few hundred entries in practice.
//! Bound: `check` refuses settings that exceed `pincer_proto::limits`.

use std::collections::BTreeMap;

use pincer_proto::{limits, v1};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{classes, keys};

/// The state that an operator sets for a peer. If it is unset, that of nginx.conf applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The peer receives requests.
    Active,
    /// The peer receives no new requests.
    Draining,
    /// As `down` in nginx.conf.
    Down,
}

impl State {
    /// The wire's value; `None` is unspecified.
    pub fn to_proto(state: Option<Self>) -> v1::PeerState {
        match state {
            None => v1::PeerState::Unspecified,
            Some(Self::Active) => v1::PeerState::Active,
            Some(Self::Draining) => v1::PeerState::Draining,
            Some(Self::Down) => v1::PeerState::Down,
        }
    }

    /// Reads the wire's value; a number that isn't in the enum is `Err`.
    pub fn from_proto(value: i32) -> Result<Option<Self>, i32> {
        match v1::PeerState::try_from(value) {
            Ok(v1::PeerState::Unspecified) => Ok(None),
            Ok(v1::PeerState::Active) => Ok(Some(Self::Active)),
            Ok(v1::PeerState::Draining) => Ok(Some(Self::Draining)),
            Ok(v1::PeerState::Down) => Ok(Some(Self::Down)),
            Err(_) => Err(value),
        }
    }

    /// As in `pincerctl peer set --state`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// The fields of a peer that an operator may set; `None` = nginx.conf's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// 0 = no new requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// 0 = unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_conns: Option<u16>,
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// All that is kept of a peer. The store's format: fields may be added, never given another
/// meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The settings that operators made.
    #[serde(default)]
    pub settings: Settings,
    /// An operator added the peer.
    #[serde(default)]
    pub added: bool,
    /// The last revision that changed it.
    pub revision: u64,
}

impl Record {
    /// Whether the record is sent to nodes.
    fn says_anything(&self) -> bool {
        self.added || self.settings != Settings::default()
    }
}

/// A change of one peer; `None` = no record. `after.revision` is given by `Config::with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The upstream.
    pub upstream: String,
    /// The peer's address.
    pub address: String,
    /// The record before the change.
    pub before: Option<Record>,
    /// The record after the change.
    pub after: Option<Record>,
}

/// A change of something that has a name; `None` = no record. `after`'s revision is given by
/// `Config::with_all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced<T> {
    /// The name.
    pub id: String,
    /// The record before the change.
    pub before: Option<T>,
    /// The record after the change.
    pub after: Option<T>,
}

/// All that one revision changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Peers.
    pub peers: Vec<Change>,
    /// Classes.
    pub classes: Vec<Replaced<classes::Record>>,
    /// API keys.
    pub keys: Vec<Replaced<keys::Record>>,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.classes.is_empty() && self.keys.is_empty()
    }

    /// Adds the changes of `more`.
    pub fn merge(&mut self, more: Self) {
        self.peers.extend(more.peers);
        self.classes.extend(more.classes);
        self.keys.extend(more.keys);
    }
}

impl From<Vec<Change>> for Changes {
    fn from(peers: Vec<Change>) -> Self {
        Self { peers, ..Self::default() }
    }
}

/// An upstream's records by address.
pub type Peers = BTreeMap<String, Record>;

/// All that operators have set, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Rises with each change; 1 is the empty one.
    pub revision: u64,
    /// Seconds since 1970 when the revision was made; for people only.
    pub created_s: i64,
    /// By name.
    pub upstreams: BTreeMap<String, Peers>,
    /// By name.
    pub classes: BTreeMap<String, classes::Record>,
    /// By id.
    pub keys: BTreeMap<String, keys::Record>,
}

/// A change would exceed a bound. The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {count} would be more than the {max} allowed")]
pub struct Full {
    /// The kind of entries.
    pub what: String,
    /// The number that there would be.
    pub count: usize,
    /// The bound.
    pub max: usize,
}

impl Config {
    /// The peer's record.
    pub fn record(&self, upstream: &str, address: &str) -> Option<&Record> {
        self.upstreams.get(upstream)?.get(address)
    }

    /// The settings after `changes`, as `revision`. Each changed record gets this revision.
    #[must_use]
    pub fn with(&self, changes: &[Change], revision: u64, created_s: i64) -> Self {
        let mut next = Self { revision, created_s, ..self.clone() };
        for change in changes {
            let peers = next.upstreams.entry(change.upstream.clone()).or_default();
            match change.after {
                Some(record) => peers.insert(change.address.clone(), Record { revision, ..record }),
                None => peers.remove(&change.address),
            };
            if peers.is_empty() {
                next.upstreams.remove(&change.upstream);
            }
        }
        next
    }

    /// The same for all kinds of changes.
    #[must_use]
    pub fn with_all(&self, changes: &Changes, revision: u64, created_s: i64) -> Self {
        let mut next = self.with(&changes.peers, revision, created_s);
        for change in &changes.classes {
            match change.after {
                Some(record) => next.classes.insert(change.id.clone(), classes::Record { revision, ..record }),
                None => next.classes.remove(&change.id),
            };
        }
        for change in &changes.keys {
            match change.after.clone() {
                Some(record) => next.keys.insert(change.id.clone(), keys::Record { revision, ..record }),
                None => next.keys.remove(&change.id),
            };
        }
        next
    }

    /// Checks the bounds that concern records alone, and the size of the snapshot.
    pub fn check(&self, now_s: i64) -> Result<(), Full> {
        let over = |what: &str, count, max| Full { what: what.to_owned(), count, max };
        if self.upstreams.len() > limits::UPSTREAMS_MAX {
            return Err(over("upstreams with settings", self.upstreams.len(), limits::UPSTREAMS_MAX));
        }
        let snapshot = self.snapshot(now_s);
        if snapshot.keys.len() > limits::KEYS_MAX {
            return Err(over("valid secrets of keys", snapshot.keys.len(), limits::KEYS_MAX));
        }
        let snapshot_bytes = snapshot.encoded_len();
        if snapshot_bytes > limits::SNAPSHOT_BYTES_MAX {
            return Err(over("bytes of all settings", snapshot_bytes, limits::SNAPSHOT_BYTES_MAX));
        }
        Ok(())
    }

    /// The snapshot for nodes: sorted, without empty records and without secrets that have expired.
    pub fn snapshot(&self, now_s: i64) -> v1::Snapshot {
        let upstreams = self.upstreams.iter().filter_map(|(name, peers)| {
            let peers: Vec<_> =
                peers.iter().filter(|(_, r)| r.says_anything()).map(|(a, r)| peer_config(a, r)).collect();
            (!peers.is_empty()).then(|| v1::UpstreamConfig { name: name.clone(), peers })
        });
        let classes = self.classes.iter().filter_map(|(name, record)| record.config(name)).collect();
        let mut keys: Vec<_> = self.keys.values().flat_map(|key| key.configs(now_s)).collect();
        keys.sort_unstable_by(|a, b| a.sha256.cmp(&b.sha256));
        v1::Snapshot {
            revision: self.revision,
            create_time: Some(prost_types::Timestamp { seconds: self.created_s, nanos: 0 }),
            upstreams: upstreams.collect(),
            classes,
            keys,
        }
    }
}

fn peer_config(address: &str, record: &Record) -> v1::PeerConfig {
    v1::PeerConfig {
        address: address.to_owned(),
        weight: record.settings.weight.map(u32::from),
        max_conns: record.settings.max_conns.map(u32::from),
        state: State::to_proto(record.settings.state).into(),
        added: record.added,
        revision: record.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(address: &str, after: Option<Record>) -> Change {
        Change { upstream: "llm".into(), address: address.into(), before: None, after }
    }

    #[test]
    fn the_snapshot_leaves_out_what_says_nothing() {
        let silent = Record::default();
        let weighted = Record { settings: Settings { weight: Some(0), ..Settings::default() }, ..Record::default() };
        let config =
            Config::default().with(&[change("127.0.0.1:1", Some(silent)), change("127.0.0.1:2", Some(weighted))], 2, 0);
        let snapshot = config.snapshot(0);
        assert_eq!(snapshot.revision, 2);
        assert_eq!(snapshot.upstreams.len(), 1);
        assert_eq!(snapshot.upstreams[0].peers.len(), 1);
        assert_eq!(snapshot.upstreams[0].peers[0].weight, Some(0));
        let config = config.with(&[change("127.0.0.1:2", None)], 3, 0);
        assert!(config.snapshot(0).upstreams.is_empty());
        assert_eq!(config.record("llm", "127.0.0.1:1").map(|r| r.revision), Some(2));
    }

    #[test]
    fn settings_past_the_bound_are_refused() {
        let mut config = Config::default();
        for n in 0..=limits::UPSTREAMS_MAX {
            config.upstreams.insert(format!("u{n}"), Peers::from([("127.0.0.1:1".into(), Record::default())]));
        }
        assert!(config.check(0).unwrap_err().to_string().contains("upstreams"));
        let peers: Peers =
            (0..20_000).map(|n| (format!("unix:/{n:0>100}"), Record { added: true, ..Record::default() })).collect();
        let config = Config { upstreams: BTreeMap::from([("llm".into(), peers)]), ..Config::default() };
        assert!(config.check(0).unwrap_err().to_string().contains("bytes"));
    }
}
