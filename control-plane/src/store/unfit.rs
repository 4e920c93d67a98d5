//! Why a record of the store is not one that pincerd wrote.

use crate::{hello, names};

/// What is out of range in a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The revision of a change that the store does not have.
    #[error("revision {revision}, the store has {newest}")]
    Revision {
        /// The record's.
        revision: u64,
        /// The store's newest.
        newest: u64,
    },
    /// A name or an address.
    #[error(transparent)]
    Name(#[from] names::Fault),
    /// A class' setting.
    #[error("{field}: {problem}")]
    Setting {
        /// Which.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// More blocks of addresses than a key may have.
    #[error("{0} blocks of addresses")]
    Blocks(usize),
    /// A time that no clock shows.
    #[error("a time of {0} s")]
    Time(i64),
    /// What a node declared.
    #[error(transparent)]
    Node(#[from] hello::Fault),
}
