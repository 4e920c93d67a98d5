//! Lines in nginx's error log. Lower case, `pincer: verb object, key=value`; never a body, key or
//! header.
//!
//! The macros of `ngx` format without memory of their own, and read through the log's pointer: here
//! alone they stand behind a check that there is one.

#![expect(clippy::disallowed_macros, reason = "each stands behind a check of its log")]

use super::statics::LoopStatic;
use nginx_sys::{ngx_conf_t, ngx_log_t};
use ngx::{ngx_conf_log_error, ngx_log_error};
use std::cell::Cell;

pub(crate) use nginx_sys::{NGX_LOG_CRIT, NGX_LOG_EMERG, NGX_LOG_ERR, NGX_LOG_INFO, NGX_LOG_NOTICE, NGX_LOG_WARN};

/// Writes `pincer: message` at `level`, if the log takes that level. `log` comes from nginx and may
/// be null (nothing is written).
pub(crate) fn write(log: *mut ngx_log_t, level: u32, message: &str) {
    // The macro reads through the pointer: a log that reaches this module and is not null is that
    // of a live cycle, connection or configuration.
    if !log.is_null() {
        ngx_log_error!(level, log, "pincer: {message}");
    }
}

/// Writes to the log of the current cycle.
pub(crate) fn write_cycle(level: u32, message: &str) {
    write(cycle_log(), level, message);
}

/// The log of a cycle that is about to become the current one; null while none is.
static COMING: LoopStatic<Cell<*mut ngx_log_t>> = LoopStatic::new(Cell::new(std::ptr::null_mut()));

/// Runs `task` with the log of a cycle that nginx has not made the current one yet, so that its
/// `error_log` gets the lines, not stderr.
pub(crate) fn with_log(log: *mut ngx_log_t, task: impl FnOnce()) {
    COMING.set(log);
    task();
    COMING.set(std::ptr::null_mut());
}

/// The log of the current cycle; null before there is one.
pub(crate) fn cycle_log() -> *mut ngx_log_t {
    let coming = COMING.get();
    if !coming.is_null() {
        return coming;
    }
    // SAFETY: `ngx_cycle` is set before any module's code runs and always points to a live cycle.
    unsafe { if nginx_sys::ngx_cycle.is_null() { std::ptr::null_mut() } else { (*nginx_sys::ngx_cycle).log } }
}

/// Reports a mistake in the configuration; nginx appends ` in FILE:LINE`.
pub(crate) fn conf(cf: *mut ngx_conf_t, level: u32, message: &str) {
    // The macro reads through both pointers.
    // SAFETY: nginx passes a live `ngx_conf_t` to every callback of the configuration.
    if !cf.is_null() && !unsafe { (*cf).log }.is_null() {
        ngx_conf_log_error!(level, cf, "{message}");
    }
}
