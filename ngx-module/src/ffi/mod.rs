//! The border to nginx, and the only folder with `unsafe`.
//!
//! Callbacks here translate, call safe code and translate back. Every one that nginx calls runs
//! inside [`guard`](base::guard::guard), because a panic that crossed `extern "C"` would abort the
//! worker and every request in it.

pub(crate) mod balance;
pub(crate) mod base;
pub(crate) mod body;
pub(crate) mod cache;
pub(crate) mod feed;
pub(crate) mod limit;
pub(crate) mod module;
pub(crate) mod status;
pub(crate) mod zone;
