//! `$pincer_ttft`, `$pincer_queue_time`, `$pincer_revision`, `$pincer_body_hash`, `$pincer_cache_key`, `$pincer_uncacheable`, `$pincer_class`,
//! `$pincer_tenant`, `$pincer_limit_status`.

use crate::ffi::balance::request::{self, AttemptTimes, ShownTime};
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, nginx};
use crate::ffi::body::filter::{self, Identity};
use crate::ffi::cache::key;
use crate::ffi::conf;
use crate::ffi::limit::hold;
use crate::phase::times;
use nginx_sys::{
    NGX_HTTP_VAR_NOCACHEABLE, ngx_conf_t, ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, ngx_str_t,
    ngx_uint_t,
};
use pincer_core::digest::{Hex, key_text};

type Getter = unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_http_variable_value_t, usize) -> ngx_int_t;

const VARIABLES: [(&str, Getter); 9] = [
    ("pincer_ttft", ttft),
    ("pincer_queue_time", queue_time),
    ("pincer_revision", revision),
    ("pincer_body_hash", body_hash),
    ("pincer_cache_key", cache_key),
    ("pincer_uncacheable", uncacheable),
    ("pincer_class", class),
    ("pincer_tenant", tenant),
    ("pincer_limit_status", limit_status),
];

/// Registers the variables, before nginx reads `http {}`.
pub(crate) unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard("preconfiguration", nginx::ERROR, || {
        for (name, getter) in VARIABLES {
            let mut name = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
            // SAFETY: `cf` is live; nginx copies the name (in lower case) and answers null or the variable.
            unsafe {
                let variable =
                    nginx_sys::ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_NOCACHEABLE as ngx_uint_t);
                if variable.is_null() {
                    return nginx::ERROR;
                }
                (*variable).get_handler = Some(getter);
            }
        }
        nginx::OK
    })
}

unsafe extern "C" fn ttft(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, _: usize) -> ngx_int_t {
    // SAFETY: nginx passes a live request and a value to fill.
    unsafe { attempts(r, value, |attempt| attempt.first_byte) }
}

unsafe extern "C" fn queue_time(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
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
    guard("variable", nginx::ERROR, || {
        // SAFETY: as the caller vouches.
        let text = unsafe {
            request::find(r).map(|state| {
                times::text((*state).times().map(|(attempt, redirected)| (time(attempt).ms(), redirected)))
            })
        };
        // SAFETY: as the caller vouches.
        unsafe { fill(r, value, &text.unwrap_or_default()) }
    })
}

unsafe extern "C" fn revision(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill; the request's configuration outlives it.
        unsafe {
            let zone = conf::of_request(r).and_then(|main| main.zone.get());
            let text = zone.map(|zone| zone.header.revision().to_string());
            fill(r, value, &text.unwrap_or_default())
        }
    })
}

unsafe extern "C" fn body_hash(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill.
        unsafe {
            match filter::identity(r) {
                Some(Identity::Digest(digest)) => fill_bytes(r, value, digest.hex().as_ref()),
                Some(Identity::Token(token)) => fill_bytes(r, value, Hex::new(&token).as_ref()),
                None => nginx::ERROR,
            }
        }
    })
}

unsafe extern "C" fn cache_key(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill.
        unsafe {
            match key::of(r) {
                Some(key) => fill_bytes(r, value, &key_text(&key)),
                None => nginx::ERROR,
            }
        }
    })
}

unsafe extern "C" fn uncacheable(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill.
        unsafe { fill_bytes(r, value, if filter::is_uncacheable(r) { b"1" } else { b"0" }) }
    })
}

unsafe extern "C" fn class(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, _: usize) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill.
        unsafe { fill(r, value, &hold::class_text(r).unwrap_or_default()) }
    })
}

unsafe extern "C" fn tenant(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, _: usize) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill.
        unsafe { fill(r, value, &hold::tenant_text(r).unwrap_or_default()) }
    })
}

unsafe extern "C" fn limit_status(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard("variable", nginx::ERROR, || {
        // SAFETY: nginx passes a live request and a value to fill.
        unsafe { fill(r, value, hold::status_text(r).unwrap_or_default()) }
    })
}

/// Gives nginx `text`, copied into the request's pool; empty text is "not found".
///
/// # Safety
/// `r` is live, `value` is writable.
unsafe fn fill(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, text: &str) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        if text.is_empty() {
            bits::value::set_not_found(value, 1);
            return nginx::OK;
        }
        fill_bytes(r, value, text.as_bytes())
    }
}

/// Gives nginx a value, copied into the request's pool. The variables are registered as not cacheable, so nginx asks again at each use.
///
/// # Safety
/// As [`fill`].
unsafe fn fill_bytes(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, text: &[u8]) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        let Some(copy) = nginx::pool_copy((*r).pool, text) else { return nginx::ERROR };
        bits::value::fill(value, copy.data, copy.len);
    }
    nginx::OK
}
