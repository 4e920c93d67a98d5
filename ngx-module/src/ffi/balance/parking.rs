//! The state of a request that waits: its record, its events, and the placeholder that nginx waits
//! on.

use super::attempts::ShownTime;
use super::placeholder;
use super::request::{Parking, RequestState, Stage};
use super::terms::{Event, count};
use super::upstream::busy;
use crate::ffi::base::{clock, nginx};
use nginx_sys::{ngx_event_t, ngx_peer_connection_t};

const AF_UNIX: libc::sa_family_t = 1;
/// Length of an unnamed unix socket's address: its family alone.
const SA_FAMILY_LEN: u32 = 2;
const _: () = assert!(libc::AF_UNIX == 1 && size_of::<libc::sa_family_t>() == 2);

/// The request's parking record, made if it never waited before; `None` when out of memory.
///
/// # Safety
/// `state` is live and not parked.
unsafe fn parking(state: *mut RequestState) -> Option<*mut Parking> {
    // SAFETY: as the caller vouches; the pool answers null or memory aligned to a word, and zeroes
    // are a value of the record.
    unsafe {
        if (*state).parking.is_null() {
            (*state).parking = nginx_sys::ngx_pcalloc((*(*state).request).pool, size_of::<Parking>()).cast();
        }
        (!(*state).parking.is_null()).then(|| (*state).parking)
    }
}

/// Gives nginx the placeholder to wait on; `None` when descriptors or memory are out.
///
/// # Safety
/// `pc` and `state` belong to one live request that is not parked.
pub(super) unsafe fn present(pc: *mut ngx_peer_connection_t, state: *mut RequestState) -> Option<*mut Parking> {
    // SAFETY: as the caller vouches; the address lives in the record.
    unsafe {
        let parking = parking(state)?;
        (*pc).connection = placeholder::open(pc)?;
        (*parking).state = state;
        (*parking).family = AF_UNIX;
        (*pc).sockaddr = (&raw mut (*parking).family).cast();
        (*pc).socklen = SA_FAMILY_LEN;
        busy(&mut *pc, (*state).conf);
        Some(parking)
    }
}

pub(super) unsafe fn prepare_event(
    event: *mut ngx_event_t,
    state: *mut RequestState,
    handler: unsafe extern "C" fn(*mut ngx_event_t),
) {
    // SAFETY: an event inside the live record, not in use.
    unsafe {
        event.write(std::mem::zeroed());
        (*event).data = state.cast();
        (*event).handler = Some(handler);
        (*event).log = (*(*(*state).request).connection).log;
    }
}

/// Takes the request out of the queue, with its events. The placeholder stays nginx's.
///
/// # Safety
/// `state` is live and parked.
pub(super) unsafe fn unlink(state: *mut RequestState, event: impl Fn(u64) -> Event) {
    // SAFETY: a parked record is in the list of its upstream, and has its parking record.
    let (this, parking) = unsafe {
        let parking = (*state).parking;
        (*state).conf.local.remove(&raw mut (*parking).waiter);
        nginx::cancel(&raw mut (*parking).settle_event);
        nginx::cancel(&raw mut (*parking).timeout_event);
        (&mut *state, &*parking)
    };
    let (conf, zone, worker) = (this.conf, this.zone, this.worker);
    this.stage = Stage::Idle;
    let waited_ns = clock::now().since(parking.waiter.parked_at);
    // SAFETY: the record's request is live; a request's upstream lives as long as it.
    if let Some(u) = unsafe { (*this.request).upstream.as_mut() } {
        // What nginx compares `proxy_next_upstream_timeout` with, and nothing else. By its own
        // clock, so that the start never lies ahead of it.
        let waited_ms = nginx::current_msec().saturating_sub(parking.parked_ms);
        u.peer.start_time = u.peer.start_time.wrapping_add(waited_ms);
    }
    if let Some(attempt) = this.attempts.last() {
        attempt.queue = ShownTime::of_ns(waited_ns);
    }
    if let Some(index) = conf.index.get() {
        let cell = parking.waiter.cell;
        zone.queue_leave(index, worker, cell, conf.local.ends(cell));
        if parking.waiter.is_retry {
            zone.queue_retry_left(index, worker);
        }
        count(zone, index, worker, parking.class, &event(waited_ns));
    }
    if conf.local.is_empty() {
        // SAFETY: the upstream's own event, which lives as long as the configuration.
        unsafe { nginx::cancel(conf.local.tick_event.get()) };
    }
}
