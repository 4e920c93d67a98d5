//! The gRPC services: each translates between the wire and `plane`, and decides nothing else.

mod audit;
mod class;
pub mod control;
mod describe;
mod error;
mod key;
mod node;
mod page;
mod purge;
mod read;
mod render;
pub mod role;
mod watch;

pub use audit::AuditLayer;
pub use control::Control;
pub use node::Nodes;
