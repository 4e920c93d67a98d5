//! Reads a body before the content phase, where the order of things needs it.

use super::conf::{BodyModule, is_handled};
use super::head::is_unread;
use crate::ffi::base::phase::Handler;
use crate::ffi::base::{bits, nginx};
use nginx_sys::{NGX_HTTP_SPECIAL_RESPONSE, ngx_http_request_t, ngx_int_t};
use ngx::http::HttpModuleLocationConf as _;

/// Before the content phase: reads the body where the order of things needs it.
pub(super) struct ReadEarly;

impl Handler for ReadEarly {
    const PLACE: &'static str = "reading the body early";

    unsafe fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
        // SAFETY: as the caller vouches; in a phase handler, which may read the body and suspend
        // the phases.
        unsafe {
            if r != (*r).main || !(*r).request_body.is_null() || bits::request::discard_body(r) != 0 || !is_unread(r) {
                return nginx::DECLINED;
            }
            let wanted =
                BodyModule::location_conf(&*r).is_some_and(|conf| conf.hashing().is_some() && conf.reads_early);
            if !wanted || !is_handled(r) {
                return nginx::DECLINED;
            }
            let result = nginx_sys::ngx_http_read_client_request_body(r, Some(resume_phases));
            if result >= NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t {
                return result;
            }
            // Undoes what the read counted; the phases go on in `resume_phases`.
            nginx_sys::ngx_http_finalize_request(r, nginx::DONE);
            nginx::DONE
        }
    }
}

/// The body is there: the phases go on, and meet a request that has read its body.
unsafe extern "C" fn resume_phases(r: *mut ngx_http_request_t) {
    // SAFETY: nginx passes the live request whose body was asked for. No Rust value is alive here,
    // so nothing unwinds through nginx.
    unsafe {
        bits::request::set_preserve_body(r, 1);
        (*r).write_event_handler = Some(nginx_sys::ngx_http_core_run_phases);
        nginx_sys::ngx_http_core_run_phases(r);
    }
}
