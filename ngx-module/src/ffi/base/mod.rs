//! What every feature of the module builds on: nginx as Rust sees it. Knows no feature.

pub(crate) mod bits;
pub(crate) mod clock;
pub(crate) mod cycle;
pub(crate) mod directive;
pub(crate) mod event;
pub(crate) mod eventfd;
pub(crate) mod feature;
pub(crate) mod filter;
pub(crate) mod guard;
pub(crate) mod headers;
mod layout;
pub(crate) mod location;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod nginx;
pub(crate) mod page;
pub(crate) mod phase;
pub(crate) mod pool;
pub(crate) mod request;
pub(crate) mod statics;
pub(crate) mod status;
pub(crate) mod text;
pub(crate) mod variable;
pub(crate) mod wrapper;
