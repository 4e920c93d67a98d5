//! Why a change is refused, and the etags by which a caller says what they saw.
//!
//! Pure.

use crate::{
    model::{Full, Record},
    names,
};

/// Why a request was refused. Always the caller's fault, or another operator was faster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No node declares the upstream.
    #[error("no node declares an upstream {0:?}")]
    NoUpstream(String),
    /// No node declares the peer, and no operator added it.
    #[error("{0} is declared by no node and was not added: add it first")]
    NoPeer(String),
    /// No node declares the peer to be removed, and no operator added it.
    #[error("there is no {0}, no node declares it and it was not added: nothing to remove")]
    NoPeerToRemove(String),
    /// The peer is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The caller has read an older state.
    #[error("{name} was changed since: its etag is {current:?}, not {given:?}")]
    Stale {
        /// The peer.
        name: String,
        /// The etag in force.
        current: String,
        /// The etag that the caller gave.
        given: String,
    },
    /// The peer comes from nginx.conf.
    #[error(
        "{0} is declared in nginx.conf, removing its settings would send it requests again: set its state to down instead"
    )]
    Declared(String),
    /// No node declares the class, and no operator added it.
    #[error("{0} is declared by no node and was not added: add it first")]
    NoClass(String),
    /// No node declares the class to be deleted, and no operator added it.
    #[error("there is no {0}, no node declares it and it was not added: nothing to delete")]
    NoClassToDelete(String),
    /// A burst or a delay without a rate.
    #[error("{class} has no rate in force, which its {field} needs: set a rate with it, as 10r/s")]
    NoRate {
        /// The class.
        class: String,
        /// The field that was set.
        field: &'static str,
    },
    /// The class comes from nginx.conf, and nothing was set.
    #[error("{0} is declared in nginx.conf and nothing of it was set: there is nothing to remove")]
    DeclaredClass(String),
    /// The shares of a node's classes exceed 100 %.
    #[error("the classes of a node would have shares of {0} % in all, at most 100 % are allowed")]
    Shares(u32),
    /// No such key.
    #[error("{0} is not known")]
    NoKey(String),
    /// The key is revoked or expired.
    #[error("{0} is revoked or expired: create a new key")]
    KeyEnded(String),
    /// The key is valid.
    #[error("{0} is valid: revoke it first")]
    KeyValid(String),
    /// The request names a peer, an upstream or a class twice.
    #[error("{0} is named twice")]
    Twice(String),
    /// A bound would be exceeded.
    #[error(transparent)]
    Full(#[from] Full),
}

/// The etag of a record: it changes with every change and never comes back.
pub fn etag(record: Option<&Record>) -> String {
    etag_of(record.map_or(0, |r| r.revision))
}

/// The etag of a record that `revision` changed last; 0 = no record.
pub fn etag_of(revision: u64) -> String {
    format!("r{revision}")
}

/// Compares the etag that a caller gave, if any, with that of the record `name`, which `revision`
/// changed last.
pub fn check_etag(given: Option<&str>, revision: u64, name: impl FnOnce() -> String) -> Result<(), Refusal> {
    let current = etag_of(revision);
    match given {
        Some(given) if given != current => {
            Err(Refusal::Stale { name: name(), current, given: names::cut(given, 40).to_owned() })
        }
        _ => Ok(()),
    }
}
