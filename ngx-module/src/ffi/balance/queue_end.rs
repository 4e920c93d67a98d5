//! How a wait ends without a peer: there is no place, it took too long, a better request came, or
//! no peer takes requests any more.
//!
//! A request of a class is answered 503 with `Retry-After`; one without a class 502 or 504, as
//! nginx does, and 503 where no peer takes requests. A retry that finds no peer gives its client
//! the status that the last peer answered. All of it from the event loop, on the placeholder.

use super::kick::kick;
use super::parking::{prepare_event, present, unlink};
use super::request::{Parking, RequestState, Stage};
use super::terms::{Event, class_of, count};
use super::upstream::busy;
use super::{placeholder, unavailable};
use crate::ffi::base::{clock, event, nginx};
use nginx_sys::{ngx_event_t, ngx_int_t, ngx_peer_connection_t};
use pincer_core::zone::{QueueClass, Refused};

/// There is no peer for the request: NGX_BUSY; for a retry whose last peer answered NGX_AGAIN, and
/// that status from the event loop.
///
/// # Safety
/// As [`super::queue::park`].
pub(crate) unsafe fn give_back(pc: *mut ngx_peer_connection_t, state: *mut RequestState) -> ngx_int_t {
    // SAFETY: as the caller vouches; so below.
    unsafe {
        if unavailable::own_status((*state).request).is_some()
            && let Some(parking) = present(pc, state)
        {
            return tell_later(state, parking);
        }
        busy(&mut *pc, (*state).conf)
    }
}

/// The request hears from the event loop that there is no place, or no peer, for it.
///
/// # Safety
/// `state` is live, on its placeholder.
unsafe fn tell_later(state: *mut RequestState, parking: *mut Parking) -> ngx_int_t {
    // SAFETY: as the caller vouches; events live in the record.
    unsafe {
        (*state).stage = Stage::TurnedAway;
        prepare_event(&raw mut (*parking).settle_event, state, event::handler::<TurnedAway>);
        nginx::post(&raw mut (*parking).settle_event);
    }
    nginx::AGAIN
}

/// There is no place for the request: NGX_BUSY; for one of a class NGX_AGAIN, and 503 from the
/// event loop.
///
/// # Safety
/// As [`super::queue::park`].
pub(super) unsafe fn turn_away(
    pc: *mut ngx_peer_connection_t,
    state: *mut RequestState,
    refused: Refused,
) -> ngx_int_t {
    // SAFETY: as the caller vouches; so below.
    let this = unsafe { &mut *state };
    let (conf, zone, class) = (this.conf, this.zone, class_of(this));
    if let (Some(index), true) = (conf.index.get(), refused != Refused::Unknown) {
        count(zone, index, this.worker, class, &Event::Refused);
    }
    // SAFETY: a request that asks for a peer has its upstream; events live in the record.
    unsafe {
        let u = (*this.request).upstream;
        if class != QueueClass::NONE
            && !unavailable::has_stale(u, nginx_sys::NGX_HTTP_UPSTREAM_FT_NOLIVE)
            && let Some(parking) = present(pc, state)
        {
            return tell_later(state, parking);
        }
        busy(&mut *pc, conf)
    }
}

/// The request is gone before it was told that there is no place for it.
///
/// # Safety
/// `state` is live and turned away.
pub(crate) unsafe fn forget(state: *mut RequestState) {
    // SAFETY: one that is turned away has its record.
    unsafe {
        nginx::cancel(&raw mut (*(*state).parking).settle_event);
        (*state).stage = Stage::Idle;
    }
}

/// The request is evicted from the queue for a better one.
///
/// # Safety
/// `state` is live and parked, called from the event loop. It may be gone afterwards.
pub(super) unsafe fn send_away(state: *mut RequestState) {
    // SAFETY: as the caller vouches; a parked request has its upstream.
    unsafe {
        unlink(state, |_| Event::Evicted);
        let u = (*(*state).request).upstream;
        if !refuse_by_class(state, nginx_sys::NGX_HTTP_UPSTREAM_FT_ERROR, "evicted from queue") {
            (*u).peer.tries = 0;
            placeholder::fail(u);
        }
    }
}

/// Answers 503 if the request, which no longer waits, has a class; `false`, and nothing done, if
/// nginx is to answer: it has none, or an expired response in the cache stands in for a failure of
/// kind `flag`.
///
/// # Safety
/// `state` is live and was parked or turned away, called from the event loop. After `true` it may
/// be gone.
unsafe fn refuse_by_class(state: *mut RequestState, flag: u32, reason: &str) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        let r = (*state).request;
        if class_of(&*state) == QueueClass::NONE || unavailable::has_stale((*r).upstream, flag) {
            return false;
        }
        let index = (*state).conf.index.get();
        let retry_after_s = index.map_or(1, |index| (*state).zone.queue_retry_after_s(index, clock::now()));
        unavailable::respond(r, retry_after_s, reason);
        true
    }
}

/// Gives the client what the last peer of a retry answered; `false`, and nothing done, if that is
/// nothing.
///
/// # Safety
/// As [`refuse_by_class`].
unsafe fn respond_own(state: *mut RequestState) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        let r = (*state).request;
        let Some(status) = unavailable::own_status(r) else { return false };
        unavailable::respond_own(r, status);
        true
    }
}

/// No peer takes requests any more, or none is left for this one: it is answered at once.
///
/// # Safety
/// `state` is live and parked. It may be gone afterwards.
pub(super) unsafe fn refuse(state: *mut RequestState) {
    // SAFETY: as the caller vouches.
    unsafe {
        let r = (*state).request;
        let u = (*r).upstream;
        unlink(state, |_| Event::Left);
        if respond_own(state) {
            return;
        }
        if unavailable::has_stale(u, nginx_sys::NGX_HTTP_UPSTREAM_FT_ERROR) {
            (*u).peer.tries = 0;
            return placeholder::fail(u);
        }
        let index = (*state).conf.index.get();
        let retry_after_s = index.map_or(1, |index| (*state).zone.queue_retry_after_s(index, clock::now()));
        unavailable::respond(r, retry_after_s, "no peer takes requests");
    }
}

/// There was no place for the request, which has a class.
struct TurnedAway;

impl event::Handler for TurnedAway {
    const PLACE: &'static str = "queue refusal";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: the event is cancelled before its record goes; a request that is turned away
        // waits on its placeholder.
        unsafe {
            let state = (*event).data.cast::<RequestState>();
            (*state).stage = Stage::Idle;
            let u = (*(*state).request).upstream;
            if !respond_own(state) && !refuse_by_class(state, 0, "the queue is full") {
                placeholder::fail(u);
            }
        }
    }
}

/// The wait is over: 503 for a request of a class; for another one nginx answers 504, without
/// asking for another peer.
pub(super) struct Timeout;

impl event::Handler for Timeout {
    const PLACE: &'static str = "queue timeout";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: the event is cancelled before its record goes.
        unsafe {
            let state = (*event).data.cast::<RequestState>();
            let u = (*(*state).request).upstream;
            unlink(state, Event::TimedOut);
            kick((*state).conf, (*state).zone);
            if !respond_own(state)
                && !refuse_by_class(state, nginx_sys::NGX_HTTP_UPSTREAM_FT_TIMEOUT, "it waited too long")
            {
                placeholder::time_out(u);
            }
        }
    }
}
