//! The pages of status and metrics.

mod pages;

use crate::conf::ConfError;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::module;
use crate::ffi::base::phase::{Handler, handler};
use crate::ffi::base::variable::{Variable, fill};
use crate::ffi::limit::conf::exempt_page;
use crate::ffi::zone::conf::{needed_by, of_request as zone_of};
use nginx_sys::ngx_http_request_t;
use nginx_sys::ngx_http_variable_value_t;
use nginx_sys::ngx_int_t;
use nginx_sys::{NGX_CONF_NOARGS, ngx_conf_t};

pub(crate) struct StatusModule;

module::module!(
    StatusModule,
    c"ngx_http_pincer_status_module",
    ((), (), ()),
    [in_location(c"pincer_status", NGX_CONF_NOARGS, status), in_location(c"pincer_metrics", NGX_CONF_NOARGS, metrics),]
);

impl Feature for StatusModule {
    const VARIABLES: &'static [Variable] = &[Variable::new("pincer_revision", revision)];
}

fn status(cf: *mut ngx_conf_t, _: &mut ()) -> Result<(), ConfError> {
    page::<pages::StatusPage>(cf, "pincer_status")
}

fn metrics(cf: *mut ngx_conf_t, _: &mut ()) -> Result<(), ConfError> {
    page::<pages::MetricsPage>(cf, "pincer_metrics")
}

fn page<P: Handler>(cf: *mut ngx_conf_t, directive: &'static str) -> Result<(), ConfError> {
    exempt_page(cf);
    needed_by(cf, directive);
    // SAFETY: a directive of a location; the context's `loc_conf` has a slot for the core module.
    unsafe {
        let context = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        let index = nginx_sys::ngx_http_core_module.ctx_index;
        let location = (*(*context).loc_conf.add(index)).cast::<nginx_sys::ngx_http_core_loc_conf_t>();
        (*location).handler = Some(handler::<P>);
    }
    Ok(())
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn revision(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches; the request's configuration outlives it.
    unsafe {
        let zone = zone_of(r);
        let text = zone.map(|zone| zone.header.revision().to_string());
        fill(r, value, &text.unwrap_or_default())
    }
}
