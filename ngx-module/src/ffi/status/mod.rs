//! The pages of status and metrics.

pub(crate) mod pages;
