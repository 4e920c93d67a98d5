//! What of a request several features ask for.

use super::bits;
use super::status::OK;
use super::text::bytes;
use nginx_sys::{ngx_http_core_loc_conf_t, ngx_http_request_t, ngx_str_t};

/// nginx's own configuration of the location that `request` is in.
///
/// # Safety
/// `request` is live; the configuration lives longer.
pub(crate) unsafe fn core_location<'a>(request: *const ngx_http_request_t) -> &'a ngx_http_core_loc_conf_t {
    // SAFETY: as the caller vouches; the core module has a configuration in every location.
    unsafe { &*(*(*request).loc_conf.add(nginx_sys::ngx_http_core_module.ctx_index)).cast() }
}

/// The value of text with variables for `request`; `None` when out of memory or nginx reports an
/// error.
///
/// # Safety
/// `request` is live and `compiled` of its configuration; the bytes live as long as the request.
pub(crate) unsafe fn complex_value<'a>(
    request: *mut ngx_http_request_t,
    compiled: &'static nginx_sys::ngx_http_complex_value_t,
) -> Option<&'a [u8]> {
    let mut value = ngx_str_t { len: 0, data: std::ptr::null_mut() };
    // SAFETY: as the caller vouches; nginx only reads the compiled value.
    unsafe {
        let compiled = std::ptr::from_ref(compiled).cast_mut();
        (nginx_sys::ngx_http_complex_value(request, compiled, &raw mut value) == OK).then(|| bytes(value))
    }
}

/// nginx's number for what its cache did with the request of `upstream`; 0 = it was not asked.
///
/// # Safety
/// `upstream` is live.
pub(crate) unsafe fn cache_status(upstream: *const nginx_sys::ngx_http_upstream_t) -> usize {
    // SAFETY: as the caller vouches.
    unsafe { bits::upstream::cache_status(upstream) as usize }
}
