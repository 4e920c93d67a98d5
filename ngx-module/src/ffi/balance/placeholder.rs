//! The connection on which a request waits: one that nginx sets up as if it were connecting, and
//! that no event loop watches.
//!
//! When a slot comes it is swapped for a real one; when there is none it is made to fail or to time
//! out, and nginx goes on by its own rules. After nginx's handler has run, neither the request nor
//! the connection may be touched.

use crate::ffi::base::bits;
use crate::ffi::base::eventfd::eventfd;
use crate::ffi::base::statics::LoopStatic;
use nginx_sys::{ngx_connection_t, ngx_http_upstream_t, ngx_log_t, ngx_peer_connection_t};
use std::cell::Cell;

/// What this process's placeholders are duplicates of; negative before the first.
static UNWATCHED: LoopStatic<Cell<i32>> = LoopStatic::new(Cell::new(-1));

/// A descriptor for a waiting request's placeholder: a duplicate of one that no event loop watches.
fn descriptor() -> Option<i32> {
    if UNWATCHED.get() < 0 {
        UNWATCHED.set(eventfd()?);
    }
    // SAFETY: duplicates a descriptor of ours.
    let copy = unsafe { libc::fcntl(UNWATCHED.get(), libc::F_DUPFD_CLOEXEC, 0) };
    (copy >= 0).then_some(copy)
}

/// A connection object that is in no event loop: nginx arms its timer on it and closes it, nothing
/// else ever happens to it.
///
/// # Safety
/// `pc` is live.
pub(crate) unsafe fn open(pc: *const ngx_peer_connection_t) -> Option<*mut ngx_connection_t> {
    let descriptor = descriptor()?;
    // SAFETY: as the caller vouches.
    unsafe {
        let log = (*pc).log;
        let connection = nginx_sys::ngx_get_connection(descriptor, log);
        if connection.is_null() {
            libc::close(descriptor);
            return None;
        }
        (*(*connection).read).log = log;
        (*(*connection).write).log = log;
        (*connection).log = log;
        Some(connection)
    }
}

/// Gives the new connection what nginx gave the placeholder.
///
/// # Safety
/// `u` is live and connected or connecting; `placeholder` is still open.
pub(crate) unsafe fn adopt(u: *mut ngx_http_upstream_t, placeholder: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches; nginx has made the placeholder's data the request.
    unsafe {
        let c = (*u).peer.connection;
        let client = (*(*placeholder).data.cast::<nginx_sys::ngx_http_request_t>()).connection;
        (*c).requests += 1;
        (*c).data = (*placeholder).data;
        (*(*c).write).handler = (*(*placeholder).write).handler;
        (*(*c).read).handler = (*(*placeholder).read).handler;
        send_like(c, client);
        bits::output_chain::set_sendfile(&raw mut (*u).output, bits::connection::sendfile(c));
        // Keepalive's connections have a pool of their own.
        if (*c).pool.is_null() {
            (*c).pool = std::mem::replace(&mut (*placeholder).pool, std::ptr::null_mut());
        }
        log_to(c, (*client).log);
        (*u).writer.connection = c;
        if !(*u).state.is_null() {
            (*(*u).state).peer = (*u).peer.name;
        }
    }
}

/// Lets `connection` use `sendfile` and `tcp_nopush` only where the client's connection does.
///
/// # Safety
/// Both are live.
unsafe fn send_like(connection: *mut ngx_connection_t, client: *const ngx_connection_t) {
    const DISABLED: u32 = nginx_sys::ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED;
    // SAFETY: as the caller vouches.
    unsafe {
        let sendfile = bits::connection::sendfile(connection) & bits::connection::sendfile(client);
        bits::connection::set_sendfile(connection, sendfile);
        if bits::connection::tcp_nopush(client) == DISABLED {
            bits::connection::set_tcp_nopush(connection, DISABLED);
        }
    }
}

/// Has everything of `connection` write to `log`.
///
/// # Safety
/// `connection` is live and has its pool; `log` lives as long as it.
unsafe fn log_to(connection: *mut ngx_connection_t, log: *mut ngx_log_t) {
    // SAFETY: as the caller vouches; a connection has its two events.
    unsafe {
        (*connection).log = log;
        (*(*connection).pool).log = log;
        (*(*connection).read).log = log;
        (*(*connection).write).log = log;
    }
}

/// Makes nginx see a failed connect on the placeholder: its descriptor becomes a socket with a
/// pending ECONNRESET, so that nginx's own test fails, in its own words and with its own choice of
/// the next peer.
///
/// # Safety
/// `u` is live, on its placeholder. It may be gone afterwards.
pub(crate) unsafe fn fail(u: *mut ngx_http_upstream_t) {
    // SAFETY: as the caller vouches; the descriptor is the placeholder's own, in no event loop.
    unsafe {
        let connection = (*u).peer.connection;
        if !poison((*connection).fd) {
            bits::event::set_timedout((*connection).write, 1);
        }
        run_write_handler(connection);
    }
}

/// Puts a reset socket behind `descriptor`; `false` when descriptors are out.
fn poison(descriptor: i32) -> bool {
    let mut pair = [0_i32; 2];
    // SAFETY: makes two sockets, closes both again; a unix socket whose other end closes with
    // unread bytes gets ECONNRESET.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        if libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) != 0 {
            return false;
        }
        libc::write(pair[0], b"x".as_ptr().cast(), 1);
        libc::close(pair[1]);
        let moved = libc::dup3(pair[0], descriptor, libc::O_CLOEXEC);
        libc::close(pair[0]);
        moved == descriptor
    }
}

/// Lets nginx go on with the connection.
///
/// # Safety
/// `connection` has nginx's handlers. The request may be gone afterwards.
pub(crate) unsafe fn run_write_handler(connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        let write = (*connection).write;
        if let Some(handler) = (*write).handler {
            handler(write);
        }
    }
}

/// Makes nginx see a connect that timed out: 504, without asking for another peer.
///
/// # Safety
/// `u` is live, on its placeholder. It may be gone afterwards.
pub(crate) unsafe fn time_out(u: *mut ngx_http_upstream_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        (*u).peer.tries = 0;
        let connection = (*u).peer.connection;
        bits::event::set_timedout((*connection).write, 1);
        run_write_handler(connection);
    }
}
