//! Nodes, as printed.

use pincer_proto::v1;
use serde::Serialize;

use super::table::{Table, columns, last, milliseconds, plain, row, time};

/// A node's zone.
#[derive(Debug, Serialize)]
struct Instance {
    instance: String,
    applied_revision: u64,
    refused_revision: Option<u64>,
    error: Option<String>,
    ack_ms: Option<f64>,
    apply_ms: Option<f64>,
    streams: u32,
}

/// A node.
#[derive(Debug, Serialize)]
pub struct Node {
    node: String,
    connected: bool,
    applied_revision: u64,
    refused_revision: Option<u64>,
    error: Option<String>,
    ack_ms: Option<f64>,
    apply_ms: Option<f64>,
    module_version: String,
    nginx_version: String,
    worker_processes: u32,
    update_time: Option<String>,
    upstreams: Vec<String>,
    instances: Vec<Instance>,
}

impl From<&v1::Node> for Node {
    fn from(n: &v1::Node) -> Self {
        let instance = |i: &v1::node::Instance| Instance {
            instance: i.instance_id.clone(),
            applied_revision: i.applied_revision,
            refused_revision: i.last_error.as_ref().map(|_| i.refused_revision),
            error: i.last_error.as_ref().map(|e| e.message.clone()),
            ack_ms: milliseconds(i.ack_latency),
            apply_ms: milliseconds(i.apply_duration),
            streams: i.streams,
        };
        Self {
            node: last(&n.name, 1),
            connected: n.connected,
            applied_revision: n.applied_revision,
            refused_revision: n.last_error.as_ref().map(|_| n.refused_revision),
            error: n.last_error.as_ref().map(|e| e.message.clone()),
            ack_ms: milliseconds(n.ack_latency),
            apply_ms: milliseconds(n.apply_duration),
            module_version: n.module_version.clone(),
            nginx_version: n.nginx_version.clone(),
            worker_processes: n.worker_processes,
            update_time: n.update_time.map(|t| t.to_string()),
            upstreams: n.upstreams.clone(),
            instances: n.instances.iter().map(instance).collect(),
        }
    }
}

impl Node {
    /// One line for people.
    pub fn line(&self) -> String {
        let state = if self.connected { "connected" } else { "not connected" };
        let took = self.ack_ms.map_or(String::new(), |ms| format!(" in {}", time(Some(ms / 1e3))));
        let refused = match (&self.refused_revision, &self.error) {
            (Some(revision), Some(error)) => format!(", refused {revision}: {error}"),
            _ => String::new(),
        };
        plain(&format!("node {} {state}, applied {}{took}{refused}", self.node, self.applied_revision))
    }
}

/// `node delete`.
#[derive(Debug, Serialize)]
pub struct Forgotten {
    /// Its name.
    pub node: String,
}

impl Table for Forgotten {
    fn table(&self) -> String {
        format!("node {} forgotten\n", plain(&self.node))
    }
}

/// `node list`.
#[derive(Debug, Serialize)]
pub struct Nodes {
    revision: u64,
    nodes: Vec<Node>,
}

impl Nodes {
    /// All of them, and the revision in force.
    pub fn new(nodes: Vec<v1::Node>, revision: u64) -> Self {
        Self { revision, nodes: nodes.iter().map(Node::from).collect() }
    }
}

impl Table for Nodes {
    fn table(&self) -> String {
        let header = ["NODE", "CONNECTED", "APPLIED", "ACK", "APPLY", "MODULE", "NGINX", "WORKERS", "SINCE", "ERROR"];
        let mut rows = vec![row(header)];
        for n in &self.nodes {
            let refused = n.refused_revision.map_or(String::new(), |revision| format!("refused {revision}: "));
            rows.push(vec![
                n.node.clone(),
                if n.connected { "yes" } else { "no" }.to_owned(),
                n.applied_revision.to_string(),
                time(n.ack_ms.map(|ms| ms / 1e3)),
                time(n.apply_ms.map(|ms| ms / 1e3)),
                n.module_version.clone(),
                n.nginx_version.clone(),
                n.worker_processes.to_string(),
                n.update_time.clone().unwrap_or_else(|| "-".to_owned()),
                n.error.as_ref().map_or("-".to_owned(), |error| refused + error),
            ]);
        }
        format!("{}revision {}\n", columns(&rows), self.revision)
    }
}
