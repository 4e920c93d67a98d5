//! TLS sessions of the peers, so that connections resume instead of shaking hands anew. One cache
//! for each worker and upstream.
//!
//! Keyed by the peer's record and its generation: a record that went to another address does not
//! offer the old one's session.

use super::request::RequestState;
use crate::ffi::base::guard::guard;
use crate::ffi::base::nginx;
use nginx_sys::{ngx_int_t, ngx_peer_connection_t};
use std::ffi::c_void;

/// nginx is about to shake hands: offers the peer's last session.
pub(crate) unsafe extern "C" fn set(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    guard("set_session", nginx::OK, || {
        // SAFETY: `data` is what `peer.init` stored, and the connection exists during the
        // handshake.
        unsafe {
            let state = data.cast::<RequestState>();
            let Some((peer, generation)) = key(state) else { return nginx::OK };
            let session = (*state).conf.sessions.borrow().find(peer, generation);
            if session.is_null() { nginx::OK } else { nginx_sys::ngx_ssl_set_session((*pc).connection, session) }
        }
    })
}

/// The handshake is done or the peer sent a ticket: keeps the session.
pub(crate) unsafe extern "C" fn save(pc: *mut ngx_peer_connection_t, data: *mut c_void) {
    guard("save_session", (), || {
        // SAFETY: as in `set`; `ngx_ssl_get_session` gives us a reference of our own, or null.
        unsafe {
            let state = data.cast::<RequestState>();
            let Some((peer, generation)) = key(state) else { return };
            let session = nginx_sys::ngx_ssl_get_session((*pc).connection);
            if !session.is_null() {
                (*state).conf.sessions.borrow_mut().keep(peer, generation, session);
            }
        }
    });
}

/// # Safety
/// `state` is a live record.
unsafe fn key(state: *const RequestState) -> Option<(u16, u32)> {
    // SAFETY: as the caller vouches.
    let ticket = unsafe { (*state).ticket.as_ref() }?;
    Some((ticket.peer.0, ticket.generation))
}
