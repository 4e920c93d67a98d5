//! Request bodies: hashed while they arrive.

pub(crate) mod account;
pub(crate) mod conf;
mod early;
mod filter;
pub(crate) mod head;
pub(crate) mod identity;
mod read_throttle;
mod reading;
mod record;

use crate::conf::ConfError;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::variable::{Variable, fill_bytes};
use crate::ffi::base::{module, nginx};
use conf::{BodyModule, Location, Main};
use identity::Identity;
use nginx_sys::ngx_http_request_t;
use nginx_sys::ngx_http_variable_value_t;
use nginx_sys::ngx_int_t;
use nginx_sys::{NGX_CONF_1MORE, ngx_conf_t};
use pincer_core::digest::Hex;

module::module!(
    BodyModule,
    c"ngx_http_pincer_body_module",
    (Main, (), Location),
    [anywhere(c"pincer_body_hash", NGX_CONF_1MORE, conf::body_hash)]
);

impl Feature for BodyModule {
    const VARIABLES: &'static [Variable] =
        &[Variable::new("pincer_body_hash", body_hash), Variable::new("pincer_uncacheable", uncacheable)];

    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        let main = unsafe { BodyModule::main_read(cf) };
        if main.in_use { filter::install(cf) } else { Ok(()) }
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn body_hash(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        match identity::identity(r) {
            Some(Identity::Digest(digest)) => fill_bytes(r, value, digest.hex().as_ref()),
            Some(Identity::Token(token)) => fill_bytes(r, value, Hex::new(&token).as_ref()),
            None => nginx::ERROR,
        }
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn uncacheable(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill_bytes(r, value, if identity::is_uncacheable(r) { b"1" } else { b"0" }) }
}
