//! Results as people and as programs read them.
//!
//! The JSON's field names are relied on by scripts: fields may be added, never renamed. A table
//! never passes on a control character that a node sent. Pure. Cost: one pass to measure the
//! columns, one to print.

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
