//! How a connection is read while a body is hashed.

use super::read_throttle::rest;
use super::record::throttle;
use crate::ffi::base::{bits, nginx};
use nginx_sys::{ngx_connection_t, ngx_http_request_t, u_char};

/// Stands in for a connection's `recv` while a body is read and hashed.
pub(super) unsafe extern "C" fn recv(connection: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: nginx calls with a live connection, whose data is one of the requests that it has
    // while one of them reads its body, and with room for `size` bytes; the reference ends before
    // anyone else runs.
    unsafe {
        let r = (*connection).data.cast::<ngx_http_request_t>();
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
        if first == 0 {
            return before(connection, buffer, size);
        }
        let bytes = first.cast_signed();
        if first == size {
            // There may be more of it, of which no event will tell.
            bits::event::set_ready((*connection).read, 1);
            return bytes;
        }
        match before(connection, buffer.add(first), size - first) {
            nginx::AGAIN => bytes,
            more if more > 0 => bytes + more,
            failed => {
                (*throttle).failed = Some(failed);
                // nginx asks once more.
                bits::event::set_ready((*connection).read, 1);
                bytes
            }
        }
    }
}
