//! Who asks, and what the class of a request may have.

mod api_key;
pub(crate) mod bandwidth;
mod caller;
mod class_header;
pub(crate) mod conf;
mod delay;
mod directive;
mod hold;
pub(crate) mod record;
mod response;
pub(crate) mod who;

use crate::conf::ConfError;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::module;
use crate::ffi::base::variable::{Variable, fill};
use crate::ffi::{feed, zone};
use conf::{LimitModule, Location, Main};
use nginx_sys::ngx_http_request_t;
use nginx_sys::ngx_http_variable_value_t;
use nginx_sys::ngx_int_t;
use nginx_sys::{NGX_CONF_1MORE, NGX_CONF_TAKE1, ngx_conf_t};

module::module!(
    LimitModule,
    c"ngx_http_pincer_limit_module",
    (Main, (), Location),
    [
        in_http(c"pincer_class", NGX_CONF_1MORE, directive::class),
        anywhere(c"pincer_limit", NGX_CONF_1MORE, directive::limit),
        anywhere(c"pincer_limit_status", NGX_CONF_TAKE1, directive::limit_status),
        anywhere(c"pincer_key", NGX_CONF_TAKE1, directive::key),
        anywhere(c"pincer_key_required", NGX_CONF_TAKE1, directive::key_required),
    ]
);

impl Feature for LimitModule {
    const VARIABLES: &'static [Variable] = &[
        Variable::new("pincer_class", class),
        Variable::new("pincer_tenant", tenant),
        Variable::new("pincer_limit_status", limit_status),
    ];

    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        let main = unsafe { LimitModule::main_read(cf) };
        conf::check_classes(main)?;
        conf::check_keys(cf, main)?;
        zone::conf::register(cf, main);
        feed::conf::register(cf, main);
        if main.in_use {
            hold::install(cf)?;
        }
        Ok(())
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn class(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, &who::class_text(r).unwrap_or_default()) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn tenant(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, &who::tenant_text(r).unwrap_or_default()) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn limit_status(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, who::status_text(r).unwrap_or_default()) }
}
