//! `pincerctl watch`: a line for each new revision and each node that changed, until interrupted.

use pincer_proto::v1;
use serde::Serialize;

use super::{args::Output, failure::Failure, output::print_text, pages::Client, show};
use crate::names;

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Revision(u64),
    Node(Box<show::Node>),
    RemovedNode(String),
}

impl Event {
    fn line(&self) -> String {
        match self {
            Self::Revision(revision) => format!("revision {revision}"),
            Self::Node(node) => node.line(),
            Self::RemovedNode(node) => format!("node {node} forgotten"),
        }
    }
}

fn events(response: v1::WatchResponse, revision: &mut u64) -> Vec<Event> {
    let mut events = Vec::new();
    if response.revision != *revision {
        *revision = response.revision;
        events.push(Event::Revision(response.revision));
    }
    events.extend(response.nodes.iter().map(|node| Event::Node(Box::new(node.into()))));
    let removed = response.removed_nodes.iter().map(|name| names::node_of(name).to_owned());
    events.extend(removed.map(Event::RemovedNode));
    events
}

/// Prints until the stream or the process ends.
pub async fn run(client: &mut Client, output: Output) -> Result<(), Failure> {
    let mut stream = client.watch(v1::WatchRequest {}).await?.into_inner();
    let mut revision = 0;
    while let Some(response) = stream.message().await? {
        for event in events(response, &mut revision) {
            let line = match output {
                Output::Table => event.line(),
                Output::Json => serde_json::to_string(&event)?,
            };
            print_text(&(line + "\n"))?;
        }
    }
    Err(tonic::Status::unavailable("pincerd ended the watch").into())
}
