//! Counts bodies, and warns where a cache's key knows nothing of them.

use super::conf::BodyModule;
use super::head::has_body;
use super::record::find;
use crate::ffi::base::phase::Handler;
use crate::ffi::base::{log, nginx};
use crate::ffi::zone::conf::of_request as zone_of;
use nginx_sys::{ngx_http_request_t, ngx_int_t};
use ngx::http::HttpModuleLocationConf as _;

/// Warns, once in a worker, where a response is about to be kept under a key that the request's
/// body has no part in, though the location has it hashed.
///
/// # Safety
/// `r` is live, and the cache's key made.
pub(crate) unsafe fn warn_of_a_key_without(r: *const ngx_http_request_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        let Some(location) = BodyModule::location_conf(&*r).filter(|conf| conf.hashing().is_some()) else { return };
        let is_used = find((*r).main).is_some_and(|record| (*record).is_used);
        if is_used || r != (*r).main || !has_body(r) || location.has_warned.replace(true) {
            return;
        }
        let name = String::from_utf8_lossy(nginx::bytes(nginx::core_location(r).name));
        let message = format!(
            "\"pincer_body_hash\" is on in location \"{name}\", and its cache keeps a response under a key that knows nothing of the body: \
             different bodies get one response, \"proxy_cache_key $pincer_cache_key\" is needed"
        );
        log::write((*(*r).connection).log, log::NGX_LOG_WARN, &message);
    }
}

/// The request's end: counts bodies that had no digest, and what the cache made of it.
pub(super) struct Count;

impl Handler for Count {
    const PLACE: &'static str = "counting a request";

    unsafe fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
        // SAFETY: as the caller vouches.
        unsafe {
            let Some(zone) = zone_of(r) else { return nginx::OK };
            if BodyModule::location_conf(&*r).is_none_or(|conf| conf.hashing().is_none()) {
                return nginx::OK;
            }
            let hashed = find((*r).main).is_some_and(|record| (*record).digest.is_some());
            if !hashed && has_body((*r).main) {
                zone.header.bodies.unhashed();
            }
            let upstream = (*r).upstream;
            if !upstream.is_null() {
                zone.header.bodies.cache_status(nginx::cache_status(upstream));
            }
        }
        nginx::OK
    }
}
