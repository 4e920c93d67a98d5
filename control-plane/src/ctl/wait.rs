//! `--wait`: follows the nodes until each has acknowledged a revision, refused it, or the time is
//! over.
//!
//! Waits for every instance that is connected, and for those that were connected when the wait
//! began: an instance that disconnects meanwhile hasn't acknowledged. The acknowledgement of a
//! newer revision counts. Cost: one stream. Bound: the time given.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pincer_proto::v1;
use serde::Serialize;
use tokio::time;

use super::{args::Output, failure::Failure, output::print_text, pages::Client, show::table};
use crate::names;

/// The outcome of a revision in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The revision is in the zone.
    Applied,
    /// The node has refused the revision.
    Refused,
    /// The node has not responded yet.
    Pending,
    /// The node's connection is gone.
    Disconnected,
}

/// A node's zone and the revision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeWait {
    node: String,
    instance: String,
    outcome: Outcome,
    /// Milliseconds from the revision to the acknowledgement.
    ms: Option<f64>,
    error: Option<String>,
}

impl NodeWait {
    fn line(&self) -> String {
        let outcome = match (self.outcome, &self.error) {
            (Outcome::Applied, _) => format!("applied in {}", table::time(self.ms.map(|ms| ms / 1e3))),
            (Outcome::Refused, error) => format!("refused: {}", error.as_deref().unwrap_or("without a reason")),
            (Outcome::Pending, _) => "not in time".to_owned(),
            (Outcome::Disconnected, _) => "disconnected".to_owned(),
        };
        table::plain(&format!("node {} {outcome}", self.node)) + "\n"
    }

    fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Applied | Outcome::Refused)
    }
}

/// Waits for `revision`, made at `made`. If `output` is a table, prints each node as soon as it
/// responds. Returns all nodes.
pub async fn run(
    client: &mut Client,
    revision: u64,
    made: Instant,
    limit: Duration,
    output: Output,
) -> Result<Vec<NodeWait>, Failure> {
    let deadline = time::Instant::now() + limit;
    let mut stream = match time::timeout_at(deadline, client.watch(v1::WatchRequest {})).await {
        Ok(stream) => stream?.into_inner(),
        Err(_) => return Err(Failure::NotApplied { revision, why: "pincerd does not report the state of the nodes" }),
    };
    let mut waiting =
        Waiting { revision, made, nodes: BTreeMap::new(), settled: BTreeMap::new(), printed: BTreeSet::new() };
    loop {
        let heard = time::timeout_at(deadline, stream.message()).await;
        let is_over = match heard {
            Err(_) => true,
            Ok(Err(status)) => return Err(status.into()),
            Ok(Ok(None)) => return Err(tonic::Status::unavailable("pincerd ended the watch").into()),
            Ok(Ok(Some(response))) => {
                waiting.hear(response);
                false
            }
        };
        let nodes = waiting.look();
        if output == Output::Table {
            waiting.print(&nodes, is_over)?;
        }
        if is_over || nodes.iter().all(NodeWait::is_settled) {
            return Ok(nodes);
        }
    }
}

/// A failure (exit status 5) unless all nodes have applied it.
pub fn verdict(revision: u64, nodes: &[NodeWait]) -> Result<(), Failure> {
    if nodes.iter().any(|node| node.outcome == Outcome::Refused) {
        return Err(Failure::NotApplied {
            revision,
            why: "a node refused it; until the setting is reverted, no later change reaches this node",
        });
    }
    if nodes.iter().any(|node| node.outcome != Outcome::Applied) {
        return Err(Failure::NotApplied { revision, why: "not every node acknowledged it in time" });
    }
    Ok(())
}

struct Waiting {
    revision: u64,
    made: Instant,
    /// The nodes that have to respond, as pincerd reported them last.
    nodes: BTreeMap<String, v1::Node>,
    /// When an instance was first seen to have a newer revision, which has a latency of its own.
    settled: BTreeMap<(String, String), f64>,
    printed: BTreeSet<(String, String)>,
}

impl Waiting {
    fn hear(&mut self, response: v1::WatchResponse) {
        for name in response.removed_nodes {
            self.nodes.remove(&name);
        }
        for node in response.nodes {
            if node.connected || self.nodes.contains_key(&node.name) {
                self.nodes.insert(node.name.clone(), node);
            }
        }
    }

    fn look(&mut self) -> Vec<NodeWait> {
        let mut all = Vec::new();
        for node in self.nodes.values() {
            let name = names::node_of(&node.name);
            if node.instances.is_empty() {
                let (node, instance) = (name.to_owned(), String::new());
                all.push(NodeWait { node, instance, outcome: Outcome::Disconnected, ms: None, error: None });
            }
            for instance in &node.instances {
                all.push(look(self.revision, self.made, &mut self.settled, name, instance));
            }
        }
        all
    }

    fn print(&mut self, nodes: &[NodeWait], is_over: bool) -> Result<(), Failure> {
        for node in nodes.iter().filter(|node| is_over || node.is_settled()) {
            if self.printed.insert((node.node.clone(), node.instance.clone())) {
                print_text(&node.line())?;
            }
        }
        Ok(())
    }
}

fn look(
    revision: u64,
    made: Instant,
    settled: &mut BTreeMap<(String, String), f64>,
    node: &str,
    instance: &v1::node::Instance,
) -> NodeWait {
    let mut wait = NodeWait {
        node: node.to_owned(),
        instance: instance.instance_id.clone(),
        outcome: Outcome::Pending,
        ms: None,
        error: None,
    };
    if instance.applied_revision >= revision {
        let seen_ms = *settled
            .entry((node.to_owned(), instance.instance_id.clone()))
            .or_insert_with(|| made.elapsed().as_secs_f64() * 1e3);
        let latency = instance.ack_latency.filter(|_| instance.applied_revision == revision);
        let latency = latency.and_then(|latency| Duration::try_from(latency).ok());
        wait.outcome = Outcome::Applied;
        wait.ms = Some(latency.map_or(seen_ms, |latency| latency.as_secs_f64() * 1e3));
    } else if let Some(error) = instance.last_error.as_ref().filter(|_| instance.refused_revision >= revision) {
        wait.outcome = Outcome::Refused;
        wait.error = Some(error.message.clone());
    }
    wait
}
