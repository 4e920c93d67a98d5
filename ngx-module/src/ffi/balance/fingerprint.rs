//! What tells a request from others, so that a failure which follows it from peer to peer is its
//! own: method, URI, arguments, the body's length, and the body's digest where `pincer_body_hash`
//! takes one. Hashed with the zone's secret; nothing of the request is kept.

use super::request::RequestState;
use crate::ffi::base::nginx;
use crate::ffi::body::identity;
use pincer_core::limit::KeyHash;
use pincer_core::zone::Fingerprint;

/// The fingerprint of the request of `state`.
///
/// # Safety
/// `state` is live.
pub(crate) unsafe fn of(state: *const RequestState) -> Fingerprint {
    // SAFETY: as the caller vouches; a record lives in its request's pool, as its strings do.
    unsafe {
        let r = (*state).request;
        let length = (*(*r).main).headers_in.content_length_n.to_le_bytes();
        let digest = identity::digest(r);
        let parts = [
            nginx::bytes((*r).method_name),
            nginx::bytes((*r).uri),
            nginx::bytes((*r).args),
            &length,
            digest.as_ref().map_or(&[][..], |digest| digest.as_bytes()),
        ];
        Fingerprint::new(KeyHash::of_parts((*state).zone.header.secret(), &parts))
    }
}
