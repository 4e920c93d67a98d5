//! The border to nginx, and the only folder with `unsafe`.
//!
//! Callbacks here translate, call safe code and translate back. Every one that nginx calls runs inside [`guard`], because a panic that
//! crossed `extern "C"` would abort the worker and every request in it.

pub(crate) mod balancer;
pub(crate) mod clock;
pub(crate) mod conf;
pub(crate) mod directive;
pub(crate) mod feed;
pub(crate) mod first_byte;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod nginx;
pub(crate) mod process;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod status;
pub(crate) mod variables;
pub(crate) mod wake;
pub(crate) mod zone;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one callback; a panic inside becomes `fallback`, is counted in the zone and logged once for each worker.
pub(crate) fn guard<T>(place: &'static str, fallback: T, callback: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(value) => value,
        Err(_) => {
            process::count_panic(place);
            fallback
        }
    }
}
