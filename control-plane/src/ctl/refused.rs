//! After a change without `--wait`: reports the connected nodes whose last message is a refusal.
//!
//! A refused setting blocks every later revision of the node, so a change may be made and never
//! reach it. The report never fails and never changes the exit status, since the change is made.
//! Cost: one call.
//! Bound: `TIMEOUT`.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use pincer_proto::v1;
use tokio::time;

use super::{pages::Client, show::table};
use crate::names;

/// The report may not hold up the command for longer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Prints a line for each connected node whose last message is a refusal; nothing if pincerd
/// doesn't respond.
pub async fn report(client: &mut Client, revision: u64) {
    // The first response of a watch has all nodes; a list would have pages.
    let first = async { client.watch(v1::WatchRequest {}).await?.into_inner().message().await };
    let Ok(Ok(Some(response))) = time::timeout(TIMEOUT, first).await else { return };
    for node in &response.nodes {
        if let Some(line) = line(node, revision) {
            let _ = writeln!(io::stderr(), "pincerctl: {line}");
        }
    }
}

/// `None` if the node is disconnected or refuses nothing. `revision` is the one in force.
fn line(node: &v1::Node, revision: u64) -> Option<String> {
    let error = node.last_error.as_ref().filter(|_| node.connected)?;
    let name = names::node_of(&node.name);
    let (refused, applied) = (node.refused_revision, node.applied_revision);
    let reason = if error.message.is_empty() { "without a reason" } else { &error.message };
    let pending =
        if refused < revision { format!(", and has not responded to revision {revision} yet") } else { String::new() };
    let line =
        format!("node {name} refuses revision {refused}: {reason}; it keeps serving revision {applied}{pending}");
    Some(table::plain(&line))
}

#[cfg(test)]
mod tests {
    use pincer_proto::google::rpc;

    use super::*;

    fn node(connected: bool, message: Option<&str>) -> v1::Node {
        let last_error = message.map(|message| rpc::Status { code: 3, message: message.into(), details: vec![] });
        let (applied_revision, refused_revision) = (1, 2);
        v1::Node {
            name: "nodes/a".into(),
            connected,
            last_error,
            applied_revision,
            refused_revision,
            ..Default::default()
        }
    }

    #[test]
    fn only_a_connected_node_that_refuses_has_a_line() {
        let no = node(true, Some("no\n"));
        assert_eq!(line(&no, 2).as_deref(), Some("node a refuses revision 2: no ; it keeps serving revision 1"));
        assert!(line(&no, 3).unwrap().ends_with("serving revision 1, and has not responded to revision 3 yet"));
        assert_eq!(line(&node(false, Some("no")), 2), None);
        assert_eq!(line(&node(true, None), 2), None);
    }
}
