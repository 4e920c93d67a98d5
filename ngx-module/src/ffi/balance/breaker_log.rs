//! Breakers that opened or closed, in the error log of nginx at level `notice`.
//!
//! The core decides which changes are worth a line, and what it says. It goes to the log of the
//! cycle and not to the request's, where nginx adds the client and the request line.

use super::request::RequestState;
use crate::ffi::base::log;
use pincer_core::zone::Change;

/// Writes the lines of `changes`; `cause` is what the failure was that ends the attempt, if one
/// does.
#[cold]
pub(crate) fn write(state: &RequestState, changes: &[Change], cause: &str) {
    let Some(index) = state.conf.index.get() else { return };
    for change in changes {
        log::write_cycle(log::NGX_LOG_NOTICE, &state.zone.change_text(index, change, cause));
    }
}
