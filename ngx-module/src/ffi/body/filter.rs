//! Hashes request bodies while they arrive: a request-body filter that looks at every buffer once and changes none, but for what comes with the head, which it
//! asks for again with the rest ([`give_way`](super::give_way)).
//!
//! A digest counts only once the last buffer has passed, nginx has stored it, and it is all that the client said it would send: a body that was cut off,
//! that nginx threw away before it answered from an `error_page`, or whose temporary file could not be written, has none. Neither has one that was read
//! where `pincer_body_hash` is off or different, nor one that a module put into a subrequest. Who has no digest has a token of its own, so that a cache
//! key is never shared by accident. The body is read early (in the precontent phase, after access control) only in locations whose handler would
//! ask for the digest before the end: with unbuffered proxying, `grpc_pass`, `try_files`, and handlers that we know nothing of.
//! Cost: the digest, and one record in the request's pool. Bound: two records and [`BodyDigest`]'s buffers for each request.

use super::conf::{BodyModule, Location, is_handled};
use super::give_way::GivingWay;
use super::head::{declared_bytes, has_body, is_unread, kind};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::guard::guard;
use crate::ffi::base::statics::LoopStatic;
use crate::ffi::base::{bits, clock, log, nginx};
use crate::ffi::zone::conf::of_request as zone_of;
use nginx_sys::{
    NGX_HTTP_SPECIAL_RESPONSE, ngx_chain_t, ngx_conf_t, ngx_http_phases_NGX_HTTP_LOG_PHASE,
    ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, ngx_http_request_body_filter_pt, ngx_http_request_t, ngx_int_t,
};
use pincer_core::digest::{BodyDigest, Digest, Params, cache_key};
use std::cell::Cell;
use std::ffi::c_void;

/// The filter that stands after ours. Set by the master before it forks.
static NEXT: LoopStatic<Cell<ngx_http_request_body_filter_pt>> = LoopStatic::new(Cell::new(None));

/// Bytes of what stands for the digest of a request that has none.
const TOKEN_BYTES: usize = 32;

/// How far a body has been read.
enum Stage {
    /// Nothing has come.
    Before,
    /// Parts have come.
    Reading(Streaming),
    /// All has come, or there is to be no digest, or a panic has left it in between.
    Over,
}

/// A digest under way, in the request's pool: the memory is the pool's, the digest's own buffers go when this goes.
struct Streaming(*mut BodyDigest);

/// What is known of a request's body. One for each main request, in its pool, found again through the pool's cleanups.
struct Record {
    request: *mut ngx_http_request_t,
    /// How it is hashed: by the location in which it was read; `None` = not at all, or not yet.
    params: Option<&'static Params>,
    stage: Stage,
    giving_way: GivingWay,
    digest: Option<Digest>,
    token: Option<[u8; TOKEN_BYTES]>,
    /// Somebody has asked for what stands for the body, in a key or elsewhere.
    is_used: bool,
}

/// What stands for the request's body in a cache key.
pub(crate) enum Identity {
    /// The body was hashed as a whole.
    Digest(Digest),
    /// It was not: random, and the same whenever this request is asked.
    Token([u8; TOKEN_BYTES]),
}

/// Puts the filter in front of all others, and the handlers into their phases.
pub(crate) fn install(cf: *mut ngx_conf_t) -> Result<(), String> {
    // SAFETY: configuration time, one thread.
    unsafe {
        NEXT.set(nginx_sys::ngx_http_top_request_body_filter);
        nginx_sys::ngx_http_top_request_body_filter = Some(filter);
    }
    nginx::add_phase_handler(cf, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, read_early)?;
    nginx::add_phase_handler(cf, ngx_http_phases_NGX_HTTP_LOG_PHASE, count)
}

/// The main request's record, if it has one.
///
/// # Safety
/// `main` is a live main request; the pointer is good as long as it, and only one reference is made of it at a time.
unsafe fn find(main: *const ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches; the pool's cleanups are a list, ours carry a `Record`.
    unsafe {
        nginx::cleanup_find((*main).pool, on_pool_destroyed, |record: *const Record| {
            std::ptr::eq((*record).request, main)
        })
    }
}

/// Makes the main request's record; `None` when memory is out.
///
/// # Safety
/// `main` is a live main request that has none.
unsafe fn create(main: *mut ngx_http_request_t) -> Option<*mut Record> {
    let record = Record {
        request: main,
        params: None,
        stage: Stage::Before,
        giving_way: GivingWay::default(),
        digest: None,
        token: None,
        is_used: false,
    };
    // SAFETY: as the caller vouches.
    unsafe { nginx::cleanup_add((*main).pool, on_pool_destroyed, record) }
}

/// The main request's record, made if it has none; `None` when memory is out.
///
/// # Safety
/// As [`find`].
unsafe fn find_or_create(main: *mut ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches.
    unsafe { find(main).or_else(|| create(main)) }
}

unsafe extern "C" fn on_pool_destroyed(data: *mut c_void) {
    guard("body cleanup", (), || {
        // SAFETY: nginx calls a cleanup once, with the record stored in `create`.
        unsafe {
            let record = data.cast::<Record>();
            (*record).giving_way.end();
            std::ptr::drop_in_place(record);
        }
    });
}

impl Streaming {
    /// Begins the digest of `r`'s body; `None` when memory is out.
    ///
    /// # Safety
    /// `r` is live and outlives this.
    unsafe fn begin(r: *mut ngx_http_request_t, params: &Params) -> Option<Self> {
        // SAFETY: as the caller vouches; the pool answers null or memory aligned as asked.
        unsafe {
            let memory = nginx_sys::ngx_pmemalign((*r).pool, size_of::<BodyDigest>(), align_of::<BodyDigest>());
            let digest = std::ptr::NonNull::new(memory.cast::<BodyDigest>())?.as_ptr();
            let [content_type, content_encoding] = kind(r);
            digest.write(BodyDigest::new(params, &content_type, &content_encoding));
            Some(Self(digest))
        }
    }

    fn digest(&mut self) -> &mut BodyDigest {
        // SAFETY: written in `begin`, and this is its only owner; the pool outlives it.
        unsafe { &mut *self.0 }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { std::ptr::drop_in_place(self.0) };
    }
}

/// The digest of a body that is `bytes` and nothing else.
///
/// # Safety
/// `r` is live.
unsafe fn whole(r: *const ngx_http_request_t, params: &Params, bytes: &[u8]) -> Digest {
    // SAFETY: as the caller vouches.
    let [content_type, content_encoding] = unsafe { kind(r) };
    BodyDigest::of_whole(params, &content_type, &content_encoding, bytes)
}

/// What [`observe`] made of a part of a body.
enum Observed {
    /// It is nginx's, and more may come.
    Part,
    /// It is nginx's, and was the last of this request's body, whose digest counts once nginx has stored it.
    End { record: *mut Record, digest: Digest, bytes: u64 },
    /// It comes again, together with more.
    PutBack,
}

/// Sees every part of every body before it is stored.
unsafe extern "C" fn filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request and a chain of live buffers.
    let observed = guard("body filter", Observed::Part, || unsafe { observe(r, chain) });
    if matches!(observed, Observed::PutBack) {
        return nginx::OK;
    }
    let answer = match NEXT.get() {
        // SAFETY: the filter that nginx had installed before ours.
        Some(next) => unsafe { next(r, chain) },
        None => nginx::OK,
    };
    if let Observed::End { record, digest, bytes } = observed
        && answer == nginx::OK
    {
        // SAFETY: the record lives as long as the request, which a filter does not end.
        guard("body filter's end", (), || unsafe { settle(record, digest, bytes) });
    }
    answer
}

/// Whether nginx shows bodies to [`filter`] first: what it puts back, no other module's filter has seen.
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
    // SAFETY: as the caller vouches.
    unsafe {
        let record = match find(r) {
            Some(record) => record,
            None => {
                // Nothing is kept of requests whose bodies nobody wants hashed.
                let wanted = BodyModule::location(r).is_some_and(|conf| conf.hashing().is_some());
                match wanted.then(|| create(r)).flatten() {
                    Some(record) => record,
                    None => return Observed::Part,
                }
            }
        };
        let mut streaming = match std::mem::replace(&mut (*record).stage, Stage::Over) {
            Stage::Before => {
                (*record).params = BodyModule::location(r).and_then(Location::hashing);
                None
            }
            Stage::Reading(streaming) => Some(streaming),
            Stage::Over => return Observed::Part,
        };
        let Some(params) = (*record).params else { return Observed::Part };
        if streaming.is_none() && is_first() && (*record).giving_way.put_back(r, chain) {
            (*record).stage = Stage::Before;
            return Observed::PutBack;
        }
        let mut hashed = 0;
        let mut link = chain;
        while let Some(part) = link.as_ref() {
            let bytes = nginx::buffered(part.buf).unwrap_or_default();
            if bits::buf::last_buf(part.buf) != 0 {
                (*record).giving_way.end();
                let (digest, bytes) = match &mut streaming {
                    Some(streaming) => {
                        let digest = streaming.digest();
                        digest.update(params, bytes);
                        (digest.finish(params), digest.bytes())
                    }
                    None => (whole(r, params, bytes), bytes.len() as u64),
                };
                return Observed::End { record, digest, bytes };
            }
            if !bytes.is_empty() {
                if streaming.is_none() {
                    streaming = Streaming::begin(r, params);
                }
                let Some(streaming) = &mut streaming else { return Observed::Part };
                streaming.digest().update(params, bytes);
            }
            hashed += bytes.len();
            link = part.next;
        }
        (*record).giving_way.hashed(r, hashed);
        (*record).stage = streaming.map_or(Stage::Before, Stage::Reading);
        Observed::Part
    }
}

/// How the reading of the body gives way, for one of a connection's requests.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn giving_way(r: *const ngx_http_request_t) -> Option<*mut GivingWay> {
    // SAFETY: as the caller vouches; a record stays where it is as long as its request.
    unsafe { find((*r).main).map(|record| &raw mut (*record).giving_way) }
}

/// The body is complete, and nginx has stored it: its digest counts if it is of all that the client said it would send.
///
/// # Safety
/// `record` is live.
unsafe fn settle(record: *mut Record, digest: Digest, bytes: u64) {
    // SAFETY: as the caller vouches.
    unsafe {
        let r = (*record).request;
        let is_chunked = bits::headers_in::chunked(&raw const (*r).headers_in) != 0;
        if !is_chunked && declared_bytes(r).is_some_and(|all| all != bytes) {
            // nginx had thrown some of it away before anyone asked for it: a body over `client_max_body_size`, with `error_page 413`.
            return;
        }
        let read = (*r).request_body;
        if !is_chunked && !read.is_null() && (*read).received > 0 && u64::try_from((*read).received) != Ok(bytes) {
            // A body without a length over HTTP/2, the beginning of which was read when nobody wanted a digest.
            return;
        }
        (*record).digest = Some(digest);
        let params = (*record).params;
        if let Some((params, zone)) = params.zip(zone_of(r)) {
            zone.header.bodies.hashed(params.algorithm, digest.hashed(), bytes);
        }
    }
}

/// What stands for the body of `r`, a request or subrequest, in the location that it is in.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn identity(r: *mut ngx_http_request_t) -> Option<Identity> {
    // SAFETY: as the caller vouches.
    unsafe { used(r).map(|record| identity_in(r, record)) }
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
        if let Some(here) = BodyModule::location(r).and_then(Location::hashing) {
            if !(has_body(main) || own && holds_bytes(r)) {
                return Identity::Digest(whole(main, here, &[]));
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
    unsafe { used(r).map(|record| own_token(r, record)) }
}

/// The record of the main request of `r`, of which it is noted that somebody asks; `None` when memory is out.
///
/// # Safety
/// `r` is live.
unsafe fn used(r: *mut ngx_http_request_t) -> Option<*mut Record> {
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
    // A subrequest is another request. They live as long as the main one, so that their addresses tell them apart.
    Identity::Token(cache_key(&[&token, &r.addr().to_ne_bytes()]))
}

/// Whether a body was put into `r`, a subrequest whose body is not the main request's. `auth_request` puts one in that is empty.
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

/// Before the content phase: reads the body where the order of things needs it.
unsafe extern "C" fn read_early(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard("reading the body early", nginx::DECLINED, || {
        // SAFETY: nginx passes a live request, in a phase handler, which may read the body and suspend the phases.
        unsafe {
            if r != (*r).main || !(*r).request_body.is_null() || bits::request::discard_body(r) != 0 || !is_unread(r) {
                return nginx::DECLINED;
            }
            let wanted = BodyModule::location(r).is_some_and(|conf| conf.hashing().is_some() && conf.reads_early);
            if !wanted || !is_handled(r) {
                return nginx::DECLINED;
            }
            let answer = nginx_sys::ngx_http_read_client_request_body(r, Some(go_on));
            if answer >= NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t {
                return answer;
            }
            // Undoes what the read counted; the phases go on in `go_on`.
            nginx_sys::ngx_http_finalize_request(r, nginx::DONE);
            nginx::DONE
        }
    })
}

/// The body is there: the phases go on, and meet a request that has read its body.
unsafe extern "C" fn go_on(r: *mut ngx_http_request_t) {
    // SAFETY: nginx passes the live request whose body was asked for. No Rust value is alive here, so nothing unwinds through nginx.
    unsafe {
        bits::request::set_preserve_body(r, 1);
        (*r).write_event_handler = Some(nginx_sys::ngx_http_core_run_phases);
        nginx_sys::ngx_http_core_run_phases(r);
    }
}

/// Warns, once in a worker, where an answer is about to be kept under a key that the request's body has no part in, though the location has it hashed.
///
/// # Safety
/// `r` is live, and the cache's key made.
pub(crate) unsafe fn warn_of_a_key_without(r: *const ngx_http_request_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        let Some(location) = BodyModule::location(r).filter(|conf| conf.hashing().is_some()) else { return };
        let is_used = find((*r).main).is_some_and(|record| (*record).is_used);
        if is_used || r != (*r).main || !has_body(r) || location.has_warned.replace(true) {
            return;
        }
        let name = String::from_utf8_lossy(nginx::bytes(nginx::core_location(r).name));
        let message = format!(
            "\"pincer_body_hash\" is on in location \"{name}\", and its cache keeps an answer under a key that knows nothing of the body: \
             different bodies get one answer, \"proxy_cache_key $pincer_cache_key\" is needed"
        );
        log::write((*(*r).connection).log, log::NGX_LOG_WARN, &message);
    }
}

/// The request's end: counts bodies that had no digest, and what the cache made of it.
unsafe extern "C" fn count(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard("counting a request", nginx::OK, || {
        // SAFETY: nginx passes a live request.
        unsafe {
            let Some(zone) = zone_of(r) else { return nginx::OK };
            if BodyModule::location(r).is_none_or(|conf| conf.hashing().is_none()) {
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
    })
}
