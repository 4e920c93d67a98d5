//! The results of a purge, as printed.

use pincer_proto::v1;
use serde::Serialize;
use tonic::Code;

use super::table::{Table, columns, last, milliseconds, row, time};

/// The result of one nginx.
#[derive(Debug, Serialize)]
struct Result {
    node: String,
    instance: String,
    /// `done`, `unknown` (it has no such cache) or `failed`.
    outcome: &'static str,
    removed: u64,
    bytes: u64,
    ms: Option<f64>,
    error: Option<String>,
}

/// `cache purge`.
#[derive(Debug, Serialize)]
pub struct Purged {
    removed: u64,
    bytes: u64,
    /// A dry run: nothing was removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    nodes: Vec<Result>,
    not_connected: Vec<String>,
}

impl From<&v1::PurgeResult> for Result {
    fn from(result: &v1::PurgeResult) -> Self {
        let outcome = match &result.error {
            None => "done",
            Some(error) if error.code == i32::from(Code::NotFound) => "unknown",
            Some(_) => "failed",
        };
        Self {
            node: last(&result.node, 1),
            instance: result.instance_id.clone(),
            outcome,
            removed: result.removed,
            bytes: result.bytes,
            ms: milliseconds(result.duration),
            error: result.error.as_ref().map(|error| error.message.clone()),
        }
    }
}

impl Purged {
    /// From the response.
    pub fn new(response: &v1::PurgeCacheResponse, dry_run: bool) -> Self {
        let sum = |read: fn(&v1::PurgeResult) -> u64| response.results.iter().map(read).fold(0, u64::saturating_add);
        Self {
            removed: sum(|result| result.removed),
            bytes: sum(|result| result.bytes),
            dry_run,
            nodes: response.results.iter().map(Result::from).collect(),
            not_connected: response.not_connected.iter().map(|name| last(name, 1)).collect(),
        }
    }
}

impl Table for Purged {
    fn table(&self) -> String {
        let mut rows = vec![row(["NODE", "INSTANCE", "OUTCOME", "REMOVED", "BYTES", "TIME", "ERROR"])];
        for node in &self.nodes {
            rows.push(vec![
                node.node.clone(),
                node.instance.clone(),
                node.outcome.to_owned(),
                node.removed.to_string(),
                node.bytes.to_string(),
                time(node.ms.map(|ms| ms / 1e3)),
                node.error.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        for node in &self.not_connected {
            rows.push(row([node, "-", "not connected", "0", "0", "-", "its caches keep what they have"]));
        }
        let what =
            if self.dry_run { "nothing removed (dry run)".to_owned() } else { format!("removed {}", self.removed) };
        format!("{}{what}\n", columns(&rows))
    }
}
