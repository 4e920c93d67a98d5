//! What every feature of the module builds on: nginx as Rust sees it. Knows no feature.

pub(crate) mod bits;
pub(crate) mod clock;
pub(crate) mod guard;
mod layout;
pub(crate) mod log;
pub(crate) mod nginx;
pub(crate) mod statics;
