//! The nodes: who is connected, what each has applied or refused, and what all of them declare.
//!
//! A node is known by its name and stays known when it leaves. A *session* is one stream; an
//! *instance* is one shared zone, which two sessions feed for a while after a reload, so an
//! instance has applied what any of its sessions acknowledged. Pure: the wall clock comes in as an
//! argument and is only shown. Every change gets a number, so that a watcher can ask for what
//! changed since.
//! Cost: what all declare is put together when it is asked for, and kept until a node that declares
//! something else, or nodes that do not agree, come or go. Bound: `NODES_MAX`,
//! `SESSIONS_PER_NODE_MAX`; the longest silent node makes room.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use pincer_proto::{google::rpc, limits, v1};

use crate::{declared::Declared, hello::Hello, store::NodeRecord};

/// Nodes known at once.
pub const NODES_MAX: usize = 1024;

/// Streams of one node at once: a reload has two per instance, a binary upgrade two instances.
pub const SESSIONS_PER_NODE_MAX: usize = 16;

/// Names a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The node's name.
    pub node: String,
    /// Its instance.
    pub instance: String,
    id: u64,
}

/// The revisions that an instance has applied and refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// The last revision that the instance acknowledged or named in its Hello.
    pub applied_revision: u64,
    /// The newest refusal, until a newer revision is acknowledged.
    pub refused: Option<(u64, rpc::Status)>,
    /// The time from when the acknowledged revision was made, or the session began, until its Ack
    /// came.
    pub ack_latency: Option<Duration>,
    /// The time that the node took to apply the revision, as the node measured it.
    pub apply_duration: Option<Duration>,
}

/// One shared zone.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    sessions: BTreeSet<u64>,
    /// What it has applied.
    pub progress: Progress,
    /// The last statistics of its peers.
    pub stats: Vec<v1::UpstreamStats>,
    /// The last statistics of its classes.
    pub classes: Vec<v1::ClassStats>,
}

impl Instance {
    /// Open streams.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

/// One node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// By its last Hello.
    pub record: NodeRecord,
    /// Its connected instances.
    pub instances: BTreeMap<String, Instance>,
    /// The progress of the instance that left last; shown while none is connected.
    pub last: Progress,
    /// Seconds since 1970 when the node last connected or disconnected.
    pub updated_s: i64,
    hello: u64,
    version: u64,
}

impl Node {
    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        !self.instances.is_empty()
    }
}

/// Why a node's stream was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The fleet is full and all nodes are connected.
    #[error("{NODES_MAX} nodes are connected, no more are allowed")]
    Nodes,
    /// The node has too many streams open. The fault of a second machine with the same name, or of
    /// the node.
    #[error("node has {SESSIONS_PER_NODE_MAX} streams open, no more are allowed; does another machine use its name?")]
    Sessions,
}

/// Why a node wasn't forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// No node has the name. The caller's fault.
    #[error("no node {0:?} is known")]
    Unknown(String),
    /// The node is connected. The caller's fault.
    #[error(
        "node {0:?} is connected: only a node that is gone can be deleted, so end its nginx first, or take pincer_control_plane out of its nginx.conf"
    )]
    Connected(String),
}

/// A stream that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The stream.
    pub session: Session,
    /// Names of nodes that changed or were evicted, and have to be written to the store.
    pub to_store: Vec<String>,
}

/// All nodes.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    nodes: BTreeMap<String, Node>,
    /// Empty = has to be computed again.
    declared: OnceLock<Arc<Declared>>,
    clock: u64,
}

impl Fleet {
    /// The fleet as the store has it, with no node connected.
    pub fn restored(records: Vec<(String, NodeRecord)>) -> Self {
        let nodes = records.into_iter().map(|(name, record)| (name, Node { record, ..Node::default() }));
        Self { nodes: nodes.collect(), ..Self::default() }
    }

    /// The declarations of all nodes. Where they differ, those of connected nodes come before those
    /// of disconnected ones, and later Hellos before earlier ones.
    pub fn declared(&self) -> Arc<Declared> {
        Arc::clone(self.declared.get_or_init(|| Arc::new(self.declare())))
    }

    /// All nodes by name.
    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    /// The number of the last change.
    pub fn version(&self) -> u64 {
        self.clock
    }

    /// Nodes that changed after `version`.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter().filter(move |(_, node)| node.version > version)
    }

    /// Accepts a stream.
    pub fn join(&mut self, hello: Hello, now_s: i64) -> Result<Joined, JoinError> {
        let mut to_store = Vec::new();
        if !self.nodes.contains_key(&hello.node) {
            to_store.extend(self.make_room()?);
        }
        self.clock += 1;
        let (id, is_new) = (self.clock, !self.nodes.contains_key(&hello.node));
        let node = self.nodes.entry(hello.node.clone()).or_default();
        if node.instances.values().map(Instance::sessions).sum::<usize>() >= SESSIONS_PER_NODE_MAX {
            return Err(JoinError::Sessions);
        }
        let is_changed = is_new || node.record != hello.record;
        (node.record, node.updated_s, node.version, node.hello) = (hello.record, now_s, id, id);
        let instance = node.instances.entry(hello.instance.clone()).or_default();
        instance.sessions.insert(id);
        instance.progress.applied_revision = instance.progress.applied_revision.max(hello.applied_revision);
        if is_changed {
            to_store.push(hello.node.clone());
        }
        if to_store.is_empty() {
            self.reorder();
        } else {
            self.declared = OnceLock::new();
        }
        Ok(Joined { session: Session { node: hello.node, instance: hello.instance, id }, to_store })
    }

    /// Evicts the longest silent node if the fleet is full.
    fn make_room(&mut self) -> Result<Option<String>, JoinError> {
        if self.nodes.len() < NODES_MAX {
            return Ok(None);
        }
        let silent = self.nodes.iter().filter(|(_, n)| !n.is_connected()).min_by_key(|(_, n)| n.hello);
        let name = silent.map(|(name, _)| name.clone()).ok_or(JoinError::Nodes)?;
        self.nodes.remove(&name);
        Ok(Some(name))
    }

    fn declare(&self) -> Declared {
        let mut by_rank: Vec<_> = self.nodes.values().collect();
        by_rank.sort_by_key(|node| (node.is_connected(), node.hello));
        let declared: Vec<_> = by_rank.iter().map(|node| node.record.declared()).collect();
        let classes = by_rank.iter().map(|node| node.record.classes.as_slice());
        Declared::of(declared.iter().map(Vec::as_slice)).with_classes(classes)
    }

    /// A node connected or disconnected. Its declarations need no new computation where all nodes
    /// declare the same.
    fn reorder(&mut self) {
        if self.declared.get().is_some_and(|declared| declared.is_disputed) {
            self.declared = OnceLock::new();
        }
    }

    fn instance(&mut self, session: &Session) -> Option<(&mut u64, &mut Instance)> {
        let node = self.nodes.get_mut(&session.node)?;
        let instance = node.instances.get_mut(&session.instance)?;
        Some((&mut node.version, instance))
    }

    /// Notes that `revision` is in the zone. An older one than before changes nothing.
    pub fn ack(&mut self, session: &Session, revision: u64, latency: Option<Duration>, apply: Option<Duration>) {
        let clock = self.clock + 1;
        let Some((version, instance)) = self.instance(session) else { return };
        let progress = &mut instance.progress;
        if revision < progress.applied_revision {
            return;
        }
        progress.applied_revision = revision;
        (progress.ack_latency, progress.apply_duration) = (latency, apply);
        if progress.refused.as_ref().is_some_and(|(refused, _)| *refused <= revision) {
            progress.refused = None;
        }
        *version = clock;
        self.clock = clock;
    }

    /// Notes that `revision` was refused.
    pub fn nack(&mut self, session: &Session, revision: u64, error: rpc::Status) {
        let clock = self.clock + 1;
        let Some((version, instance)) = self.instance(session) else { return };
        instance.progress.refused = Some((revision, error));
        *version = clock;
        self.clock = clock;
    }

    /// Keeps the statistics of peers and classes. No watcher is notified.
    pub fn stats(&mut self, session: &Session, stats: v1::Stats) {
        let v1::Stats { mut upstreams, mut classes } = stats;
        upstreams.truncate(limits::UPSTREAMS_MAX);
        for upstream in &mut upstreams {
            upstream.peers.truncate(limits::PEERS_PER_UPSTREAM_MAX);
            upstream.peers.shrink_to_fit();
        }
        upstreams.shrink_to_fit();
        classes.truncate(limits::CLASSES_PER_NODE_MAX);
        classes.shrink_to_fit();
        if let Some((_, instance)) = self.instance(session) {
            (instance.stats, instance.classes) = (upstreams, classes);
        }
    }

    /// Ends a stream.
    pub fn leave(&mut self, session: &Session, now_s: i64) {
        let clock = self.clock + 1;
        let Some(node) = self.nodes.get_mut(&session.node) else { return };
        let Some(instance) = node.instances.get_mut(&session.instance) else { return };
        if !instance.sessions.remove(&session.id) {
            return;
        }
        if instance.sessions.is_empty() {
            node.last = std::mem::take(&mut instance.progress);
            node.instances.remove(&session.instance);
        }
        (node.version, node.updated_s) = (clock, now_s);
        let is_away = !node.is_connected();
        self.clock = clock;
        if is_away {
            self.reorder();
        }
    }

    /// Checks that a node may be forgotten.
    pub fn check_forget(&self, name: &str) -> Result<(), ForgetError> {
        match self.nodes.get(name) {
            None => Err(ForgetError::Unknown(name.to_owned())),
            Some(node) if node.is_connected() => Err(ForgetError::Connected(name.to_owned())),
            Some(_) => Ok(()),
        }
    }

    /// Forgets a node and what it declared.
    pub fn forget(&mut self, name: &str) -> Result<(), ForgetError> {
        self.check_forget(name)?;
        self.nodes.remove(name);
        self.clock += 1;
        self.declared = OnceLock::new();
        Ok(())
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
