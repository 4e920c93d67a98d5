//! Upstreams and peers, as printed.

use pincer_proto::v1;
use serde::Serialize;

use super::table::{Table, columns, last, plain, row, seconds, time};
use crate::model::State;

/// An upstream.
#[derive(Debug, Serialize)]
pub struct Upstream {
    upstream: String,
    peer_count: u32,
    added_peer_count: u32,
    declaring_nodes: u32,
    in_flight: u64,
    waiting: u64,
    revision: u64,
}

impl From<&v1::Upstream> for Upstream {
    fn from(u: &v1::Upstream) -> Self {
        Self {
            upstream: last(&u.name, 1),
            peer_count: u.peers,
            added_peer_count: u.added_peers,
            declaring_nodes: u.declaring_nodes,
            in_flight: u.in_flight,
            waiting: u.waiting,
            revision: u.revision,
        }
    }
}

/// `upstream list`.
#[derive(Debug, Serialize)]
pub struct Upstreams {
    upstreams: Vec<Upstream>,
}

impl From<Vec<v1::Upstream>> for Upstreams {
    fn from(all: Vec<v1::Upstream>) -> Self {
        Self { upstreams: all.iter().map(Upstream::from).collect() }
    }
}

impl Table for Upstreams {
    fn table(&self) -> String {
        let mut rows = vec![row(["UPSTREAM", "PEERS", "ADDED", "NODES", "IN FLIGHT", "WAITING", "REVISION"])];
        for u in &self.upstreams {
            let numbers = [
                u.peer_count.into(),
                u.added_peer_count.into(),
                u.declaring_nodes.into(),
                u.in_flight,
                u.waiting,
                u.revision,
            ];
            let cells = std::iter::once(u.upstream.clone()).chain(numbers.map(|n: u64| n.to_string()));
            rows.push(cells.collect());
        }
        columns(&rows)
    }
}

/// What an operator has set.
#[derive(Debug, Serialize)]
struct Set {
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_conns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
}

/// What nginx.conf says.
#[derive(Debug, Serialize)]
struct Declared {
    server: String,
    weight: u32,
    max_conns: u32,
    backup: bool,
    down: bool,
}

#[derive(Debug, Serialize)]
struct Stats {
    nodes: u32,
    in_flight: u64,
    requests: u64,
    failures: u64,
    service_time_s: Option<f64>,
    first_byte_s: Option<f64>,
    breakers_open: u32,
}

/// A peer; `weight`, `max_conns` and `state` are what is in force.
#[derive(Debug, Serialize)]
pub struct Peer {
    upstream: String,
    address: String,
    weight: u32,
    max_conns: u32,
    state: &'static str,
    set: Set,
    added: bool,
    declared: Option<Declared>,
    declaring_nodes: u32,
    etag: String,
    revision: u64,
    stats: Option<Stats>,
}

impl From<&v1::Peer> for Peer {
    fn from(p: &v1::Peer) -> Self {
        let declared = p.declared.as_ref();
        let state = State::from_proto(p.state).ok().flatten().map(State::word);
        Self {
            upstream: last(&p.name, 1).split('/').next().unwrap_or_default().to_owned(),
            address: last(&p.name, 3),
            weight: p.weight.or(declared.map(|d| d.weight)).unwrap_or(1),
            max_conns: p.max_conns.or(declared.map(|d| d.max_conns)).unwrap_or(0),
            state: state.unwrap_or(if declared.is_some_and(|d| d.down) { "down" } else { "active" }),
            set: Set { weight: p.weight, max_conns: p.max_conns, state },
            added: p.added,
            declared: declared.map(|d| Declared {
                server: d.server.clone(),
                weight: d.weight,
                max_conns: d.max_conns,
                backup: d.backup,
                down: d.down,
            }),
            declaring_nodes: p.declaring_nodes,
            etag: p.etag.clone(),
            revision: p.revision,
            stats: p.stats.map(|s| Stats {
                nodes: s.nodes,
                in_flight: s.in_flight,
                requests: s.requests,
                failures: s.failures,
                service_time_s: seconds(s.service_time),
                first_byte_s: seconds(s.first_byte),
                breakers_open: s.breakers_open,
            }),
        }
    }
}

impl Peer {
    fn origin(&self) -> &'static str {
        match (self.added, &self.declared) {
            (true, _) => "added",
            (false, Some(declared)) if declared.backup => "nginx.conf, backup",
            (false, Some(_)) => "nginx.conf",
            (false, None) => "left over",
        }
    }

    fn row(&self) -> Vec<String> {
        // A star marks what an operator has set.
        let marked = |value: String, is_set: bool| if is_set { value + "*" } else { value };
        let count = |value: fn(&Stats) -> u64| self.stats.as_ref().map_or("-".to_owned(), |s| value(s).to_string());
        let time_of = |value: fn(&Stats) -> Option<f64>| time(self.stats.as_ref().and_then(value));
        let max_conns = if self.max_conns == 0 { "unlimited".to_owned() } else { self.max_conns.to_string() };
        vec![
            self.address.clone(),
            self.declared.as_ref().map_or("-".to_owned(), |d| d.server.clone()),
            marked(self.weight.to_string(), self.set.weight.is_some()),
            marked(max_conns, self.set.max_conns.is_some()),
            marked(self.state.to_owned(), self.set.state.is_some()),
            count(|s| s.in_flight),
            count(|s| s.requests),
            count(|s| s.failures),
            time_of(|s| s.service_time_s),
            time_of(|s| s.first_byte_s),
            count(|s| s.breakers_open.into()),
            self.origin().to_owned(),
            self.etag.clone(),
        ]
    }
}

/// `peer list`.
#[derive(Debug, Serialize)]
pub struct Peers {
    peers: Vec<Peer>,
}

impl From<Vec<v1::Peer>> for Peers {
    fn from(all: Vec<v1::Peer>) -> Self {
        Self { peers: all.iter().map(Peer::from).collect() }
    }
}

impl Table for Peers {
    fn table(&self) -> String {
        peers_table(&self.peers)
    }
}

fn peers_table(peers: &[Peer]) -> String {
    let header = [
        "ADDRESS",
        "SERVER",
        "WEIGHT",
        "MAX CONNS",
        "STATE",
        "IN FLIGHT",
        "REQUESTS",
        "FAILURES",
        "SERVICE TIME",
        "FIRST BYTE",
        "BREAKERS",
        "ORIGIN",
        "ETAG",
    ];
    let mut rows = vec![row(header)];
    rows.extend(peers.iter().map(Peer::row));
    columns(&rows)
}

/// `upstream get`.
#[derive(Debug, Serialize)]
pub struct UpstreamAndPeers {
    #[serde(flatten)]
    upstream: Upstream,
    peers: Vec<Peer>,
}

impl UpstreamAndPeers {
    /// From the upstream and its peers.
    pub fn new(upstream: &v1::Upstream, peers: Vec<v1::Peer>) -> Self {
        Self { upstream: upstream.into(), peers: Peers::from(peers).peers }
    }
}

impl Table for UpstreamAndPeers {
    fn table(&self) -> String {
        let u = &self.upstream;
        let head = format!(
            "{}: declared by {} nodes, {} in flight, {} waiting, revision {}\n",
            plain(&u.upstream),
            u.declaring_nodes,
            u.in_flight,
            u.waiting,
            u.revision
        );
        head + &peers_table(&self.peers)
    }
}
