//! What gRPC says of a call: its status, which stands in the trailers of a 200.
//!
//! Who guarantees that it is there when nginx frees the peer: `ngx_http_grpc_filter` pushes each
//! trailer to `u->headers_in.trailers` while it parses the block of headers that ends the stream,
//! and only then calls the response complete; a response of headers alone ("trailers-only") has the
//! status among `u->headers_in.headers`, which `ngx_http_grpc_process_header` filled. Both lists
//! are initialised before any header is parsed (`ngx_http_upstream_process_header`). So it is in
//! 1.22.1 and in 1.28.3. Reads only. Cost: a walk over the trailers and, without them, the headers.

use crate::ffi::base::{headers, nginx};
use nginx_sys::ngx_http_upstream_t;

/// The name of the status, in lower case as HTTP/2 has all names.
const GRPC_STATUS: &[u8] = b"grpc-status";

/// Whether the peer speaks gRPC, by the scheme of `grpc_pass`.
///
/// # Safety
/// `u` is live.
pub(crate) unsafe fn is_grpc(u: *const ngx_http_upstream_t) -> bool {
    // SAFETY: as the caller vouches; the scheme lives in the configuration.
    unsafe { nginx::bytes((*u).schema).starts_with(b"grpc") }
}

/// The call's status, if it has come.
///
/// # Safety
/// `u` is live and speaks gRPC, and the header of its response was parsed.
pub(crate) unsafe fn status(u: *const ngx_http_upstream_t) -> Option<u16> {
    // SAFETY: as the caller vouches: the lists are initialised, and nginx is not parsing now.
    unsafe {
        let headers = &raw const (*u).headers_in;
        [&raw const (*headers).trailers, &raw const (*headers).headers].into_iter().find_map(|list| {
            let found = headers::elements(list).find(|&header| nginx::bytes((*header).key) == GRPC_STATUS)?;
            std::str::from_utf8(nginx::bytes((*found).value)).ok()?.parse().ok()
        })
    }
}
