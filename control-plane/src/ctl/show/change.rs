//! A change, as printed: the fields that changed, the revision, and its outcome in the nodes.

use pincer_proto::v1;
use serde::Serialize;

use super::{
    class::Class,
    key::{Key, Secret},
    peer::Peer,
    table::{Table, last, plain},
};
use crate::ctl::wait::NodeWait;

/// What `apply` changed.
#[derive(Debug, Serialize)]
pub struct PeerChange {
    change: &'static str,
    upstream: String,
    address: String,
    description: String,
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

fn kind(change: &v1::PeerChange) -> &'static str {
    use v1::peer_change::Kind;
    match change.kind() {
        Kind::Added => "added",
        Kind::Removed => "removed",
        Kind::Updated | Kind::Unspecified => "updated",
    }
}

/// What `apply` changed of a class.
#[derive(Debug, Serialize)]
pub struct ClassChange {
    change: &'static str,
    class: String,
    description: String,
}

impl From<&v1::PeerChange> for ClassChange {
    fn from(c: &v1::PeerChange) -> Self {
        Self { change: kind(c), class: last(&c.name, 1), description: c.description.clone() }
    }
}

impl ClassChange {
    /// One line for people.
    pub fn line(&self, would: &str) -> String {
        format!("class {}: {would}{} {}", self.class, self.change, self.description)
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
    /// The outcome in the nodes, with `--wait`.
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
            text += &format!("secret {secret}\nstore it now: the secret is shown only once and stored nowhere\n");
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
