//! Results as people and as programs read them.
//!
//! The JSON's field names are relied on by scripts: fields may be added, never renamed. A table never passes on a control character that a node sent.
//! Pure. Cost: one pass to measure the columns, one to print.

mod class;
mod key;
mod node;
mod peer;
mod purge;

use pincer_proto::v1;
use serde::Serialize;

pub use class::{Class, ClassChange, Classes};
pub use key::{Key, Keys, Secret};
pub use node::{Forgotten, Node, Nodes};
pub use peer::{Peer, Peers, UpstreamAndPeers, Upstreams};
pub use purge::Purged;

use super::wait::NodeWait;

/// A result that has a form for people.
pub trait Table {
    /// Lines, each ended.
    fn table(&self) -> String;
}

/// `text` without control characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Lines up columns, two spaces apart.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn seconds(value: Option<prost_types::Duration>) -> Option<f64> {
    let value = std::time::Duration::try_from(value?).ok()?;
    Some(value.as_secs_f64())
}

/// Milliseconds with microseconds.
fn milliseconds(value: Option<prost_types::Duration>) -> Option<f64> {
    seconds(value).map(|s| (s * 1e6).round() / 1e3)
}

/// A time for people: 1.234 s, 12.3 ms.
pub fn time(value_s: Option<f64>) -> String {
    match value_s {
        None => "-".to_owned(),
        Some(s) if s < 1.0 => format!("{:.1} ms", s * 1e3),
        Some(s) => format!("{s:.3} s"),
    }
}

fn last(name: &str, part: usize) -> String {
    name.splitn(part + 1, '/').nth(part).unwrap_or(name).to_owned()
}

/// What `apply` changed.
#[derive(Debug, Serialize)]
pub struct PeerChange {
    change: &'static str,
    upstream: String,
    address: String,
    description: String,
}

fn kind(change: &v1::PeerChange) -> &'static str {
    use v1::peer_change::Kind;
    match change.kind() {
        Kind::Added => "added",
        Kind::Removed => "removed",
        Kind::Updated | Kind::Unspecified => "updated",
    }
}

impl From<&v1::PeerChange> for PeerChange {
    fn from(c: &v1::PeerChange) -> Self {
        Self {
            change: kind(c),
            upstream: last(&c.name, 1).split('/').next().unwrap_or_default().to_owned(),
            address: last(&c.name, 3),
            description: c.description.clone(),
        }
    }
}

/// A change.
#[derive(Debug, Default, Serialize)]
pub struct Change {
    /// The revision that it made, or the one in force if nothing changed.
    pub revision: u64,
    /// Nothing was changed, only checked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The peer as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// What `apply` changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<PeerChange>>,
    /// What `apply` changed of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_changes: Option<Vec<ClassChange>>,
    /// The class as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The key as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Its new secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// What the nodes made of it, with `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeWait>>,
}

impl Table for Change {
    fn table(&self) -> String {
        let mut text = String::new();
        for change in self.changes.iter().flatten() {
            let would = if self.dry_run { "would be " } else { "" };
            let line =
                format!("{} {}: {would}{} {}", change.upstream, change.address, change.change, change.description);
            text += &(plain(line.trim_end()) + "\n");
        }
        for change in self.class_changes.iter().flatten() {
            let would = if self.dry_run { "would be " } else { "" };
            text += &(plain(change.line(would).trim_end()) + "\n");
        }
        if let Some(key) = &self.key {
            text += &(key.line() + "\n");
        }
        if let Some(Secret(secret)) = &self.secret {
            text += &format!("secret {secret}\nkeep it now: it is shown this once and kept nowhere\n");
        }
        let nothing =
            self.changes.as_ref().is_some_and(Vec::is_empty) && self.class_changes.as_ref().is_none_or(Vec::is_empty);
        let what = match (self.dry_run, nothing) {
            (true, false) => " stays in force (dry run)",
            (_, true) => " has it all already",
            (false, false) => "",
        };
        match self.revision {
            0 => text + "nothing to change\n",
            revision => text + &format!("revision {revision}{what}\n"),
        }
    }
}
