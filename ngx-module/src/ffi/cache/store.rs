//! The responses that this worker is storing in nginx's caches, and those that it is to store no
//! more because a purge came.
//!
//! The header filter notes each response that nginx is about to keep; a fence (see
//! `pincer_core::zone::Fences`) raised later has the worker look through them, one raised before is
//! seen by the filter. A response that a fence covers is served to its client as ever and not kept:
//! nginx's own
//! `cacheable` is cleared, as `proxy_no_cache` would. A response that nginx never sends (an error
//! that it intercepts, and keeps by its status alone) does not come here. Cost: one record in the
//! request's pool and one load for a response that is stored; nothing for all others. Bound: the
//! requests in flight.

use super::nodes::Cache;
use crate::ffi::base::filter::{HeaderFilter, Next};
use crate::ffi::base::statics::LoopStatic;
use crate::ffi::base::{bits, nginx, pool};
use crate::ffi::body::account;
use crate::ffi::zone::worker;
use nginx_sys::{ngx_http_cache_t, ngx_http_request_t, ngx_http_upstream_t};
use pincer_core::zone::{FenceKey, WorkerIdx, Zone};
use std::cell::Cell;
use std::ptr::{addr_eq, null_mut};
use std::sync::atomic::Ordering::Relaxed;

static NEXT: Next = Next::new();

/// The first of the responses that are being stored.
static FIRST: LoopStatic<Cell<*mut Storing>> = LoopStatic::new(Cell::new(null_mut()));

/// A response that is being stored; in the pool of its request, which has the other two as well.
struct Storing {
    previous: *mut Storing,
    next: *mut Storing,
    upstream: *mut ngx_http_upstream_t,
    cache: *mut ngx_http_cache_t,
}

/// Notes what is about to be kept.
pub(crate) struct Stored;

impl HeaderFilter for Stored {
    const PLACE: &'static str = "cache filter";

    fn next() -> &'static Next {
        &NEXT
    }

    unsafe fn see(r: *mut ngx_http_request_t) {
        // SAFETY: as the caller vouches.
        unsafe { note(r) };
    }
}

/// # Safety
/// `r` is live.
unsafe fn note(r: *mut ngx_http_request_t) {
    // SAFETY: as the caller vouches; an upstream and a cache record live in the request's pool.
    unsafe {
        let (u, c) = ((*r).upstream, (*r).cache);
        if u.is_null()
            || c.is_null()
            || bits::request::cached(r) != 0
            || bits::upstream::cacheable(u) == 0
            || (*c).file_cache.is_null()
        {
            return;
        }
        account::warn_of_a_key_without(r);
        let Some(zone) = worker::zone() else { return };
        let Some(cache) = cache_of(c) else { return };
        if (*c).vary.len > 0 {
            zone.header.fences.note_vary(cache.id());
        }
        if is_fenced(zone, u, c, cache) || !watch(r, u, c) {
            mark_uncacheable(zone, u, c);
        }
    }
}

/// # Safety
/// `c` is a request's cache record that has a cache.
unsafe fn cache_of(c: *const ngx_http_cache_t) -> Option<Cache> {
    // SAFETY: as the caller vouches; a cache has its zone, which is in force as long as the worker
    // runs.
    unsafe {
        let cache = (*c).file_cache;
        Cache::new(cache, nginx::bytes((*(*cache).shm_zone).shm.name))
    }
}

/// The key under which fences know an entry and all its variants.
pub(crate) fn fence_key(digest: &[u8; 16]) -> FenceKey {
    let (high, low) = digest.split_at(8);
    [high, low].map(|half| half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

/// Whether a purge has come since this response was asked for.
///
/// # Safety
/// `u` and `c` are a live request's.
unsafe fn is_fenced(zone: &Zone<'_>, u: *const ngx_http_upstream_t, c: *const ngx_http_cache_t, cache: Cache) -> bool {
    // SAFETY: as the caller vouches. `start_time` is that of the attempt which brought the
    // response, by nginx's cached monotonic clock.
    let (key, started_ms) = unsafe { (fence_key(&(*c).main), (*u).start_time as u64) };
    zone.header.fences.covers(cache.id(), key, started_ms)
}

/// Has nginx not keep the response.
///
/// # Safety
/// As above, and the response is not complete.
unsafe fn mark_uncacheable(zone: &Zone<'_>, u: *mut ngx_http_upstream_t, c: *mut ngx_http_cache_t) {
    // SAFETY: as the caller vouches. With `temp_file` set nginx removes what it has written
    // already.
    unsafe {
        bits::upstream::set_cacheable(u, 0);
        bits::cache::set_temp_file(c, 1);
    }
    zone.header.counters.purge_voided.fetch_add(1, Relaxed);
}

/// Remembers the response until its request ends; `false` when out of memory.
///
/// # Safety
/// `r` is live, the others are its own.
unsafe fn watch(r: *mut ngx_http_request_t, upstream: *mut ngx_http_upstream_t, cache: *mut ngx_http_cache_t) -> bool {
    let storing = Storing { previous: null_mut(), next: FIRST.get(), upstream, cache };
    // SAFETY: as the caller vouches.
    let Some(storing) = (unsafe { nginx::cleanup_add((*r).pool, storing) }) else { return false };
    // SAFETY: the first so far is live, as each leaves the list before its pool goes.
    if let Some(next) = unsafe { FIRST.replace(storing).as_mut() } {
        next.previous = storing;
    }
    true
}

impl pool::Record for Storing {
    const PLACE: &'static str = "cache cleanup";

    /// The request ends.
    unsafe fn end(record: *mut Self) {
        // SAFETY: as the caller vouches; the neighbours are live, as each leaves the list before
        // its pool goes.
        unsafe {
            let Storing { previous, next, .. } = record.read();
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => {
                    debug_assert!(addr_eq(FIRST.get(), record));
                    FIRST.set(next);
                }
            }
        }
    }
}

/// A worker that has just joined stores no response that an earlier fence could cover.
pub(super) fn nothing_to_fence(worker: WorkerIdx) {
    if let Some(zone) = worker::zone() {
        zone.header.fences.set_applied(worker, zone.header.fences.newest());
    }
}

/// Applies a new fence: marks the responses that are being stored and that it covers, and notes in
/// the zone that this worker has done so.
pub(crate) fn apply_fences() {
    let Some(zone) = worker::zone() else { return };
    let Some(worker) = worker::worker() else { return };
    let Some(number) = zone.header.fences.pending(worker) else { return };
    let mut storing = FIRST.get();
    // SAFETY: records leave the list before their pool goes, and nothing here ends a request.
    while let Some(one) = unsafe { storing.as_ref() } {
        let (u, c) = (one.upstream, one.cache);
        // SAFETY: as above; a record that nginx is done with says `updated`.
        unsafe {
            if bits::upstream::cacheable(u) != 0
                && bits::cache::updated(c) == 0
                && cache_of(c).is_some_and(|cache| is_fenced(zone, u, c, cache))
            {
                mark_uncacheable(zone, u, c);
            }
        }
        storing = one.next;
    }
    zone.header.fences.set_applied(worker, number);
}
