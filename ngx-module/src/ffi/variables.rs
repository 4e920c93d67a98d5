//! `$pincer_ttft`, `$pincer_queue_time`, `$pincer_revision`, `$pincer_body_hash`, `$pincer_cache_key`, `$pincer_uncacheable`, `$pincer_class`,
//! `$pincer_tenant`, `$pincer_limit_status`.

use crate::ffi::balance::request::{self, AttemptTimes, ShownTime};
use crate::ffi::base::nginx;
use crate::ffi::base::variable::{Variable, fill, fill_bytes};
use crate::ffi::body::filter::{self, Identity};
use crate::ffi::cache::key;
use crate::ffi::conf;
use crate::ffi::limit::hold;
use crate::phase::times;
use nginx_sys::{ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t};
use pincer_core::digest::{Hex, key_text};

pub(crate) const VARIABLES: &[Variable] = &[
    Variable::new("pincer_ttft", ttft),
    Variable::new("pincer_queue_time", queue_time),
    Variable::new("pincer_revision", revision),
    Variable::new("pincer_body_hash", body_hash),
    Variable::new("pincer_cache_key", cache_key),
    Variable::new("pincer_uncacheable", uncacheable),
    Variable::new("pincer_class", class),
    Variable::new("pincer_tenant", tenant),
    Variable::new("pincer_limit_status", limit_status),
];

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn ttft(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { attempts(r, value, |attempt| attempt.first_byte) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn queue_time(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as above.
    unsafe { attempts(r, value, |attempt| attempt.queue) }
}

/// # Safety
/// `r` is live, `value` is writable.
unsafe fn attempts(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    time: fn(&AttemptTimes) -> ShownTime,
) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    let text = unsafe {
        request::find(r)
            .map(|state| times::text((*state).times().map(|(attempt, redirected)| (time(attempt).ms(), redirected))))
    };
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, &text.unwrap_or_default()) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn revision(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches; the request's configuration outlives it.
    unsafe {
        let zone = conf::of_request(r).and_then(|main| main.zone.get());
        let text = zone.map(|zone| zone.header.revision().to_string());
        fill(r, value, &text.unwrap_or_default())
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn body_hash(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        match filter::identity(r) {
            Some(Identity::Digest(digest)) => fill_bytes(r, value, digest.hex().as_ref()),
            Some(Identity::Token(token)) => fill_bytes(r, value, Hex::new(&token).as_ref()),
            None => nginx::ERROR,
        }
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn cache_key(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        match key::of(r) {
            Some(key) => fill_bytes(r, value, &key_text(&key)),
            None => nginx::ERROR,
        }
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn uncacheable(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill_bytes(r, value, if filter::is_uncacheable(r) { b"1" } else { b"0" }) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn class(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, &hold::class_text(r).unwrap_or_default()) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn tenant(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, &hold::tenant_text(r).unwrap_or_default()) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn limit_status(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, hold::status_text(r).unwrap_or_default()) }
}
