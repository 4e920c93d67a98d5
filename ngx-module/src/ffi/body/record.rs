//! What is known of a request's body: one record for each main request, in its pool, found again
//! through the pool's cleanups.

use super::head::kind;
use super::read_throttle::ReadThrottle;
use crate::ffi::base::{nginx, pool};
use nginx_sys::ngx_http_request_t;
use pincer_core::digest::{BodyDigest, Digest, Params};

/// Bytes of what stands for the digest of a request that has none.
pub(super) const TOKEN_BYTES: usize = 32;

/// A digest under way, in the request's pool: the memory is the pool's, the digest's own buffers go
/// when this goes.
pub(super) struct Streaming(*mut BodyDigest);

/// How far a body has been read.
pub(super) enum Stage {
    /// Nothing has come.
    Before,
    /// Parts have come.
    Reading(Streaming),
    /// All has come, or there is to be no digest, or a panic has left it in between.
    Over,
}

/// What is known of a request's body. One for each main request, in its pool, found again through
/// the pool's cleanups.
pub(super) struct Record {
    pub(super) request: *mut ngx_http_request_t,
    /// How it is hashed: by the location in which it was read; `None` = not at all, or not yet.
    pub(super) params: Option<&'static Params>,
    pub(super) stage: Stage,
    pub(super) throttle: ReadThrottle,
    pub(super) digest: Option<Digest>,
    pub(super) token: Option<[u8; TOKEN_BYTES]>,
    /// Somebody has asked for what stands for the body, in a key or elsewhere.
    pub(super) is_used: bool,
}

/// The main request's record, if it has one.
///
/// # Safety
/// `main` is a live main request; the pointer is good as long as it, and only one reference is made
/// of it at a time.
pub(super) unsafe fn find(main: *const ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches; the pool's cleanups are a list, ours carry a `Record`.
    unsafe { nginx::cleanup_find((*main).pool, |record: *const Record| std::ptr::eq((*record).request, main)) }
}

/// Makes the main request's record; `None` when out of memory.
///
/// # Safety
/// `main` is a live main request that has none.
pub(super) unsafe fn create(main: *mut ngx_http_request_t) -> Option<*mut Record> {
    let record = Record {
        request: main,
        params: None,
        stage: Stage::Before,
        throttle: ReadThrottle::default(),
        digest: None,
        token: None,
        is_used: false,
    };
    // SAFETY: as the caller vouches.
    unsafe { nginx::cleanup_add((*main).pool, record) }
}

/// The main request's record, made if it has none; `None` when out of memory.
///
/// # Safety
/// As [`find`].
pub(super) unsafe fn find_or_create(main: *mut ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches.
    unsafe { find(main).or_else(|| create(main)) }
}

impl pool::Record for Record {
    const PLACE: &'static str = "body cleanup";

    unsafe fn end(record: *mut Self) {
        // SAFETY: as the caller vouches.
        unsafe {
            (*record).throttle.end();
            std::ptr::drop_in_place(record);
        }
    }
}

impl Streaming {
    /// Begins the digest of `r`'s body; `None` when out of memory.
    ///
    /// # Safety
    /// `r` is live and outlives this.
    pub(super) unsafe fn begin(r: *mut ngx_http_request_t, params: &Params) -> Option<Self> {
        // SAFETY: as the caller vouches; the pool answers null or memory aligned as asked.
        unsafe {
            let memory = nginx_sys::ngx_pmemalign((*r).pool, size_of::<BodyDigest>(), align_of::<BodyDigest>());
            let digest = std::ptr::NonNull::new(memory.cast::<BodyDigest>())?.as_ptr();
            let [content_type, content_encoding] = kind(r);
            digest.write(BodyDigest::new(params, &content_type, &content_encoding));
            Some(Self(digest))
        }
    }

    pub(super) fn digest(&mut self) -> &mut BodyDigest {
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

/// The throttle of the reading of a body, for one of a connection's requests.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn throttle(r: *const ngx_http_request_t) -> Option<*mut ReadThrottle> {
    // SAFETY: as the caller vouches; a record stays where it is as long as its request.
    unsafe { find((*r).main).map(|record| &raw mut (*record).throttle) }
}
