//! Bandwidths: the body filter that paces responses.

pub(crate) mod filter;
pub(crate) mod pacing;
pub(crate) mod pieces;
