//! Checks the Hello of a node before any of it is stored.
//!
//! Pure. Any fault refuses the whole Hello, so a node with a wrong declaration is never half known.
//! An address that an upstream declares twice counts once, as its first. Cost: one pass. Bound:
//! `pincer_proto::limits`.

use std::collections::BTreeSet;

use pincer_proto::{limits, v1};

use crate::{
    classes, names,
    store::{NodeRecord, PeerRecord, UpstreamRecord},
};

/// Why a Hello was refused. Always the node's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A name or an address is malformed.
    #[error(transparent)]
    Name(#[from] names::Fault),
    /// A list has too many entries.
    #[error("hello has {count} {what}, at most {max} are allowed")]
    TooMany {
        /// The kind of entries.
        what: &'static str,
        /// The number of entries.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// An upstream has too many peers.
    #[error("hello's upstream {upstream:?} has {count} peers, at most {} are allowed", limits::PEERS_PER_UPSTREAM_MAX)]
    Peers {
        /// The upstream.
        upstream: String,
        /// The number of entries.
        count: usize,
    },
    /// The Hello declares an upstream twice.
    #[error("hello declares the upstream {0:?} twice")]
    Twice(String),
    /// The Hello declares a class twice.
    #[error("hello declares the class {0:?} twice")]
    ClassTwice(String),
    /// A value of a class is out of range.
    #[error("hello's class {class:?}: {}: {fault}", fault.field)]
    Class {
        /// The class.
        class: String,
        /// Its value.
        fault: classes::Fault,
    },
    /// A revision that no control plane makes.
    #[error("hello has applied_revision {0}, more than any control plane makes")]
    Revision(u64),
}

/// A Hello that passed all checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node's name.
    pub node: String,
    /// Names its zone.
    pub instance: String,
    /// The part of the Hello that is stored.
    pub record: NodeRecord,
    /// The revision that its zone holds.
    pub applied_revision: u64,
}

/// Checks a Hello.
pub fn check(hello: v1::Hello) -> Result<Hello, Fault> {
    names::check_node(&hello.node)?;
    names::check_instance(&hello.instance_id)?;
    if hello.applied_revision > limits::REVISION_MAX {
        return Err(Fault::Revision(hello.applied_revision));
    }
    check_count("upstreams", hello.upstreams.len(), limits::UPSTREAMS_MAX)?;
    check_count("peers", hello.upstreams.iter().map(|u| u.peers.len()).sum(), limits::PEERS_PER_NODE_MAX)?;
    let mut seen = BTreeSet::new();
    let mut upstreams = Vec::with_capacity(hello.upstreams.len());
    for upstream in hello.upstreams {
        if !seen.insert(upstream.name.clone()) {
            return Err(Fault::Twice(upstream.name));
        }
        upstreams.push(check_upstream(upstream)?);
    }
    let classes = check_classes(hello.classes)?;
    Ok(Hello {
        node: hello.node,
        instance: hello.instance_id,
        record: NodeRecord {
            module_version: shortened(&hello.module_version),
            nginx_version: shortened(&hello.nginx_version),
            worker_processes: hello.worker_processes,
            upstreams,
            classes,
        },
        applied_revision: hello.applied_revision,
    })
}

fn check_count(what: &'static str, count: usize, max: usize) -> Result<(), Fault> {
    if count > max { Err(Fault::TooMany { what, count, max }) } else { Ok(()) }
}

fn shortened(text: &str) -> String {
    names::shown(text, limits::TEXT_BYTES_MAX)
}

fn check_upstream(upstream: v1::DeclaredUpstream) -> Result<UpstreamRecord, Fault> {
    names::check_upstream(&upstream.name)?;
    let count = upstream.peers.len();
    if count > limits::PEERS_PER_UPSTREAM_MAX {
        return Err(Fault::Peers { upstream: upstream.name, count });
    }
    let mut seen = BTreeSet::new();
    let mut peers = Vec::with_capacity(upstream.peers.len());
    for peer in upstream.peers {
        let address = names::parse_address(&peer.address)?;
        if seen.insert(address.clone()) {
            peers.push(PeerRecord {
                address,
                server: shortened(&peer.server),
                weight: peer.weight,
                max_conns: peer.max_conns,
                backup: peer.backup,
                down: peer.down,
            });
        }
    }
    Ok(UpstreamRecord { name: upstream.name, peers })
}

fn check_classes(given: Vec<v1::DeclaredClass>) -> Result<Vec<classes::Declared>, Fault> {
    check_count("classes", given.len(), limits::CLASSES_PER_NODE_MAX)?;
    let mut seen = BTreeSet::new();
    let mut all = Vec::with_capacity(given.len());
    for v1::DeclaredClass { name, settings } in given {
        names::check_class(&name)?;
        if !seen.insert(name.clone()) {
            return Err(Fault::ClassTwice(name));
        }
        let settings = classes::Settings::from_proto(settings);
        let settings = settings.map_err(|fault| Fault::Class { class: name.clone(), fault })?;
        all.push(classes::Declared { name, settings });
    }
    Ok(all)
}

impl NodeRecord {
    /// What the node declares, as the wire has it.
    pub fn declared(&self) -> Vec<v1::DeclaredUpstream> {
        let peer = |p: &PeerRecord| v1::DeclaredPeer {
            address: p.address.clone(),
            server: p.server.clone(),
            weight: p.weight,
            max_conns: p.max_conns,
            backup: p.backup,
            down: p.down,
        };
        let upstream = |u: &UpstreamRecord| v1::DeclaredUpstream {
            name: u.name.clone(),
            peers: u.peers.iter().map(peer).collect(),
        };
        self.upstreams.iter().map(upstream).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        let peer = v1::DeclaredPeer {
            address: "127.0.0.1:8001".into(),
            server: "gpu1:8001".into(),
            weight: 1,
            ..Default::default()
        };
        v1::Hello {
            node: "web-1".into(),
            instance_id: "a1".into(),
            upstreams: vec![v1::DeclaredUpstream { name: "llm".into(), peers: vec![peer] }],
            classes: vec![v1::DeclaredClass { name: "vip".into(), settings: None }],
            ..v1::Hello::default()
        }
    }

    #[test]
    fn a_sound_hello_is_kept_as_it_is() {
        let checked = check(hello()).unwrap();
        assert_eq!(checked.node, "web-1");
        assert_eq!(checked.record.declared(), hello().upstreams);
        assert_eq!(checked.record.classes.len(), 1);
    }

    #[test]
    fn an_address_declared_twice_counts_once() {
        let mut given = hello();
        let again = given.upstreams[0].peers[0].clone();
        given.upstreams[0].peers.push(again);
        assert_eq!(check(given).unwrap().record.upstreams[0].peers.len(), 1);
    }

    #[test]
    fn an_upstream_with_too_many_peers_is_named() {
        let mut given = hello();
        given.upstreams[0].peers = vec![given.upstreams[0].peers[0].clone(); 129];
        let said = check(given).unwrap_err().to_string();
        assert_eq!(said, "hello's upstream \"llm\" has 129 peers, at most 128 are allowed");
    }

    #[test]
    fn a_hello_past_any_bound_is_refused() {
        let spoil: [fn(&mut v1::Hello); 14] = [
            |h| h.node.clear(),
            |h| h.node = "a".repeat(1000),
            |h| h.node = "a/b".into(),
            |h| h.instance_id.clear(),
            |h| h.applied_revision = u64::MAX,
            |h| h.upstreams[0].name = "a b".into(),
            |h| h.upstreams[0].peers[0].address = "gpu1:8001".into(),
            |h| h.upstreams[0].peers = vec![h.upstreams[0].peers[0].clone(); 129],
            |h| h.upstreams = vec![h.upstreams[0].clone(); 2],
            |h| h.classes[0].name = "a/b".into(),
            |h| h.classes = vec![h.classes[0].clone(); 2],
            |h| h.classes[0].settings = Some(v1::ClassSettings { share: Some(101), ..Default::default() }),
            |h| h.classes = (0..65).map(|n| v1::DeclaredClass { name: format!("c{n}"), settings: None }).collect(),
            |h| h.upstreams = (0..257).map(|n| v1::DeclaredUpstream { name: format!("u{n}"), peers: vec![] }).collect(),
        ];
        for (n, spoil) in spoil.into_iter().enumerate() {
            let mut given = hello();
            spoil(&mut given);
            assert!(check(given).is_err(), "case {n} was taken");
        }
    }
}
