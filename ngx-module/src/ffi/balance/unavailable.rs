//! The response to a request of a class where the queue is full, or whose wait times out:
//! 503 with `Retry-After`. And to one that cannot be tried again: the status that its last peer
//! answered.
//!
//! nginx's balancer interface knows only 502 and 504. So the request is parked on a placeholder
//! first, and from the event loop its upstream is ended as nginx ends one, and the request finished
//! with the status: `error_page` applies. Never called while nginx is inside the request.

use crate::ffi::base::{bits, log, nginx};
use nginx_sys::{
    NGX_HTTP_SERVICE_UNAVAILABLE, NGX_HTTP_SPECIAL_RESPONSE, ngx_http_request_t, ngx_http_upstream_state_t,
    ngx_http_upstream_t, ngx_int_t, ngx_msec_t, ngx_uint_t,
};
use ngx::ngx_string;

/// Whether nginx would serve an expired response from its cache for a failure of kind `flag`
/// (`NGX_HTTP_UPSTREAM_FT_…`): then its own way is better than 503.
///
/// # Safety
/// `u` is live.
pub(crate) unsafe fn has_stale(u: *const ngx_http_upstream_t, flag: u32) -> bool {
    // SAFETY: as the caller vouches; an upstream that is in use has its configuration.
    unsafe {
        bits::upstream::cache_status(u) == nginx_sys::NGX_HTTP_CACHE_EXPIRED
            && (*(*u).conf).cache_use_stale & flag as ngx_uint_t != 0
    }
}

/// Ends the request with 503.
///
/// # Safety
/// `r` is live with an upstream that waits for a connection; called from the event loop. The
/// request may be gone afterwards.
pub(crate) unsafe fn respond(r: *mut ngx_http_request_t, retry_after_s: u32, reason: &str) {
    // SAFETY: as the caller vouches; `cleanup` is set as long as an upstream is not finalised. Its
    // handler takes one off the main request's count, which is added before, as
    // `ngx_http_upstream_create` does. What a connection's memory says of being destroyed outlives
    // the request.
    unsafe {
        log::write(
            (*(*r).connection).log,
            log::NGX_LOG_ERR,
            &format!("request rejected, reason={reason}, retry_after={retry_after_s}"),
        );
        nginx::add_header_out(r, ngx_string!("Retry-After"), &retry_after_s.to_string());
        finish(r, NGX_HTTP_SERVICE_UNAVAILABLE as ngx_uint_t);
    }
}

/// The status that the last peer of the request answered before its retry was parked; `None` if it
/// did not answer, if there was none, or if nginx may serve an expired response of its cache
/// instead.
///
/// # Safety
/// `r` is live with an upstream that asks, or waits, for a connection.
pub(crate) unsafe fn own_status(r: *const ngx_http_request_t) -> Option<ngx_uint_t> {
    // SAFETY: as the caller vouches; nginx keeps the states of all attempts in this array, the
    // current one last.
    unsafe {
        if bits::upstream::cache_status((*r).upstream) == nginx_sys::NGX_HTTP_CACHE_EXPIRED {
            return None;
        }
        let states = nginx::elements::<ngx_http_upstream_state_t>((*r).upstream_states);
        let last = states.get(states.len().checked_sub(2)?)?;
        let answered = !last.peer.is_null() && last.header_time != ngx_msec_t::MAX;
        (answered && last.status >= NGX_HTTP_SPECIAL_RESPONSE as ngx_uint_t).then_some(last.status)
    }
}

/// Ends the request with `status`, of its own peer.
///
/// # Safety
/// As [`respond`].
pub(crate) unsafe fn respond_own(r: *mut ngx_http_request_t, status: ngx_uint_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        log::write(
            (*(*r).connection).log,
            log::NGX_LOG_ERR,
            &format!("has no peer to try a request again, gives its client the last response, status={status}"),
        );
        finish(r, status);
    }
}

/// # Safety
/// As [`respond`].
unsafe fn finish(r: *mut ngx_http_request_t, status: ngx_uint_t) {
    // SAFETY: as the caller vouches; so is what is said there of the cleanup.
    unsafe {
        let (u, connection, main) = ((*r).upstream, (*r).connection, (*r).main);
        if !(*u).state.is_null() {
            (*(*u).state).status = status;
        }
        if let Some(finalize) = (*u).cleanup.as_ref().copied().flatten() {
            bits::request::set_count(main, bits::request::count(main) + 1);
            finalize(r.cast());
        }
        nginx_sys::ngx_http_finalize_request(r, ngx_int_t::try_from(status).unwrap_or(nginx::ERROR));
        nginx_sys::ngx_http_run_posted_requests(connection);
    }
}
