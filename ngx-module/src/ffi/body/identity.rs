//! What stands for a request's body in a cache key: its digest, or a token that no other request
//! has.

use super::conf::{BodyModule, Location};
use super::head::{has_body, kind};
use super::record::{Record, TOKEN_BYTES, find, find_or_create};
use crate::ffi::base::clock;
use nginx_sys::ngx_http_request_t;
use ngx::http::HttpModuleLocationConf as _;
use pincer_core::digest::{BodyDigest, Digest, Params, cache_key};

/// What stands for the request's body in a cache key.
pub(crate) enum Identity {
    /// The body was hashed as a whole.
    Digest(Digest),
    /// It was not: random, and the same whenever this request is asked.
    Token([u8; TOKEN_BYTES]),
}

/// The digest of a body that is `bytes` and nothing else.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn digest_of_complete_body(r: *const ngx_http_request_t, params: &Params, bytes: &[u8]) -> Digest {
    // SAFETY: as the caller vouches.
    let [content_type, content_encoding] = unsafe { kind(r) };
    BodyDigest::of_complete(params, &content_type, &content_encoding, bytes)
}

/// What stands for the body of `r`, a request or subrequest, in the location that it is in.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn identity(r: *mut ngx_http_request_t) -> Option<Identity> {
    // SAFETY: as the caller vouches.
    unsafe { record_marked_used(r).map(|record| identity_in(r, record)) }
}

/// The digest of the body that the client sent, if there is one: read only, nothing is begun for
/// it.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn digest(r: *const ngx_http_request_t) -> Option<Digest> {
    // SAFETY: as the caller vouches; a subrequest's main request lives as long as it.
    unsafe { find((*r).main).and_then(|record| (*record).digest) }
}

/// Whether the body of `r` has no digest in the location that it is in.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn is_uncacheable(r: *mut ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches; a subrequest's main request lives as long as it.
    let identity = unsafe { find_or_create((*r).main).map(|record| identity_in(r, record)) };
    !matches!(identity, Some(Identity::Digest(_)))
}

/// # Safety
/// `r` and its main request's record are live.
unsafe fn identity_in(r: *mut ngx_http_request_t, record: *mut Record) -> Identity {
    // SAFETY: as the caller vouches.
    unsafe {
        let main = (*r).main;
        let own = !std::ptr::eq((*r).request_body, (*main).request_body);
        if let Some(here) = BodyModule::location_conf(&*r).and_then(Location::hashing) {
            if !(has_body(main) || own && holds_bytes(r)) {
                return Identity::Digest(digest_of_complete_body(main, here, &[]));
            }
            let same = (*record).params.is_some_and(|read| std::ptr::eq(here, read) || here == read);
            if let Some(digest) = (*record).digest.filter(|_| same && !own) {
                return Identity::Digest(digest);
            }
        }
        own_token(r, record)
    }
}

/// What stands for a request that is to share its key with no other, whatever its body.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn token(r: *mut ngx_http_request_t) -> Option<Identity> {
    // SAFETY: as the caller vouches.
    unsafe { record_marked_used(r).map(|record| own_token(r, record)) }
}

/// The record of the main request of `r`, of which it is noted that somebody asks; `None` when
/// out of memory.
///
/// # Safety
/// `r` is live.
unsafe fn record_marked_used(r: *mut ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches; a subrequest's main request lives as long as it.
    unsafe {
        let record = find_or_create((*r).main)?;
        (*record).is_used = true;
        Some(record)
    }
}

/// # Safety
/// `r` and its main request's record are live.
unsafe fn own_token(r: *mut ngx_http_request_t, record: *mut Record) -> Identity {
    // SAFETY: as the caller vouches.
    let token = unsafe { *(*record).token.get_or_insert_with(new_token) };
    // SAFETY: as above.
    if std::ptr::eq(r, unsafe { (*r).main }) {
        return Identity::Token(token);
    }
    // A subrequest is another request. They live as long as the main one, so that their addresses
    // tell them apart.
    Identity::Token(cache_key(&[&token, &r.addr().to_ne_bytes()]))
}

/// Whether a body was put into `r`, a subrequest whose body is not the main request's.
/// `auth_request` puts one in that is empty.
///
/// # Safety
/// `r` is live.
unsafe fn holds_bytes(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches; a request's body lives as long as it.
    unsafe { (*r).request_body.as_ref().is_some_and(|body| !body.bufs.is_null() || !body.temp_file.is_null()) }
}

fn new_token() -> [u8; TOKEN_BYTES] {
    let mut token = [0; TOKEN_BYTES];
    for word in token.chunks_exact_mut(8) {
        word.copy_from_slice(&clock::entropy().to_ne_bytes());
    }
    token
}
