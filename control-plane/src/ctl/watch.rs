//! `pincerctl watch`: a line for each new revision and each node that changed, until interrupted.

use std::{io, pin::pin, thread};

use pincer_proto::v1;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use serde::Serialize;
use tokio::sync::oneshot;

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

/// Ends when nobody reads what is printed any more, as in `pincerctl watch | head -1`. Without it
/// the end would show only at the next event, which may never come. The thread ends with the
/// process.
async fn reader_gone() {
    let (gone, told) = oneshot::channel::<()>();
    thread::spawn(move || {
        let stdout = io::stdout();
        // The system reports errors and hang-ups, which is all that is waited for.
        while matches!(poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None), Ok(0) | Err(Errno::INTR)) {}
        let _ = gone.send(());
    });
    let _ = told.await;
}

/// Prints until the stream or the process ends, or until nobody reads any more.
pub async fn run(client: &mut Client, output: Output) -> Result<(), Failure> {
    let mut stream = client.watch(v1::WatchRequest {}).await?.into_inner();
    let (mut revision, mut reader_gone) = (0, pin!(reader_gone()));
    loop {
        let response = tokio::select! {
            response = stream.message() => response?,
            () = &mut reader_gone => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        };
        let Some(response) = response else { break };
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
