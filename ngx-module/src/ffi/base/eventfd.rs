//! Descriptors that wake an event loop, and connections that listen on them.

use super::status::OK;
use super::{bits, log};
use nginx_sys::{ngx_connection_t, ngx_event_t};

/// A non-blocking eventfd that does not survive exec; `None` when descriptors are out.
pub(crate) fn eventfd() -> Option<i32> {
    // SAFETY: takes two numbers, answers a descriptor or -1.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    (descriptor >= 0).then_some(descriptor)
}

/// Adds one to an eventfd. A full counter answers EAGAIN, which is as good.
pub(crate) fn signal(descriptor: i32) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: writes 8 bytes from this stack to a descriptor of ours.
    unsafe { libc::write(descriptor, one.as_ptr().cast(), one.len()) };
}

/// Empties an eventfd, so that a level-triggered event module does not spin. An edge-triggered one
/// (epoll) is woken by every write and needs no read, which could take another process's wake-up
/// where two zones share a slot's descriptor for a while.
pub(crate) fn drain(descriptor: i32) {
    // SAFETY: a word that nginx sets when it chooses its event module.
    if unsafe { nginx_sys::ngx_event_flags } & nginx_sys::NGX_USE_CLEAR_EVENT as nginx_sys::ngx_uint_t != 0 {
        return;
    }
    let mut count = [0_u8; 8];
    // SAFETY: reads 8 bytes to this stack from a descriptor of ours.
    unsafe { libc::read(descriptor, count.as_mut_ptr().cast(), count.len()) };
}

/// How long a listening connection of ours lives once a graceful stop has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Kept until the process exits: waiting requests of a draining worker still need it.
    Process,
    /// nginx calls the handler with `close` set when the stop begins.
    UntilStop,
}

/// Puts `descriptor` into the event loop; takes it over, and closes it on failure.
pub(crate) fn listen(
    descriptor: i32,
    handler: unsafe extern "C" fn(*mut ngx_event_t),
    lifetime: Lifetime,
) -> Option<*mut ngx_connection_t> {
    let log = log::cycle_log();
    // SAFETY: runs in a worker's event loop, where connections exist; `log` is the cycle's.
    let connection = unsafe { nginx_sys::ngx_get_connection(descriptor, log) };
    if connection.is_null() {
        // SAFETY: ours, and not taken over.
        unsafe { libc::close(descriptor) };
        return None;
    }
    // SAFETY: `connection` is fresh from nginx, its two events are in place; the handlers are
    // functions of this module.
    unsafe {
        let (read, write) = ((*connection).read, (*connection).write);
        (*read).handler = Some(handler);
        (*read).log = log;
        (*write).log = log;
        (*connection).log = log;
        match lifetime {
            Lifetime::UntilStop => bits::connection::set_idle(connection, 1),
            Lifetime::Process => bits::event::set_channel(read, 1),
        }
        if nginx_sys::ngx_handle_read_event(read, 0) != OK {
            nginx_sys::ngx_close_connection(connection);
            return None;
        }
    }
    Some(connection)
}
