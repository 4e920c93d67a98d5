//! How a connection is read while a body is hashed.

use super::read_throttle::{ReadThrottle, rest};
use super::record::throttle;
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, nginx};
use nginx_sys::{ngx_connection_t, ngx_http_request_t, u_char};

/// Stands in for a connection's `recv` while a body is read and hashed.
pub(super) unsafe extern "C" fn recv(connection: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: nginx calls with a live connection, whose data is one of the requests that it has
    // while one of them reads its body, and with room for `size` bytes.
    guard("reading a body", nginx::ERROR, || unsafe { read(connection, buffer, size) })
}

/// # Safety
/// As nginx calls [`recv`].
unsafe fn read(connection: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: as the caller vouches.
    let r = unsafe { (*connection).data.cast::<ngx_http_request_t>() };
    // SAFETY: as the caller vouches; each reference into the record ends before anyone else runs.
    unsafe {
        let Some(throttle) = throttle(r) else { return nginx::ERROR };
        if let Some(result) = (*throttle).failed.take() {
            return result;
        }
        if (*throttle).is_due() {
            rest(connection);
            return nginx::AGAIN;
        }
        let Some((_, Some(before), _)) = (*throttle).instead else { return nginx::ERROR };
        let size = (*throttle).piece(size);
        let first = (*throttle).hand_out(r, buffer, size);
        match size - first {
            _ if first == 0 => before(connection, buffer, size),
            0 => first.cast_signed() + look_again(connection),
            room => first.cast_signed() + behind(throttle, connection, before(connection, buffer.add(first), room)),
        }
    }
}

/// The bytes that `connection` adds to those that were handed out already, if it says `result`: one
/// that failed says so at the next read.
///
/// # Safety
/// Both are live.
unsafe fn behind(throttle: *mut ReadThrottle, connection: *mut ngx_connection_t, result: isize) -> isize {
    match result {
        nginx::AGAIN => 0,
        more if more > 0 => more,
        failed => {
            // SAFETY: as the caller vouches.
            unsafe {
                (*throttle).failed = Some(failed);
                look_again(connection)
            }
        }
    }
}

/// Has nginx read once more, since no event will tell of what is left; adds no bytes.
///
/// # Safety
/// `connection` is live.
unsafe fn look_again(connection: *mut ngx_connection_t) -> isize {
    // SAFETY: as the caller vouches.
    unsafe { bits::event::set_ready((*connection).read, 1) };
    0
}
