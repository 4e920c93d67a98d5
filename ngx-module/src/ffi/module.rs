//! What nginx's loader finds in the shared object: the module, its name and its directives.

use crate::ffi::limit::bandwidth::filter;
use crate::ffi::zone::worker;
use crate::ffi::{conf, directive, location, variables};
use nginx_sys::{
    NGX_CONF_1MORE, NGX_CONF_ANY, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET,
    NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET, NGX_HTTP_MODULE, NGX_HTTP_SRV_CONF, NGX_HTTP_SRV_CONF_OFFSET,
    NGX_HTTP_UPS_CONF, ngx_command_t, ngx_http_module_t, ngx_module_t, ngx_str_t, ngx_uint_t,
};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_void};

/// A static that nginx writes while it is single-threaded (configuration) and everybody only reads afterwards.
#[repr(transparent)]
pub(crate) struct NginxStatic<T>(UnsafeCell<T>);

// SAFETY: nginx writes these statics in the master, before workers are forked and before the feed thread exists; that thread never
// touches them.
unsafe impl<T> Sync for NginxStatic<T> {}

type Setter = unsafe extern "C" fn(*mut nginx_sys::ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char;

/// A directive. nginx compares names up to their NUL, so they are C strings.
const fn command(name: &'static CStr, type_: u32, set: Setter, conf: usize) -> ngx_command_t {
    ngx_command_t {
        name: ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast::<u8>().cast_mut() },
        type_: type_ as ngx_uint_t,
        set: Some(set),
        conf,
        offset: 0,
        post: std::ptr::null_mut(),
    }
}

/// `http {}`, servers and locations.
const ANYWHERE: u32 = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

const COMMANDS: usize = 18;

static NGX_HTTP_PINCER_COMMANDS: NginxStatic<[ngx_command_t; COMMANDS]> = NginxStatic(UnsafeCell::new([
    command(c"pincer_zone", NGX_HTTP_MAIN_CONF | NGX_CONF_1MORE, directive::zone, NGX_HTTP_MAIN_CONF_OFFSET),
    command(
        c"pincer_control_plane",
        NGX_HTTP_MAIN_CONF | NGX_CONF_1MORE,
        directive::control_plane,
        NGX_HTTP_MAIN_CONF_OFFSET,
    ),
    command(
        c"pincer_control_plane_certificate",
        NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
        directive::certificate,
        NGX_HTTP_MAIN_CONF_OFFSET,
    ),
    command(
        c"pincer_control_plane_certificate_key",
        NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
        directive::certificate_key,
        NGX_HTTP_MAIN_CONF_OFFSET,
    ),
    command(
        c"pincer_control_plane_trusted_certificate",
        NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
        directive::trusted_certificate,
        NGX_HTTP_MAIN_CONF_OFFSET,
    ),
    command(
        c"pincer_control_plane_name",
        NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
        directive::control_plane_name,
        NGX_HTTP_MAIN_CONF_OFFSET,
    ),
    command(
        c"pincer_allow_peers",
        NGX_HTTP_MAIN_CONF | NGX_CONF_1MORE,
        directive::allow_peers,
        NGX_HTTP_MAIN_CONF_OFFSET,
    ),
    command(c"pincer_balance", NGX_HTTP_UPS_CONF | NGX_CONF_ANY, directive::balance, NGX_HTTP_SRV_CONF_OFFSET),
    command(c"pincer_queue", NGX_HTTP_UPS_CONF | NGX_CONF_1MORE, directive::queue, NGX_HTTP_SRV_CONF_OFFSET),
    command(c"pincer_class", NGX_HTTP_MAIN_CONF | NGX_CONF_1MORE, directive::class, NGX_HTTP_MAIN_CONF_OFFSET),
    command(c"pincer_limit", ANYWHERE | NGX_CONF_1MORE, directive::limit, NGX_HTTP_LOC_CONF_OFFSET),
    command(c"pincer_limit_status", ANYWHERE | NGX_CONF_TAKE1, directive::limit_status, NGX_HTTP_LOC_CONF_OFFSET),
    command(c"pincer_key", ANYWHERE | NGX_CONF_TAKE1, directive::key, NGX_HTTP_LOC_CONF_OFFSET),
    command(c"pincer_key_required", ANYWHERE | NGX_CONF_TAKE1, directive::key_required, NGX_HTTP_LOC_CONF_OFFSET),
    command(c"pincer_body_hash", ANYWHERE | NGX_CONF_1MORE, directive::body_hash, NGX_HTTP_LOC_CONF_OFFSET),
    command(c"pincer_status", NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS, directive::status, NGX_HTTP_LOC_CONF_OFFSET),
    command(c"pincer_metrics", NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS, directive::metrics, NGX_HTTP_LOC_CONF_OFFSET),
    ngx_command_t::empty(),
]));

static NGX_HTTP_PINCER_MODULE_CTX: NginxStatic<ngx_http_module_t> = NginxStatic(UnsafeCell::new(ngx_http_module_t {
    preconfiguration: Some(variables::preconfiguration),
    postconfiguration: Some(conf::postconfiguration),
    create_main_conf: Some(conf::create_main_conf),
    init_main_conf: None,
    create_srv_conf: Some(conf::create_srv_conf),
    merge_srv_conf: None,
    create_loc_conf: Some(location::create),
    merge_loc_conf: Some(location::merge),
}));

/// The module. nginx writes its indexes when it loads it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub(crate) static ngx_http_pincer_module: NginxStatic<ngx_module_t> = NginxStatic(UnsafeCell::new(ngx_module_t {
    ctx: NGX_HTTP_PINCER_MODULE_CTX.0.get().cast(),
    commands: NGX_HTTP_PINCER_COMMANDS.0.get().cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    init_module: Some(worker::init_module),
    init_process: Some(worker::init_process),
    exit_process: Some(worker::exit_process),
    ..ngx_module_t::default()
}));

static NGX_HTTP_PINCER_BANDWIDTH_CTX: NginxStatic<ngx_http_module_t> =
    NginxStatic(UnsafeCell::new(ngx_http_module_t {
        preconfiguration: None,
        postconfiguration: Some(filter::postconfiguration),
        create_main_conf: None,
        init_main_conf: None,
        create_srv_conf: None,
        merge_srv_conf: None,
        create_loc_conf: None,
        merge_loc_conf: None,
    }));

/// A module for the place of its body filter alone.
static NGX_HTTP_PINCER_BANDWIDTH_MODULE: NginxStatic<ngx_module_t> = NginxStatic(UnsafeCell::new(ngx_module_t {
    ctx: NGX_HTTP_PINCER_BANDWIDTH_CTX.0.get().cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    ..ngx_module_t::default()
}));

const BANDWIDTH_MODULE: &CStr = c"ngx_http_pincer_bandwidth_module";

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_modules: NginxStatic<[*const ngx_module_t; 3]> = NginxStatic(UnsafeCell::new([
    ngx_http_pincer_module.0.get().cast_const(),
    NGX_HTTP_PINCER_BANDWIDTH_MODULE.0.get().cast_const(),
    std::ptr::null(),
]));

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_module_names: NginxStatic<[*const c_char; 3]> =
    NginxStatic(UnsafeCell::new([c"ngx_http_pincer_module".as_ptr(), BANDWIDTH_MODULE.as_ptr(), std::ptr::null()]));

/// The module itself is not in here: nginx appends it, so its header filter runs first, while `u->buffer` still is as the peer filled it. The one for the
/// bandwidth's body filter stands before the gzip and postpone filters: it runs after them, on all that goes out. nginx may lack gzip.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_module_order: NginxStatic<[*const c_char; 4]> = NginxStatic(UnsafeCell::new([
    BANDWIDTH_MODULE.as_ptr(),
    c"ngx_http_gzip_filter_module".as_ptr(),
    c"ngx_http_postpone_filter_module".as_ptr(),
    std::ptr::null(),
]));

/// The module as nginx's functions want it: the tag of its shared zone.
pub(crate) fn module() -> *mut ngx_module_t {
    ngx_http_pincer_module.0.get()
}

/// The index of the module's contexts and configurations among the http modules.
pub(crate) fn context_index() -> usize {
    // SAFETY: nginx has set it when it read `http {}`, and nothing asks earlier.
    unsafe { (*module()).ctx_index }
}
