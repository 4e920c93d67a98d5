//! `pincer_key`: who the caller is, by the API key in a header or wherever a variable finds it. The
//! key is hashed and forgotten.
//!
//! Looked up once for each request, in the table that the control plane feeds; the secret itself
//! never leaves this file, and a log gets the first eight digits of its SHA-256 only.

use super::caller::Caller;
use super::conf::LimitModule;
use super::record::Record;
use crate::ffi::base::{clock, log, nginx};
use nginx_sys::ngx_http_request_t;
use ngx::http::HttpModuleLocationConf as _;
use pincer_core::zone::{KeyVerdict, Zone};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Looks up who calls, unless that is known already.
///
/// # Safety
/// `r` is live and the record its main request's; no reference into the record is alive, since
/// nginx may ask for the caller while it evaluates the source.
pub(crate) unsafe fn identify(r: *mut ngx_http_request_t, record: *mut Record) {
    // SAFETY: as the caller vouches.
    if !matches!(unsafe { &(*record).caller }, Caller::NotAsked) {
        return;
    }
    // SAFETY: as the caller vouches.
    let source = unsafe { LimitModule::location_conf(&*r) }.and_then(|conf| conf.key.flatten());
    let Some(source) = source else { return };
    // SAFETY: as the caller vouches; the compiled value belongs to this configuration.
    let secret = unsafe {
        // A source that asks for the key's class or tenant, by way of a map perhaps, finds nobody.
        (*record).caller = Caller::Nobody;
        nginx::complex_value(r, source)
    };
    let secret = without_scheme(secret.unwrap_or_default());
    if secret.is_empty() {
        return;
    }
    let sha256: [u8; 32] = Sha256::digest(secret).into();
    // SAFETY: as the caller vouches.
    let verdict = unsafe { look_up((*record).zone, &sha256, client_address(r)) };
    let (caller, refusal) = match verdict {
        KeyVerdict::Found { tenant, class } => (Caller::Known { tenant, class }, None),
        KeyVerdict::Unknown | KeyVerdict::Expired => (Caller::Unknown, Some("not valid")),
        KeyVerdict::Forbidden => (Caller::Forbidden, Some("not allowed from this address")),
    };
    if let Some(why) = refusal {
        // SAFETY: as the caller vouches.
        unsafe { log_refused(r, why, &sha256) };
    }
    // SAFETY: as the caller vouches.
    unsafe { (*record).caller = caller };
}

/// # Safety
/// `r` is live.
unsafe fn log_refused(r: *const ngx_http_request_t, why: &str, sha256: &[u8; 32]) {
    let [a, b, c, d, ..] = sha256;
    // SAFETY: as the caller vouches; a live request has a connection with a log.
    let log = unsafe { (*(*r).connection).log };
    log::write(log, log::NGX_LOG_INFO, &format!("key is {why}, fingerprint={a:02x}{b:02x}{c:02x}{d:02x}"));
}

fn look_up(zone: &Zone<'_>, sha256: &[u8; 32], address: IpAddr) -> KeyVerdict {
    zone.key_find(sha256, address, clock::now())
}

/// What stands behind `Bearer`, or all of it where there is no scheme.
fn without_scheme(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii(),
        _ => value,
    }
}

/// The client's address as nginx understands it, `realip` included; unspecified for a unix socket.
///
/// # Safety
/// `r` is live.
unsafe fn client_address(r: *const ngx_http_request_t) -> IpAddr {
    // SAFETY: as the caller vouches; the family says which structure the address is, and nginx
    // keeps it aligned.
    unsafe {
        let address = (*(*r).connection).sockaddr.cast::<libc::sockaddr>();
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let address = address.cast::<libc::sockaddr_in>().read_unaligned();
                IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
            }
            libc::AF_INET6 => {
                let address = address.cast::<libc::sockaddr_in6>().read_unaligned();
                IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
            }
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }
}
