//! The border to nginx, and the only folder with `unsafe`.
//!
//! Callbacks here translate, call safe code and translate back. Every one that nginx calls runs inside [`guard`], because a panic that
//! crossed `extern "C"` would abort the worker and every request in it.

pub(crate) mod address;
pub(crate) mod api_key;
pub(crate) mod balancer;
pub(crate) mod bandwidth;
mod bits;
pub(crate) mod body;
mod body_head;
mod breaker_log;
pub(crate) mod cache_key;
pub(crate) mod cache_nodes;
pub(crate) mod cache_purge;
pub(crate) mod cache_store;
pub(crate) mod cache_zones;
pub(crate) mod class_header;
pub(crate) mod clock;
pub(crate) mod conf;
mod declare;
pub(crate) mod directive;
pub(crate) mod feed;
mod fingerprint;
pub(crate) mod first_byte;
mod give_way;
mod grpc;
mod layout;
pub(crate) mod limit_answer;
pub(crate) mod limit_delay;
pub(crate) mod limits;
pub(crate) mod local_queue;
pub(crate) mod location;
pub(crate) mod log;
pub(crate) mod module;
pub(crate) mod nginx;
mod passed;
pub(crate) mod placeholder;
pub(crate) mod process;
pub(crate) mod queue;
mod queue_class;
mod queue_end;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod status;
mod unavailable;
pub(crate) mod variables;
pub(crate) mod wake;
pub(crate) mod zone;

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A static of the event loop: only the thread that runs nginx uses it, so plain cells do. Cheaper than a thread's own storage, which costs a call
/// for each use in a shared object.
pub(crate) struct LoopStatic<T>(T);

// SAFETY: everything in `ffi` runs on nginx's one thread; the feed's thread, the only other, never calls into `ffi`.
unsafe impl<T> Sync for LoopStatic<T> {}

impl<T> LoopStatic<T> {
    /// For a `static`.
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for LoopStatic<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

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
