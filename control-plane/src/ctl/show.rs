//! Results, as tables for people and as JSON for programs.
//!
//! Scripts rely on the names of JSON fields: fields may be added, never renamed. Tables replace
//! control characters that a node sent. Pure. Cost: one pass to measure the columns, one to print.

mod change;
mod class;
mod key;
mod node;
mod peer;
mod purge;
pub mod table;

pub use change::{Change, ClassChange, PeerChange};
pub use class::{Class, Classes};
pub use key::{Key, Keys, Secret};
pub use node::{Forgotten, Node, Nodes};
pub use peer::{Peers, UpstreamAndPeers, Upstreams};
pub use purge::Purged;
