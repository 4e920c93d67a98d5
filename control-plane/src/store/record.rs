//! What is kept of a node, so that operators see its peers while it is disconnected. The store's
//! format: fields may be added, never given another meaning.

use serde::{Deserialize, Serialize};

use crate::classes;

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
