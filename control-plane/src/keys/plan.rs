//! Turns a request about API keys into changes of records, or refuses it.
//! Pure: `now_s` comes in as an argument.

use pincer_proto::limits;

use super::{Hash, Old, Record};
use crate::{
    model::{Config, Full, Replaced},
    names,
    refusal::{Refusal, check_etag},
};

/// A request. Its names and values have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Seconds since 1970.
    pub now_s: i64,
    /// The request.
    pub kind: Kind,
}

/// A request about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Make a key.
    Create {
        /// Its id.
        id: String,
        /// The holder. Times in it are ignored.
        holder: Holder,
        /// The SHA-256 of its secret.
        sha256: Hash,
    },
    /// Replace the secret of a key.
    Rotate {
        /// Its id.
        id: String,
        /// The SHA-256 of the new secret.
        sha256: Hash,
        /// How long the old one stays valid.
        overlap_s: i64,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
    },
    /// Revoke a key.
    Revoke {
        /// Its id.
        id: String,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
    },
    /// Delete a key that is revoked or expired.
    Delete {
        /// Its id.
        id: String,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
    },
}

/// The holder of a key, and what the key permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The tenant.
    pub tenant: String,
    /// The class.
    pub class: String,
    /// The client addresses that may use the key; empty = any address.
    pub cidrs: Vec<String>,
    /// When the key expires, in seconds since 1970; `None` = never.
    pub expire_s: Option<i64>,
}

/// A change of one key.
pub type Change = Replaced<Record>;

/// The changes that `op` makes. Empty if nothing changes.
pub fn plan(op: &Op, config: &Config) -> Result<Vec<Change>, Refusal> {
    let (now_s, view) = (op.now_s, View { config });
    let changes = match &op.kind {
        Kind::Create { id, holder, sha256 } => vec![view.create(id, holder, *sha256, now_s)?],
        Kind::Rotate { id, sha256, overlap_s, etag } => {
            vec![view.rotate(id, *sha256, now_s, now_s.saturating_add(*overlap_s), etag.as_deref())?]
        }
        Kind::Revoke { id, etag } => vec![view.revoke(id, now_s, etag.as_deref())?],
        Kind::Delete { id, etag } => vec![view.delete(id, now_s, etag.as_deref())?],
    };
    Ok(changes.into_iter().filter(|change| change.before != change.after).collect())
}

struct View<'a> {
    config: &'a Config,
}

impl View<'_> {
    fn known(&self, id: &str, etag: Option<&str>) -> Result<&Record, Refusal> {
        let name = || names::key_name(id);
        let record = self.config.keys.get(id).ok_or_else(|| Refusal::NoKey(name()))?;
        check_etag(etag, record.revision, name)?;
        Ok(record)
    }

    fn valid(&self, id: &str, now_s: i64, etag: Option<&str>) -> Result<&Record, Refusal> {
        let record = self.known(id, etag)?;
        if record.has_ended(now_s) { Err(Refusal::KeyEnded(names::key_name(id))) } else { Ok(record) }
    }

    fn create(&self, id: &str, holder: &Holder, sha256: Hash, now_s: i64) -> Result<Change, Refusal> {
        if self.config.keys.contains_key(id) {
            return Err(Refusal::Exists(names::key_name(id)));
        }
        let count = self.config.keys.len() + 1;
        if count > limits::KEYS_MAX {
            return Err(Full { what: "keys, ended ones too".to_owned(), count, max: limits::KEYS_MAX }.into());
        }
        let Holder { tenant, class, cidrs, expire_s } = holder.clone();
        let record = Record {
            tenant,
            class,
            cidrs,
            expire_s,
            sha256,
            old: None,
            created_s: now_s,
            rotated_s: now_s,
            revoked_s: None,
            revision: 0,
        };
        Ok(Change { id: id.to_owned(), before: None, after: Some(record) })
    }

    fn rotate(&self, id: &str, sha256: Hash, now_s: i64, until_s: i64, etag: Option<&str>) -> Result<Change, Refusal> {
        let before = self.valid(id, now_s, etag)?;
        let old = (until_s > now_s).then_some(Old { sha256: before.sha256, until_s });
        Ok(change(id, before, Record { sha256, old, rotated_s: now_s, ..before.clone() }))
    }

    fn revoke(&self, id: &str, now_s: i64, etag: Option<&str>) -> Result<Change, Refusal> {
        let before = self.known(id, etag)?;
        let revoked_s = Some(before.revoked_s.unwrap_or(now_s));
        Ok(change(id, before, Record { revoked_s, old: None, ..before.clone() }))
    }

    fn delete(&self, id: &str, now_s: i64, etag: Option<&str>) -> Result<Change, Refusal> {
        let before = self.known(id, etag)?;
        if !before.has_ended(now_s) {
            return Err(Refusal::KeyValid(names::key_name(id)));
        }
        Ok(Change { id: id.to_owned(), before: Some(before.clone()), after: None })
    }
}

impl Record {
    fn has_ended(&self, now_s: i64) -> bool {
        use pincer_proto::v1::key::State;
        matches!(self.state(now_s), State::Revoked | State::Expired)
    }
}

fn change(id: &str, before: &Record, after: Record) -> Change {
    Change { id: id.to_owned(), before: Some(before.clone()), after: Some(after) }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
