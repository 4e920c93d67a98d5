//! What a request's head says of its body.

use crate::ffi::base::{bits, nginx};
use nginx_sys::ngx_http_request_t;
use std::borrow::Cow;

/// Headers that say what a body is.
pub(crate) const CONTENT_TYPE: &[u8] = b"content-type";
pub(crate) const CONTENT_ENCODING: &[u8] = b"content-encoding";
/// Between the lines of a header that was sent more than once, where they must not pass for one.
pub(crate) const LINES: &[u8] = b"\n";

/// What the client says of its body: the values of Content-Type and Content-Encoding.
///
/// # Safety
/// `r` is live, and outlives what is answered.
pub(super) unsafe fn kind<'a>(r: *const ngx_http_request_t) -> [Cow<'a, [u8]>; 2] {
    // SAFETY: as the caller vouches.
    unsafe { nginx::headers_in(r, [CONTENT_TYPE, CONTENT_ENCODING], LINES) }
}

/// Whether the request came with a body, read or not or thrown away.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn has_body(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { is_unread(r) || declared_bytes(r).is_some_and(|bytes| bytes > 0) }
}

/// Whether there is, as far as nginx knows, a body to be read. It says no once it has thrown the
/// body away.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn is_unread(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { (*r).headers_in.content_length_n > 0 || bits::headers_in::chunked(&raw const (*r).headers_in) != 0 }
}

/// The body's length as the client said; `None` if it did not.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn declared_bytes(r: *const ngx_http_request_t) -> Option<u64> {
    // SAFETY: as the caller vouches; the header lives as long as it.
    let text = unsafe { nginx::bytes((*r).headers_in.content_length.as_ref()?.value) };
    // nginx refuses what is no number, but `error_page 400` may still serve the request: then there
    // is no telling how long the body was.
    let number = |so_far: u64, digit: &u8| {
        so_far.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?))
    };
    Some(text.iter().try_fold(0, number).filter(|_| !text.is_empty()).unwrap_or(u64::MAX))
}
