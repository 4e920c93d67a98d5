//! What nginx's loader finds in the shared object: the modules, their names and their places.

use crate::ffi::base::feature::{self, Feature};
use crate::ffi::base::statics::NginxStatic;
use crate::ffi::base::variable::Variable;
use crate::ffi::conf::{self, MainConf, PincerModule, UpstreamConf};
use crate::ffi::limit::bandwidth;
use crate::ffi::location::LocConf;
use crate::ffi::zone::worker;
use crate::ffi::{directive, variables};
use nginx_sys::{NGX_CONF_1MORE, NGX_CONF_ANY, NGX_CONF_NOARGS, NGX_CONF_TAKE1, ngx_conf_t, ngx_cycle_t, ngx_module_t};
use std::ffi::c_char;

feature::make_module!(
    PincerModule,
    c"ngx_http_pincer_module",
    [
        in_http(c"pincer_zone", NGX_CONF_1MORE, directive::zone),
        in_http(c"pincer_control_plane", NGX_CONF_1MORE, directive::control_plane),
        in_http(c"pincer_control_plane_certificate", NGX_CONF_TAKE1, directive::certificate),
        in_http(c"pincer_control_plane_certificate_key", NGX_CONF_TAKE1, directive::certificate_key),
        in_http(c"pincer_control_plane_trusted_certificate", NGX_CONF_TAKE1, directive::trusted_certificate),
        in_http(c"pincer_control_plane_name", NGX_CONF_TAKE1, directive::control_plane_name),
        in_http(c"pincer_allow_peers", NGX_CONF_1MORE, directive::allow_peers),
        in_upstream(c"pincer_balance", NGX_CONF_ANY, directive::balance),
        in_upstream(c"pincer_queue", NGX_CONF_1MORE, directive::queue),
        in_http(c"pincer_class", NGX_CONF_1MORE, directive::class),
        anywhere(c"pincer_limit", NGX_CONF_1MORE, directive::limit),
        anywhere(c"pincer_limit_status", NGX_CONF_TAKE1, directive::limit_status),
        anywhere(c"pincer_key", NGX_CONF_TAKE1, directive::key),
        anywhere(c"pincer_key_required", NGX_CONF_TAKE1, directive::key_required),
        anywhere(c"pincer_body_hash", NGX_CONF_1MORE, directive::body_hash),
        in_location(c"pincer_status", NGX_CONF_NOARGS, directive::status),
        in_location(c"pincer_metrics", NGX_CONF_NOARGS, directive::metrics),
    ]
);

impl Feature for PincerModule {
    type Main = MainConf;
    type Server = UpstreamConf;
    type Location = LocConf;

    const VARIABLES: &'static [Variable] = variables::VARIABLES;

    fn module() -> *mut ngx_module_t {
        MODULE.get()
    }

    fn configured(cf: *mut ngx_conf_t) -> Result<(), String> {
        conf::configured(cf)
    }

    fn in_force(cycle: *mut ngx_cycle_t) {
        worker::in_force(cycle);
    }

    fn worker_begins(cycle: *mut ngx_cycle_t) {
        worker::worker_begins(cycle);
    }

    fn worker_ends() {
        worker::worker_ends();
    }
}

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_modules: NginxStatic<[*const ngx_module_t; 3]> =
    NginxStatic::new([MODULE.get().cast_const(), bandwidth::MODULE.get().cast_const(), std::ptr::null()]);

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_module_names: NginxStatic<[*const c_char; 3]> =
    NginxStatic::new([NAME.as_ptr(), bandwidth::NAME.as_ptr(), std::ptr::null()]);

/// The module itself is not in here: nginx appends it, so its header filter runs first, while `u->buffer` still is as the peer filled it. The one for the
/// bandwidth's body filter stands before the gzip and postpone filters: it runs after them, on all that goes out. nginx may lack gzip.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_module_order: NginxStatic<[*const c_char; 4]> = NginxStatic::new([
    bandwidth::NAME.as_ptr(),
    c"ngx_http_gzip_filter_module".as_ptr(),
    c"ngx_http_postpone_filter_module".as_ptr(),
    std::ptr::null(),
]);
