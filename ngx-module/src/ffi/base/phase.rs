//! Handlers of the phases of request processing.

use super::guard::guard;
use super::status::DECLINED;
use super::text::elements;
use crate::conf::{ConfError, Problem};
use nginx_sys::{ngx_http_conf_ctx_t, ngx_http_request_t, ngx_int_t};

/// Handles a request, in a phase of its processing or as its content.
pub(crate) trait Handler {
    /// For the log, should it panic.
    const PLACE: &'static str;

    /// # Safety
    /// `r` is live.
    unsafe fn handle(r: *mut ngx_http_request_t) -> ngx_int_t;

    /// What nginx is to hear should `handle` panic.
    ///
    /// # Safety
    /// `r` is live.
    unsafe fn fault(_r: *const ngx_http_request_t) -> ngx_int_t {
        DECLINED
    }
}

/// `H` as nginx calls it.
pub(crate) unsafe extern "C" fn handler<H: Handler>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // Found out before: what panics may have ended the request.
    // SAFETY: nginx passes a live request.
    let fault = guard(H::PLACE, DECLINED, || unsafe { H::fault(r) });
    // SAFETY: as above.
    guard(H::PLACE, fault, || unsafe { H::handle(r) })
}

type PhaseHandler = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;

/// Adds a handler to a phase of request processing, for `directive`.
pub(crate) fn add_phase_handler<H: Handler>(
    cf: *mut nginx_sys::ngx_conf_t,
    phase: nginx_sys::ngx_http_phases,
    directive: &'static str,
) -> Result<(), ConfError> {
    // SAFETY: `cf` is live, and its array of handlers too.
    unsafe {
        let slot = nginx_sys::ngx_array_push(phase_handlers(cf, phase)).cast::<nginx_sys::ngx_http_handler_pt>();
        if slot.is_null() {
            return Err(ConfError::new(directive, Problem::Memory));
        }
        slot.write(Some(handler::<H>));
    }
    Ok(())
}

/// Adds a handler to `phase`, to run right behind the first handler that stands in the phase `also`
/// too; first of all when there is none.
pub(crate) fn add_phase_handler_behind<H: Handler>(
    cf: *mut nginx_sys::ngx_conf_t,
    phase: nginx_sys::ngx_http_phases,
    also: nginx_sys::ngx_http_phases,
    directive: &'static str,
) -> Result<(), ConfError> {
    add_phase_handler::<H>(cf, phase, directive)?;
    // SAFETY: `cf` is live, configuration is read by one thread, and the two arrays are different
    // ones.
    let (present, others) = unsafe {
        let handlers: *const nginx_sys::ngx_array_t = phase_handlers(cf, phase);
        let present =
            std::slice::from_raw_parts_mut((*handlers).elts.cast::<Option<PhaseHandler>>(), (*handlers).nelts);
        (present, elements::<Option<PhaseHandler>>(phase_handlers(cf, also)))
    };
    let is_other = |present: &Option<PhaseHandler>| {
        others.iter().flatten().any(|other| present.is_some_and(|present| std::ptr::fn_addr_eq(present, *other)))
    };
    // nginx runs the last of the array first.
    if let Some(before) = present.iter().rposition(is_other) {
        present[before..].rotate_right(1);
    }
    Ok(())
}

/// The handlers of a phase, in the order in which modules added them.
fn phase_handlers(cf: *mut nginx_sys::ngx_conf_t, phase: nginx_sys::ngx_http_phases) -> *mut nginx_sys::ngx_array_t {
    // SAFETY: the core module's main configuration exists in every `http {}`; its phases are arrays
    // of handlers, made before postconfiguration.
    unsafe {
        let context = (*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        let core = (*(*context).main_conf.add(nginx_sys::ngx_http_core_module.ctx_index))
            .cast::<nginx_sys::ngx_http_core_main_conf_t>();
        &raw mut (*core).phases[phase as usize].handlers
    }
}
