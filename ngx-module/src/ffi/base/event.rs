//! Events, timers and nginx's clock.

use super::bits;
use super::guard::guard;
use nginx_sys::{ngx_connection_t, ngx_event_t, ngx_msec_t, ngx_queue_t};

/// What an event has done.
pub(crate) trait Handler {
    /// For the log, should it panic.
    const PLACE: &'static str;

    /// # Safety
    /// `event` has just happened; it and what its `data` says are live.
    unsafe fn run(event: *mut ngx_event_t);
}

/// `H` as nginx calls it.
pub(crate) unsafe extern "C" fn handler<H: Handler>(event: *mut ngx_event_t) {
    // SAFETY: nginx calls with an event that has just happened; who prepared it keeps what it
    // needs.
    guard(H::PLACE, (), || unsafe { H::run(event) });
}

/// Milliseconds of nginx's cached monotonic clock.
pub(crate) fn current_msec() -> ngx_msec_t {
    // SAFETY: a word that only this process's event loop writes, read on that loop.
    unsafe { nginx_sys::ngx_current_msec }
}

/// The same, brought up to date before: by this clock nginx times what it asks of upstreams.
pub(crate) fn fresh_msec() -> ngx_msec_t {
    // SAFETY: on the event loop, where nginx calls it itself; it only stores the time.
    unsafe { nginx_sys::ngx_time_update() };
    current_msec()
}

/// Runs `event`'s handler later in this turn of the event loop; once, however often it is posted.
///
/// # Safety
/// `event` stays where it is until it ran or was unposted.
pub(crate) unsafe fn post(event: *mut ngx_event_t) {
    // SAFETY: the queue is nginx's own and initialised in every worker; `event` as the caller
    // vouches.
    unsafe { bits::event::post(event, &raw mut nginx_sys::ngx_posted_events) };
}

/// Takes `event` out of the posted events and out of the timers, if it is there.
///
/// # Safety
/// `event` is live.
pub(crate) unsafe fn cancel(event: *mut ngx_event_t) {
    // SAFETY: `posted` and `timer_set` say that the links are in place.
    unsafe {
        bits::event::unpost(event);
        if bits::event::timer_set(event) != 0 {
            bits::event::del_timer(event);
        }
    }
}

/// Arms `event` to run in `ms`, unless it is armed.
///
/// # Safety
/// `event` is live and stays where it is until it fired or was cancelled; its `log` is set.
pub(crate) unsafe fn arm(event: *mut ngx_event_t, ms: ngx_msec_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        if bits::event::timer_set(event) == 0 {
            bits::event::add_timer(event, ms);
        }
    }
}

/// Whether `queue` has no element.
///
/// # Safety
/// `queue` is an initialised head.
pub(crate) unsafe fn queue_is_empty(queue: *const ngx_queue_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { std::ptr::eq((*queue).next, queue) }
}

/// Closes a connection and its pool, as nginx closes an upstream connection.
///
/// # Safety
/// `connection` is open and nobody uses it afterwards.
pub(crate) unsafe fn close_connection(connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        if !(*connection).pool.is_null() {
            nginx_sys::ngx_destroy_pool((*connection).pool);
            (*connection).pool = std::ptr::null_mut();
        }
        nginx_sys::ngx_close_connection(connection);
    }
}
