//! The union of what all nodes' nginx.conf declare, for looking peers up.
//!
//! Pure. Built anew by `fleet`, never changed in place. Where nodes differ, the last one is shown:
//! `fleet` puts those that are away first, and of equals the one that said Hello last to the end.
//! Cost: building visits every declared peer of every node. Bound: `NODES_MAX` ×
//! `PEERS_PER_NODE_MAX`.

use std::collections::BTreeMap;

use pincer_proto::v1;

use crate::classes;

/// A peer as declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// The declaration of the last node.
    pub spec: v1::DeclaredPeer,
    /// The number of nodes that declare it.
    pub nodes: u32,
}

/// An upstream as declared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Upstream {
    /// The number of nodes that declare it.
    pub nodes: u32,
    /// By address.
    pub peers: BTreeMap<String, Peer>,
}

/// A class as declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class {
    /// The declaration of the last node.
    pub settings: classes::Settings,
    /// The number of nodes that declare it.
    pub nodes: u32,
}

/// The classes that one node declares, each with its share if it has one.
pub type Shares = BTreeMap<String, Option<u8>>;

/// All declarations of all nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// Upstreams by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Classes by name.
    pub classes: BTreeMap<String, Class>,
    /// Each node's, where it declares any.
    pub shares: Vec<Shares>,
    /// Nodes known.
    pub nodes: u32,
    /// Two nodes declare a peer or a class in different ways, so the order of the nodes matters.
    pub is_disputed: bool,
}

impl Declared {
    /// The union of nodes; of two that differ the later one is shown.
    pub fn of<'a>(nodes: impl Iterator<Item = &'a [v1::DeclaredUpstream]>) -> Self {
        let mut all = Self::default();
        for upstreams in nodes {
            for declared in upstreams {
                let upstream = all.upstreams.entry(declared.name.clone()).or_default();
                upstream.nodes += 1;
                for spec in &declared.peers {
                    let peer = upstream
                        .peers
                        .entry(spec.address.clone())
                        .or_insert_with(|| Peer { spec: spec.clone(), nodes: 0 });
                    peer.nodes += 1;
                    if peer.spec != *spec {
                        all.is_disputed = true;
                        peer.spec = spec.clone();
                    }
                }
            }
        }
        all
    }

    /// Adds the classes of the nodes, in the same order. A node without classes counts, too.
    #[must_use]
    pub fn with_classes<'a>(mut self, nodes: impl Iterator<Item = &'a [classes::Declared]>) -> Self {
        for declares in nodes {
            self.nodes += 1;
            for class in declares {
                let known = self.classes.entry(class.name.clone()).or_default();
                self.is_disputed |= known.nodes > 0 && known.settings != class.settings;
                known.nodes += 1;
                known.settings = class.settings;
            }
            if !declares.is_empty() {
                self.shares.push(declares.iter().map(|c| (c.name.clone(), c.settings.share)).collect());
            }
        }
        self
    }

    /// The upstream, if any node declares it.
    pub fn upstream(&self, upstream: &str) -> Option<&Upstream> {
        self.upstreams.get(upstream)
    }

    /// The peer, if any node declares it.
    pub fn peer(&self, upstream: &str, address: &str) -> Option<&Peer> {
        self.upstreams.get(upstream)?.peers.get(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(weight: u32, addresses: &[&str]) -> Vec<v1::DeclaredUpstream> {
        let peer = |a: &&str| v1::DeclaredPeer { address: (*a).into(), weight, ..v1::DeclaredPeer::default() };
        vec![v1::DeclaredUpstream { name: "llm".into(), peers: addresses.iter().map(peer).collect() }]
    }

    #[test]
    fn the_union_counts_nodes_and_shows_the_last_word() {
        let nodes = [node(1, &["127.0.0.1:1", "127.0.0.1:2"]), node(5, &["127.0.0.1:2"])];
        let declared = Declared::of(nodes.iter().map(Vec::as_slice));
        assert_eq!(declared.upstream("llm").map(|u| u.nodes), Some(2));
        assert_eq!(declared.peer("llm", "127.0.0.1:1").map(|p| (p.nodes, p.spec.weight)), Some((1, 1)));
        assert_eq!(declared.peer("llm", "127.0.0.1:2").map(|p| (p.nodes, p.spec.weight)), Some((2, 5)));
        assert_eq!(declared.peer("llm", "127.0.0.1:3"), None);
    }
}
