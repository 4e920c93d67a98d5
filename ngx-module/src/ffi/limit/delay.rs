//! Lets a request sleep until its rate allows it, as nginx's `limit_req` does: on the timer of its
//! connection's write event, while the read event tells whether the client is still there. Never
//! holds a reference into the record while nginx runs. Cost: one timer for each request that
//! sleeps.

use super::record::{self, Record};
use crate::ffi::base::{bits, nginx};
use nginx_sys::{NGX_HTTP_INTERNAL_SERVER_ERROR, ngx_http_request_t, ngx_int_t, ngx_msec_t};
use pincer_core::time::MILLISECOND_NS;

const SERVER_ERROR: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// Puts the request to sleep for `wait_ns`: the phase handler's return value.
///
/// # Safety
/// `r` is a live main request in a phase's handler, `record` its record.
pub(crate) unsafe fn delay(r: *mut ngx_http_request_t, record: *mut Record, wait_ns: u64) -> ngx_int_t {
    // SAFETY: as the caller vouches; the connection's write event has no timer while the request is
    // not answered, and nginx takes its events out of the posted ones when it closes it.
    unsafe {
        let connection = (*r).connection;
        let read = (*connection).read;
        if bits::event::ready(read) != 0 {
            // What made it ready is reported once: a client that left in the same moment would be
            // waited for.
            nginx::post(read);
        } else if nginx_sys::ngx_handle_read_event(read, 0) != nginx::OK {
            return SERVER_ERROR;
        }
        (*record).delayed = true;
        (*r).read_event_handler = Some(nginx_sys::ngx_http_test_reading);
        (*r).write_event_handler = Some(on_delay);
        bits::event::set_delayed((*connection).write, 1);
        let wait_ms = ngx_msec_t::try_from(wait_ns.div_ceil(MILLISECOND_NS)).unwrap_or(ngx_msec_t::MAX >> 1);
        bits::event::add_timer((*connection).write, wait_ms.max(1));
        nginx::AGAIN
    }
}

/// Something happened to a request that sleeps; if its time has come it goes on.
unsafe extern "C" fn on_delay(r: *mut ngx_http_request_t) {
    // SAFETY: nginx passes the live request whose handler this is. The record is not touched after
    // the phases run, which may end the request, and no Rust value is alive then, so nothing
    // unwinds through nginx.
    unsafe {
        let write = (*(*r).connection).write;
        if bits::event::delayed(write) != 0 {
            if nginx_sys::ngx_handle_write_event(write, 0) != nginx::OK {
                nginx_sys::ngx_http_finalize_request(r, SERVER_ERROR);
            }
            return;
        }
        if nginx_sys::ngx_handle_read_event((*(*r).connection).read, 0) != nginx::OK {
            nginx_sys::ngx_http_finalize_request(r, SERVER_ERROR);
            return;
        }
        if let Some(record) = record::find(r) {
            (*record).delayed = false;
        }
        (*r).read_event_handler = Some(nginx_sys::ngx_http_block_reading);
        (*r).write_event_handler = Some(nginx_sys::ngx_http_core_run_phases);
        nginx_sys::ngx_http_core_run_phases(r);
    }
}
