//! Filters of responses' headers: their place in nginx's chain.

use super::guard::guard;
use super::statics::LoopStatic;
use super::status::OK;
use nginx_sys::{ngx_http_output_header_filter_pt, ngx_http_request_t, ngx_int_t};
use std::cell::Cell;

/// The filter that stands after one of ours. Set by the master before it forks.
pub(crate) struct Next(LoopStatic<Cell<ngx_http_output_header_filter_pt>>);

impl Next {
    /// For a `static`.
    pub(crate) const fn new() -> Self {
        Self(LoopStatic::new(Cell::new(None)))
    }
}

/// Sees a response's header before it is sent.
pub(crate) trait HeaderFilter {
    /// For the log, should it panic.
    const PLACE: &'static str;

    /// The filter that stands after this one.
    fn next() -> &'static Next;

    /// # Safety
    /// `r` is live, and its header is about to be sent.
    unsafe fn see(r: *mut ngx_http_request_t);
}

/// Puts the filter in front of all others.
pub(crate) fn install<F: HeaderFilter>() {
    // SAFETY: configuration time, one thread.
    unsafe {
        F::next().0.set(nginx_sys::ngx_http_top_header_filter);
        nginx_sys::ngx_http_top_header_filter = Some(header_filter::<F>);
    }
}

unsafe extern "C" fn header_filter<F: HeaderFilter>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request.
    guard(F::PLACE, (), || unsafe { F::see(r) });
    match F::next().0.get() {
        // SAFETY: the filter that nginx had installed before ours.
        Some(next) => unsafe { next(r) },
        None => OK,
    }
}
