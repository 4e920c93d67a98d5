//! The responses of Watch: the newest revision and the nodes that changed since the previous
//! response.
//!
//! Nothing is queued: each response is made when the stream is read, from the state at that time.
//! Cost: one pass over the nodes per response. Bound: `NODES_MAX` nodes, without the names of their
//! upstreams.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures_util::stream;
use pincer_proto::v1::WatchResponse;
use tokio::sync::watch;
use tonic::Status;

use super::render;
use crate::{
    fleet::Fleet,
    names,
    plane::{Plane, Published},
};

/// The responses.
pub type Stream = Pin<Box<dyn futures_util::Stream<Item = Result<WatchResponse, Status>> + Send>>;

struct Watcher {
    plane: Arc<Plane>,
    revisions: watch::Receiver<Arc<Published>>,
    fleet: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    /// The fleet's version at the previous response.
    seen: u64,
    known: BTreeSet<String>,
    is_first: bool,
}

/// Sends responses until the caller leaves or the process ends.
pub fn stream(plane: Arc<Plane>) -> Stream {
    let watcher = Watcher {
        revisions: plane.revisions(),
        fleet: plane.fleet_versions(),
        stopping: plane.stopping(),
        plane,
        seen: 0,
        known: BTreeSet::new(),
        is_first: true,
    };
    Box::pin(stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        if !watcher.is_first && !watcher.changed().await {
            return Some((Err(Status::unavailable("pincerd is stopping")), None));
        }
        let response = watcher.response();
        Some((Ok(response), Some(watcher)))
    }))
}

impl Watcher {
    /// Waits for news; false when the process ends.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.revisions.changed() => changed.is_ok(),
            changed = self.fleet.changed() => changed.is_ok(),
            _ = self.stopping.wait_for(|stopping| *stopping) => false,
        }
    }

    fn response(&mut self) -> WatchResponse {
        // The version is marked as seen before the state is read, so a change between the two is
        // reported twice rather than never.
        let revision = self.revisions.borrow_and_update().config.revision;
        self.fleet.mark_unchanged();
        let seen = if self.is_first { None } else { Some(self.seen) };
        let known = &self.known;
        let (version, nodes, removed) = self.plane.with_fleet(|fleet| look(fleet, seen, known));
        (self.seen, self.is_first) = (version, false);
        for name in &removed {
            self.known.remove(name);
        }
        self.known.extend(nodes.iter().map(|(name, _)| name.clone()));
        WatchResponse {
            revision,
            nodes: nodes.into_iter().map(|(_, node)| node).collect(),
            removed_nodes: removed.iter().map(|name| names::node_name(name)).collect(),
        }
    }
}

type Look = (u64, Vec<(String, pincer_proto::v1::Node)>, Vec<String>);

fn look(fleet: &Fleet, seen: Option<u64>, known: &BTreeSet<String>) -> Look {
    let render = |(name, node): (&String, _)| (name.clone(), render::node(name, node, false));
    let nodes = match seen {
        None => fleet.nodes().iter().map(render).collect(),
        Some(seen) => fleet.changed_since(seen).map(render).collect(),
    };
    let removed = known.iter().filter(|name| !fleet.nodes().contains_key(*name)).cloned().collect();
    (fleet.version(), nodes, removed)
}
