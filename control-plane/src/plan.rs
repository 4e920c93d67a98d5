//! Turns a request of an operator into changes of records, or refuses it.
//!
//! Pure: the settings and the declarations in force come in as arguments, nothing is changed here.
//! A request that would change nothing gives no changes, so no revision is made. The one exception
//! is the state "active", which makes a revision each time it is set. Cost: the peers of the
//! upstreams that are named. Bound: `PEERS_PER_UPSTREAM_MAX`.

use std::collections::{BTreeMap, BTreeSet};

use pincer_proto::limits;

use crate::{
    classes,
    declared::Declared,
    keys,
    model::{Change, Changes, Config, Full, Record, Settings, State},
    names,
    refusal::{Refusal, check_etag},
};

/// A request of an operator. Its names and values have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Add a peer.
    Create {
        /// The upstream.
        upstream: String,
        /// The peer's address.
        address: String,
        /// Its settings.
        settings: Settings,
    },
    /// Set fields of a peer.
    Update {
        /// The upstream.
        upstream: String,
        /// The peer's address.
        address: String,
        /// The values of the fields in `mask`.
        settings: Settings,
        /// Which fields.
        mask: Mask,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
    },
    /// Remove a peer that was added.
    Delete {
        /// The upstream.
        upstream: String,
        /// The peer's address.
        address: String,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
    },
    /// Replace all settings of some upstreams.
    Apply(Vec<Desired>),
    /// Something about a class.
    Class(classes::plan::Op),
    /// Something about a key.
    Key(keys::plan::Op),
    /// Several of different kinds, in one revision.
    All(Vec<Self>),
}

/// Fields of `Settings`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mask {
    /// `weight`.
    pub weight: bool,
    /// `max_conns`.
    pub max_conns: bool,
    /// `state`.
    pub state: bool,
}

/// All settings that an upstream is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The upstream.
    pub upstream: String,
    /// Its peers with settings.
    pub peers: Vec<DesiredPeer>,
}

/// A peer in `Desired`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    /// The peer's address.
    pub address: String,
    /// All its settings.
    pub settings: Settings,
    /// Add it if it isn't there.
    pub add: bool,
    /// The etag that the caller has read; `None` = any.
    pub etag: Option<String>,
}

/// The changes of every kind that `op` makes.
pub fn plan_all(op: &Op, config: &Config, declared: &Declared) -> Result<Changes, Refusal> {
    match op {
        Op::Class(op) => Ok(Changes { classes: classes::plan::plan(op, config, declared)?, ..Changes::default() }),
        Op::Key(op) => Ok(Changes { keys: keys::plan::plan(op, config)?, ..Changes::default() }),
        Op::All(ops) => {
            let mut all = Changes::default();
            for op in ops {
                all.merge(plan_all(op, config, declared)?);
            }
            Ok(all)
        }
        Op::Create { .. } | Op::Update { .. } | Op::Delete { .. } | Op::Apply(_) => {
            Ok(plan(op, config, declared)?.into())
        }
    }
}

/// The changes of peers that `op` makes. Empty if nothing changes.
pub fn plan(op: &Op, config: &Config, declared: &Declared) -> Result<Vec<Change>, Refusal> {
    let view = View { config, declared };
    let changes = match op {
        Op::Create { upstream, address, settings } => view.create(upstream, address, *settings)?,
        Op::Update { upstream, address, settings, mask, etag } => {
            view.update(upstream, address, *settings, *mask, etag.as_deref())?
        }
        Op::Delete { upstream, address, etag } => view.delete(upstream, address, etag.as_deref())?,
        Op::Apply(desired) => view.apply(desired)?,
        Op::Class(_) | Op::Key(_) | Op::All(_) => Vec::new(),
    };
    let changes: Vec<_> = changes.into_iter().filter(|change| is_renewal(op) || !is_same(change)).collect();
    view.check_room(&changes)?;
    Ok(changes)
}

/// Whether an operator sets a peer to active. This makes a revision even if the peer was active
/// before, since it lets a node try a peer again that failed meanwhile.
fn is_renewal(op: &Op) -> bool {
    matches!(op, Op::Update { settings, mask, .. } if mask.state && settings.state == Some(State::Active))
}

fn is_same(change: &Change) -> bool {
    let said = |record: Option<Record>| record.map(|r| (r.settings, r.added)).unwrap_or_default();
    match (change.before, change.after) {
        (Some(_), None) => false,
        (before, after) => said(before) == said(after),
    }
}

fn merged(old: Settings, new: Settings, mask: Mask) -> Settings {
    Settings {
        weight: if mask.weight { new.weight } else { old.weight },
        max_conns: if mask.max_conns { new.max_conns } else { old.max_conns },
        state: if mask.state { new.state } else { old.state },
    }
}

struct View<'a> {
    config: &'a Config,
    declared: &'a Declared,
}

impl View<'_> {
    fn check_upstream(&self, upstream: &str) -> Result<(), Refusal> {
        if self.declared.upstream(upstream).is_none() && !self.config.upstreams.contains_key(upstream) {
            return Err(Refusal::NoUpstream(upstream.to_owned()));
        }
        Ok(())
    }

    fn is_declared(&self, upstream: &str, address: &str) -> bool {
        self.declared.peer(upstream, address).is_some()
    }

    fn is_declared_by_all(&self, upstream: &str, address: &str) -> bool {
        let nodes = self.declared.upstream(upstream).map_or(0, |u| u.nodes);
        self.declared.peer(upstream, address).is_some_and(|p| p.nodes >= nodes)
    }

    fn change(&self, upstream: &str, address: &str, after: Option<Record>) -> Change {
        let before = self.config.record(upstream, address).copied();
        Change { upstream: upstream.to_owned(), address: address.to_owned(), before, after }
    }

    fn check_etag(&self, upstream: &str, address: &str, given: Option<&str>) -> Result<(), Refusal> {
        let revision = self.config.record(upstream, address).map_or(0, |record| record.revision);
        check_etag(given, revision, || names::peer_name(upstream, address))
    }

    fn create(&self, upstream: &str, address: &str, settings: Settings) -> Result<Vec<Change>, Refusal> {
        self.check_upstream(upstream)?;
        let record = self.config.record(upstream, address);
        if record.is_some_and(|r| r.added) || self.is_declared_by_all(upstream, address) {
            return Err(Refusal::Exists(names::peer_name(upstream, address)));
        }
        Ok(vec![self.change(upstream, address, Some(Record { settings, added: true, revision: 0 }))])
    }

    fn update(
        &self,
        upstream: &str,
        address: &str,
        settings: Settings,
        mask: Mask,
        etag: Option<&str>,
    ) -> Result<Vec<Change>, Refusal> {
        self.check_upstream(upstream)?;
        let record = self.config.record(upstream, address).copied();
        if record.is_none() && !self.is_declared(upstream, address) {
            return Err(Refusal::NoPeer(names::peer_name(upstream, address)));
        }
        self.check_etag(upstream, address, etag)?;
        let record = record.unwrap_or_default();
        let settings = merged(record.settings, settings, mask);
        Ok(vec![self.change(upstream, address, self.kept(upstream, address, Record { settings, ..record }))])
    }

    /// `record`, unless it has no settings and belongs to a peer that no node declares any more.
    fn kept(&self, upstream: &str, address: &str, record: Record) -> Option<Record> {
        let says_anything = record.added || record.settings != Settings::default();
        (says_anything || self.is_declared(upstream, address)).then_some(record)
    }

    fn delete(&self, upstream: &str, address: &str, etag: Option<&str>) -> Result<Vec<Change>, Refusal> {
        self.check_upstream(upstream)?;
        let name = || names::peer_name(upstream, address);
        match self.config.record(upstream, address) {
            Some(record) if record.added || !self.is_declared(upstream, address) => {
                self.check_etag(upstream, address, etag)?;
                Ok(vec![self.change(upstream, address, None)])
            }
            None if !self.is_declared(upstream, address) => Err(Refusal::NoPeerToRemove(name())),
            _ => Err(Refusal::Declared(name())),
        }
    }

    fn apply(&self, desired: &[Desired]) -> Result<Vec<Change>, Refusal> {
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for upstream in desired {
            if !seen.insert(&upstream.upstream) {
                return Err(Refusal::Twice(names::upstream_name(&upstream.upstream)));
            }
            self.check_upstream(&upstream.upstream)?;
            self.apply_upstream(upstream, &mut changes)?;
        }
        Ok(changes)
    }

    fn apply_upstream(&self, desired: &Desired, changes: &mut Vec<Change>) -> Result<(), Refusal> {
        let upstream = &desired.upstream;
        let mut wanted = BTreeMap::new();
        for peer in &desired.peers {
            if wanted.insert(&peer.address, peer).is_some() {
                return Err(Refusal::Twice(names::peer_name(upstream, &peer.address)));
            }
            changes.push(self.apply_peer(upstream, peer)?);
        }
        for (address, record) in self.config.upstreams.get(upstream).into_iter().flatten() {
            if !wanted.contains_key(address) {
                let cleared = Record { revision: record.revision, ..Record::default() };
                changes.push(self.change(upstream, address, self.kept(upstream, address, cleared)));
            }
        }
        Ok(())
    }

    fn apply_peer(&self, upstream: &str, peer: &DesiredPeer) -> Result<Change, Refusal> {
        let record = self.config.record(upstream, &peer.address).copied();
        let is_new = record.is_none() && !self.is_declared(upstream, &peer.address);
        if is_new && !peer.add {
            return Err(Refusal::NoPeer(names::peer_name(upstream, &peer.address)));
        }
        self.check_etag(upstream, &peer.address, peer.etag.as_deref())?;
        let record = record.unwrap_or_default();
        let added = record.added || (peer.add && !self.is_declared_by_all(upstream, &peer.address));
        let after = Record { settings: peer.settings, added, ..record };
        Ok(self.change(upstream, &peer.address, self.kept(upstream, &peer.address, after)))
    }

    /// Refuses changes after which an upstream would have too many peers.
    fn check_room(&self, changes: &[Change]) -> Result<(), Refusal> {
        let grown: BTreeSet<_> = changes.iter().filter(|c| c.before.is_none()).map(|c| c.upstream.as_str()).collect();
        for upstream in grown {
            let declared = self.declared.upstream(upstream).into_iter().flat_map(|u| u.peers.keys());
            let records = self.config.upstreams.get(upstream).into_iter().flat_map(|peers| peers.keys());
            let mut addresses: BTreeSet<&str> = declared.chain(records).map(String::as_str).collect();
            for change in changes.iter().filter(|c| c.upstream == upstream) {
                match change.after {
                    Some(_) => addresses.insert(&change.address),
                    None => addresses.remove(change.address.as_str()),
                };
            }
            let (count, max) = (addresses.len(), limits::PEERS_PER_UPSTREAM_MAX);
            if count > max {
                return Err(Full { what: format!("peers of {}", names::upstream_name(upstream)), count, max }.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
