//! Hashes request bodies while they arrive: a request-body filter that looks at every buffer once
//! and changes none, but for what comes with the head, which it asks for again with the rest
//! ([`read_throttle`](super::read_throttle)).
//!
//! A digest counts only once the last buffer has passed, nginx has stored it, and it is all that
//! the client said it would send: a body that was cut off, that nginx threw away before it answered
//! from an `error_page`, or whose temporary file could not be written, has none. Neither has one
//! that was read where `pincer_body_hash` is off or different, nor one that a module put into a
//! subrequest. Who has no digest has a token of its own, so that a cache key is never shared by
//! accident. The body is read early (in the precontent phase, after access control) only in
//! locations whose handler would ask for the digest before the end: with unbuffered proxying,
//! `grpc_pass`, `try_files`, and handlers that we know nothing of.
//! Cost: the digest, and one record in the request's pool. Bound: two records and
//! [`BodyDigest`](pincer_core::digest::BodyDigest)'s buffers for each request.

use super::account::Count;
use super::conf::{BodyModule, Location};
use super::early::ReadEarly;
use super::head::declared_bytes;
use super::identity::digest_of_complete_body;
use super::reading::recv;
use super::record::{Record, Stage, Streaming, create, find};
use crate::conf::ConfError;
use crate::ffi::base::guard::guard;
use crate::ffi::base::statics::LoopStatic;
use crate::ffi::base::{bits, nginx};
use crate::ffi::zone::conf::of_request as zone_of;
use nginx_sys::{
    ngx_chain_t, ngx_conf_t, ngx_http_phases_NGX_HTTP_LOG_PHASE, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE,
    ngx_http_request_body_filter_pt, ngx_http_request_t, ngx_int_t,
};
use ngx::http::HttpModuleLocationConf as _;
use pincer_core::digest::{Digest, Params};
use std::cell::Cell;

/// The filter that stands after ours. Set by the master before it forks.
static NEXT: LoopStatic<Cell<ngx_http_request_body_filter_pt>> = LoopStatic::new(Cell::new(None));

/// Whose handlers and filter these are.
const DIRECTIVE: &str = "pincer_body_hash";

/// Puts the filter in front of all others, and the handlers into their phases.
pub(crate) fn install(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
    // SAFETY: configuration time, one thread.
    unsafe {
        NEXT.set(nginx_sys::ngx_http_top_request_body_filter);
        nginx_sys::ngx_http_top_request_body_filter = Some(filter);
    }
    nginx::add_phase_handler::<ReadEarly>(cf, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, DIRECTIVE)?;
    nginx::add_phase_handler::<Count>(cf, ngx_http_phases_NGX_HTTP_LOG_PHASE, DIRECTIVE)
}

/// What [`observe`] made of a part of a body.
enum Observed {
    /// It is nginx's, and more may come.
    Part,
    /// It is nginx's, and was the last of this request's body, whose digest counts once nginx has
    /// stored it.
    End { record: *mut Record, digest: Digest, bytes: u64 },
    /// It was pushed back, and nginx reads it again together with the rest.
    PutBack,
}

/// Sees every part of every body before it is stored.
unsafe extern "C" fn filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request and a chain of live buffers.
    let observed = guard("body filter", Observed::Part, || unsafe { observe(r, chain) });
    if matches!(observed, Observed::PutBack) {
        return nginx::OK;
    }
    let result = match NEXT.get() {
        // SAFETY: the filter that nginx had installed before ours.
        Some(next) => unsafe { next(r, chain) },
        None => nginx::OK,
    };
    if let Observed::End { record, digest, bytes } = observed
        && result == nginx::OK
    {
        // SAFETY: the record lives as long as the request, which a filter does not end.
        guard("body filter's end", (), || unsafe { settle(record, digest, bytes) });
    }
    result
}

/// Whether nginx shows bodies to [`filter`] first: what it puts back, no other module's filter has
/// seen.
fn is_first() -> bool {
    type Filter = unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_chain_t) -> ngx_int_t;
    // SAFETY: set while nginx reads its configuration, read by the worker's one thread.
    let first = unsafe { nginx_sys::ngx_http_top_request_body_filter };
    first.is_some_and(|first| std::ptr::fn_addr_eq(first, filter as Filter))
}

/// Takes the chain into the digest.
///
/// # Safety
/// As [`filter`].
unsafe fn observe(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> Observed {
    // SAFETY: as the caller vouches; nobody else has a reference into the record while nginx is in
    // this filter.
    let Some(record) = (unsafe { record_to_hash(r).map(|record| &mut *record) }) else { return Observed::Part };
    let streaming = match std::mem::replace(&mut record.stage, Stage::Over) {
        Stage::Before => {
            // SAFETY: as the caller vouches.
            record.params = unsafe { BodyModule::location_conf(&*r) }.and_then(Location::hashing);
            None
        }
        Stage::Reading(streaming) => Some(streaming),
        Stage::Over => return Observed::Part,
    };
    let Some(params) = record.params else { return Observed::Part };
    // SAFETY: as the caller vouches, and this filter is the first to see the chain.
    if streaming.is_none() && is_first() && unsafe { record.throttle.put_back(r, chain, recv) } {
        record.stage = Stage::Before;
        return Observed::PutBack;
    }
    // SAFETY: as the caller vouches.
    unsafe { hash(r, record, chain, params, streaming) }
}

/// The record of `r`, made if its location has bodies hashed: nothing is kept of other requests.
/// `None` when out of memory, too.
///
/// # Safety
/// As [`find`].
unsafe fn record_to_hash(r: *mut ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches.
    unsafe {
        find(r).or_else(|| {
            let is_hashed = BodyModule::location_conf(&*r).is_some_and(|conf| conf.hashing().is_some());
            is_hashed.then(|| create(r)).flatten()
        })
    }
}

/// Hashes the buffers of `chain`, which go on what was hashed before.
///
/// # Safety
/// As [`filter`], and `record` is that of `r`.
unsafe fn hash(
    r: *mut ngx_http_request_t,
    record: &mut Record,
    chain: *const ngx_chain_t,
    params: &'static Params,
    mut streaming: Option<Streaming>,
) -> Observed {
    let (mut hashed, mut link) = (0, chain);
    // SAFETY: as the caller vouches: a chain ends with null.
    while let Some(part) = unsafe { link.as_ref() } {
        // SAFETY: a link has its buffer, which nobody changes while nginx shows it.
        let bytes = unsafe { nginx::buffered(part.buf) }.unwrap_or_default();
        // SAFETY: as above.
        if unsafe { bits::buf::last_buf(part.buf) } != 0 {
            // SAFETY: the request's connection is live.
            unsafe { record.throttle.end() };
            // SAFETY: as the caller vouches.
            let (digest, bytes) = unsafe { finish(r, params, streaming, bytes) };
            return Observed::End { record, digest, bytes };
        }
        if !bytes.is_empty() {
            if streaming.is_none() {
                // SAFETY: the record, which keeps the digest, does not outlive its request.
                streaming = unsafe { Streaming::begin(r, params) };
            }
            let Some(streaming) = &mut streaming else { return Observed::Part };
            streaming.digest().update(params, bytes);
        }
        hashed += bytes.len();
        link = part.next;
    }
    // SAFETY: as the caller vouches: the body of `r` is being read.
    unsafe { record.throttle.hashed(r, hashed, recv) };
    record.stage = streaming.map_or(Stage::Before, Stage::Reading);
    Observed::Part
}

/// The digest of a body that ends with `bytes`, and the length of that body.
///
/// # Safety
/// `r` is live.
unsafe fn finish(
    r: *mut ngx_http_request_t,
    params: &Params,
    streaming: Option<Streaming>,
    bytes: &[u8],
) -> (Digest, u64) {
    match streaming {
        Some(mut streaming) => {
            let digest = streaming.digest();
            digest.update(params, bytes);
            (digest.finish(params), digest.bytes())
        }
        // SAFETY: as the caller vouches.
        None => (unsafe { digest_of_complete_body(r, params, bytes) }, bytes.len() as u64),
    }
}

/// The body is complete, and nginx has stored it: its digest counts if it is of all that the client
/// said it would send.
///
/// # Safety
/// `record` is live.
unsafe fn settle(record: *mut Record, digest: Digest, bytes: u64) {
    // SAFETY: as the caller vouches.
    unsafe {
        let r = (*record).request;
        let is_chunked = bits::headers_in::chunked(&raw const (*r).headers_in) != 0;
        if !is_chunked && declared_bytes(r).is_some_and(|all| all != bytes) {
            // nginx had thrown some of it away before anyone asked for it: a body over
            // `client_max_body_size`, with `error_page 413`.
            return;
        }
        let read = (*r).request_body;
        if !is_chunked && !read.is_null() && (*read).received > 0 && u64::try_from((*read).received) != Ok(bytes) {
            // A body without a length over HTTP/2, the beginning of which was read when nobody
            // wanted a digest.
            return;
        }
        (*record).digest = Some(digest);
        let params = (*record).params;
        if let Some((params, zone)) = params.zip(zone_of(r)) {
            zone.header.bodies.hashed(params.algorithm, digest.hashed(), bytes);
        }
    }
}
