//! Resources as operators see them, made from settings, declarations and the last messages of
//! nodes.
//!
//! Pure. Cost: a peer's summary looks at the last stats of every connected instance. Bound: those
//! of the inputs.

use std::{collections::HashMap, time::Duration};

use pincer_proto::v1;

use crate::{
    declared::{self, Declared},
    fleet::{Fleet, Instance, Node, Progress},
    model::{Config, Record, State},
    names, refusal,
};

fn duration(value: Duration) -> prost_types::Duration {
    // Fails only past 10,000 years.
    value.try_into().unwrap_or_default()
}

fn seconds(value: &prost_types::Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let whole = value.seconds as f64;
    whole + f64::from(value.nanos) / 1e9
}

/// A mean of durations, each with a weight.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum_s: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: Option<&prost_types::Duration>, requests: u64) {
        #[allow(clippy::cast_precision_loss)]
        let weight = requests.max(1) as f64;
        if let Some(value) = value {
            self.sum_s += seconds(value) * weight;
            self.weight += weight;
        }
    }

    fn value(self) -> Option<prost_types::Duration> {
        (self.weight > 0.0).then(|| Duration::try_from_secs_f64(self.sum_s / self.weight).ok().map(duration)).flatten()
    }
}

/// How an upstream does, over all connected nodes.
#[derive(Debug, Default)]
pub struct Sums {
    waiting: u64,
    in_flight: u64,
    peers: HashMap<String, (v1::PeerSummary, Mean, Mean)>,
}

impl Sums {
    /// The same for one upstream.
    pub fn of(fleet: &Fleet, upstream: &str) -> Self {
        let mut sums = Self::default();
        let instances = fleet.nodes().values().flat_map(|node| node.instances.values());
        for stats in instances.flat_map(|instance| &instance.stats).filter(|stats| stats.name == upstream) {
            sums.waiting += u64::from(stats.waiting);
            for peer in &stats.peers {
                sums.add(peer);
            }
        }
        sums
    }

    fn add(&mut self, peer: &v1::PeerStats) {
        self.in_flight += u64::from(peer.in_flight);
        let (summary, service_time, first_byte) = self.peers.entry(peer.address.clone()).or_default();
        summary.nodes += 1;
        summary.in_flight += u64::from(peer.in_flight);
        summary.requests = summary.requests.saturating_add(peer.requests);
        summary.failures = summary.failures.saturating_add(peer.failures);
        let is_open = matches!(peer.breaker(), v1::BreakerState::Open | v1::BreakerState::HalfOpen);
        summary.breakers_open += u32::from(is_open);
        service_time.add(peer.service_time.as_ref(), peer.requests);
        first_byte.add(peer.first_byte.as_ref(), peer.requests);
    }

    fn peer(&self, address: &str) -> Option<v1::PeerSummary> {
        let (summary, service_time, first_byte) = self.peers.get(address)?;
        Some(v1::PeerSummary { service_time: service_time.value(), first_byte: first_byte.value(), ..*summary })
    }
}

/// An upstream.
pub fn upstream(name: &str, declared: Option<&declared::Upstream>, config: &Config, sums: &Sums) -> v1::Upstream {
    let records = config.upstreams.get(name);
    let only_records = records
        .into_iter()
        .flat_map(|records| records.keys())
        .filter(|address| declared.is_none_or(|d| !d.peers.contains_key(*address)));
    let peers = declared.map_or(0, |d| d.peers.len()) + only_records.count();
    let added = records.into_iter().flat_map(|r| r.values()).filter(|r| r.added).count();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::Upstream {
        name: names::upstream_name(name),
        declaring_nodes: declared.map_or(0, |d| d.nodes),
        peers: count(peers),
        added_peers: count(added),
        waiting: sums.waiting,
        in_flight: sums.in_flight,
        revision: records.into_iter().flat_map(|r| r.values()).map(|r| r.revision).max().unwrap_or(0),
    }
}

/// A peer; `None` if no node declares it and it has no settings.
pub fn peer(
    upstream: &str,
    address: &str,
    declared: &Declared,
    record: Option<&Record>,
    sums: &Sums,
) -> Option<v1::Peer> {
    let declared = declared.peer(upstream, address);
    if declared.is_none() && record.is_none() {
        return None;
    }
    let settings = record.map(|r| r.settings).unwrap_or_default();
    Some(v1::Peer {
        name: names::peer_name(upstream, address),
        weight: settings.weight.map(u32::from),
        max_conns: settings.max_conns.map(u32::from),
        state: State::to_proto(settings.state).into(),
        etag: refusal::etag(record),
        revision: record.map_or(0, |r| r.revision),
        added: record.is_some_and(|r| r.added),
        declared: declared.map(|d| d.spec.clone()),
        declaring_nodes: declared.map_or(0, |d| d.nodes),
        stats: sums.peer(address),
    })
}

fn instance(id: &str, instance: &Instance) -> v1::node::Instance {
    let Progress { applied_revision, refused, ack_latency, apply_duration } = instance.progress.clone();
    let (refused_revision, last_error) = refused.map_or((0, None), |(revision, error)| (revision, Some(error)));
    v1::node::Instance {
        instance_id: id.to_owned(),
        applied_revision,
        last_error,
        refused_revision,
        ack_latency: ack_latency.map(duration),
        apply_duration: apply_duration.map(duration),
        streams: u32::try_from(instance.sessions()).unwrap_or(u32::MAX),
    }
}

/// A node. `with_upstreams`: also the names of what it declares.
pub fn node(name: &str, node: &Node, with_upstreams: bool) -> v1::Node {
    let connected: Vec<_> = node.instances.values().map(|i| &i.progress).collect();
    let all = if connected.is_empty() { vec![&node.last] } else { connected };
    let refused = all.iter().filter_map(|p| p.refused.as_ref()).max_by_key(|(revision, _)| *revision);
    let upstreams = node.record.upstreams.iter().filter(|_| with_upstreams).map(|u| u.name.clone());
    v1::Node {
        name: names::node_name(name),
        connected: node.is_connected(),
        module_version: node.record.module_version.clone(),
        nginx_version: node.record.nginx_version.clone(),
        worker_processes: node.record.worker_processes,
        upstreams: upstreams.collect(),
        applied_revision: all.iter().map(|p| p.applied_revision).min().unwrap_or(0),
        last_error: refused.map(|(_, error)| error.clone()),
        refused_revision: refused.map_or(0, |(revision, _)| *revision),
        ack_latency: all.iter().filter_map(|p| p.ack_latency).max().map(duration),
        apply_duration: all.iter().filter_map(|p| p.apply_duration).max().map(duration),
        update_time: (node.updated_s > 0).then_some(prost_types::Timestamp { seconds: node.updated_s, nanos: 0 }),
        instances: node.instances.iter().map(|(id, i)| instance(id, i)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(requests: u64, service_s: i64, breaker: v1::BreakerState) -> v1::PeerStats {
        v1::PeerStats {
            address: "127.0.0.1:1".into(),
            in_flight: 2,
            requests,
            service_time: Some(prost_types::Duration { seconds: service_s, nanos: 0 }),
            breaker: breaker.into(),
            ..v1::PeerStats::default()
        }
    }

    #[test]
    fn a_summary_weights_each_nodes_times_by_its_requests() {
        let mut sums = Sums::default();
        sums.add(&stats(30, 1, v1::BreakerState::Closed));
        sums.add(&stats(10, 5, v1::BreakerState::Open));
        let summary = sums.peer("127.0.0.1:1").unwrap();
        assert_eq!((summary.nodes, summary.in_flight, summary.requests, summary.breakers_open), (2, 4, 40, 1));
        assert_eq!(summary.service_time, Some(prost_types::Duration { seconds: 2, nanos: 0 }));
        assert_eq!(summary.first_byte, None);
        assert_eq!(sums.peer("127.0.0.1:2"), None);
    }

    #[test]
    fn a_hostile_duration_is_no_panic() {
        let mut sums = Sums::default();
        let mut bad = stats(u64::MAX, i64::MIN, v1::BreakerState::Closed);
        sums.add(&bad);
        bad.service_time = Some(prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX });
        sums.add(&bad);
        sums.add(&bad);
        assert!(sums.peer("127.0.0.1:1").is_some());
    }
}
