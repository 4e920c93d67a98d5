//! What is kept of a response that is paced.

use crate::ffi::base::nginx;
use nginx_sys::{ngx_chain_t, ngx_event_t};

/// What is kept of a response; in the request's record, which does not move.
pub(crate) struct Pacing {
    pub(super) kept: *mut ngx_chain_t,
    /// Pieces of cut buffers that were handed on, and those that are used up, for the next cut.
    pub(super) pieces: *mut ngx_chain_t,
    pub(super) free: *mut ngx_chain_t,
    pub(super) timer: ngx_event_t,
    /// The write event is `delayed` because of us.
    pub(super) delays: bool,
}

impl Default for Pacing {
    fn default() -> Self {
        // SAFETY: an event of zeroes is one that is not in use.
        let timer = unsafe { std::mem::zeroed() };
        let none = std::ptr::null_mut();
        Self { kept: none, pieces: none, free: none, timer, delays: false }
    }
}

/// Stops the timer, at the request's end.
///
/// # Safety
/// `pacing` lies where it lay when the timer was armed.
pub(crate) unsafe fn stop(pacing: *mut Pacing) {
    // SAFETY: as the caller vouches.
    unsafe { nginx::cancel(&raw mut (*pacing).timer) };
}
