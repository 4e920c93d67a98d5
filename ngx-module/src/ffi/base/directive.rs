//! Directives: their entries in nginx's tables, and what their setters ask nginx.

use super::feature::{Feature, being_read};
use super::guard::guard;
use super::log;
use super::pool::pool_copy;
use super::status::OK;
use super::text::{bytes, elements};
use crate::conf::{ConfError, Problem};
use nginx_sys::{
    NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET, NGX_HTTP_SRV_CONF,
    NGX_HTTP_SRV_CONF_OFFSET, NGX_HTTP_UPS_CONF, ngx_command_t, ngx_conf_t, ngx_str_t, ngx_uint_t,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

/// Hands a directive's arguments to `crate::conf` and stores what comes back in the configuration
/// of its level.
pub(crate) type Setter<T> = fn(*mut ngx_conf_t, &mut T) -> Result<(), ConfError>;

/// `http {}`, servers and locations.
const ANYWHERE: u32 = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

/// A directive of `http {}` alone.
pub(crate) const fn in_http<F: Feature>(
    name: &'static CStr,
    arguments: u32,
    setter: Setter<F::MainConf>,
) -> ngx_command_t {
    entry(name, NGX_HTTP_MAIN_CONF | arguments, NGX_HTTP_MAIN_CONF_OFFSET, setter)
}

/// A directive of an `upstream {}`.
pub(crate) const fn in_upstream<F: Feature>(
    name: &'static CStr,
    arguments: u32,
    setter: Setter<F::ServerConf>,
) -> ngx_command_t {
    entry(name, NGX_HTTP_UPS_CONF | arguments, NGX_HTTP_SRV_CONF_OFFSET, setter)
}

/// A directive of a location alone.
pub(crate) const fn in_location<F: Feature>(
    name: &'static CStr,
    arguments: u32,
    setter: Setter<F::LocationConf>,
) -> ngx_command_t {
    entry(name, NGX_HTTP_LOC_CONF | arguments, NGX_HTTP_LOC_CONF_OFFSET, setter)
}

/// A directive of `http {}`, servers and locations.
pub(crate) const fn anywhere<F: Feature>(
    name: &'static CStr,
    arguments: u32,
    setter: Setter<F::LocationConf>,
) -> ngx_command_t {
    entry(name, ANYWHERE | arguments, NGX_HTTP_LOC_CONF_OFFSET, setter)
}

/// nginx compares names up to their NUL, so they are C strings. It leaves `post` to the setter.
const fn entry<T>(name: &'static CStr, type_: u32, conf: usize, setter: Setter<T>) -> ngx_command_t {
    ngx_command_t {
        name: ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast::<u8>().cast_mut() },
        type_: type_ as ngx_uint_t,
        set: Some(set::<T>),
        conf,
        offset: 0,
        post: setter as *mut c_void,
    }
}

/// Runs a setter; an error is reported with the place that nginx knows.
unsafe extern "C" fn set<T>(cf: *mut ngx_conf_t, command: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    // SAFETY: nginx passes the entry that `entry::<T>` made, whose name is static.
    let (setter, name) =
        unsafe { (std::mem::transmute::<*mut c_void, Setter<T>>((*command).post), bytes((*command).name)) };
    let panicked = ConfError::new(std::str::from_utf8(name).unwrap_or_default(), Problem::Panicked);
    let result = guard("directive", Err(panicked), || {
        // SAFETY: nginx passes the configuration of the directive's level, which `create::<T>`
        // made; it reads the configuration on one thread and holds no reference into it.
        setter(cf, unsafe { being_read(conf) })
    });
    match result {
        Ok(()) => NGX_CONF_OK,
        Err(error) => {
            log::conf(cf, log::NGX_LOG_EMERG, &error.to_string());
            NGX_CONF_ERROR
        }
    }
}

/// The directive's arguments, without its name.
pub(crate) fn arguments<'a>(cf: *const ngx_conf_t) -> Vec<&'a [u8]> {
    // SAFETY: during a setter `args` holds the directive's words, which live in the configuration's
    // pool.
    let words: &[ngx_str_t] = unsafe { elements((*cf).args) };
    // SAFETY: as above.
    words.iter().skip(1).map(|word| unsafe { bytes(*word) }).collect()
}

/// `in FILE:LINE`, for messages that come later.
pub(crate) fn place(cf: *const ngx_conf_t) -> String {
    // SAFETY: while a directive of a file is read, `conf_file` is that file.
    unsafe {
        let file = (*cf).conf_file;
        if file.is_null() {
            return String::new();
        }
        let name = bytes((*file).file.name);
        format!("in {}:{}", String::from_utf8_lossy(name), (*file).line)
    }
}

/// Stores what a directive says that may stand once.
pub(crate) fn once<T>(slot: &mut Option<T>, value: T, directive: &'static str) -> Result<(), ConfError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConfError::new(directive, Problem::Duplicate)),
    }
}

/// A copy of `text` as nginx's own words of a configuration are: with a NUL behind the end, which
/// its parsers look at. `None` when out of memory.
fn text_of_conf(cf: *const ngx_conf_t, text: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: `cf` is live, and so is its pool.
    let copy = unsafe { pool_copy((*cf).pool, &[text, b"\0"].concat()) }?;
    Some(ngx_str_t { len: text.len(), ..copy })
}

/// A path relative to nginx's configuration (`conf_prefix`) or its prefix, made absolute.
pub(crate) fn full_path(
    cf: *mut ngx_conf_t,
    directive: &'static str,
    argument: &[u8],
    conf_prefix: bool,
) -> Result<PathBuf, ConfError> {
    use std::os::unix::ffi::OsStrExt;
    let out_of_memory = || ConfError::new(directive, Problem::Memory);
    let mut name = text_of_conf(cf, argument).ok_or_else(out_of_memory)?;
    // SAFETY: `cf` and its cycle are live; the name has its NUL.
    let name = unsafe {
        if nginx_sys::ngx_conf_full_name((*cf).cycle, &raw mut name, ngx_uint_t::from(conf_prefix)) != OK {
            return Err(out_of_memory());
        }
        bytes(name)
    };
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// Compiles text with variables.
pub(crate) fn compile(
    cf: *mut ngx_conf_t,
    directive: &'static str,
    key: &'static str,
    source: &str,
) -> Result<&'static nginx_sys::ngx_http_complex_value_t, ConfError> {
    let out_of_memory = || ConfError::new(directive, Problem::Memory);
    let mut value = text_of_conf(cf, source.as_bytes()).ok_or_else(out_of_memory)?;
    // SAFETY: `cf` is live; the value and the copied source live in the configuration's pool, as
    // long as the configuration.
    unsafe {
        let compiled = nginx_sys::ngx_pcalloc((*cf).pool, size_of::<nginx_sys::ngx_http_complex_value_t>())
            .cast::<nginx_sys::ngx_http_complex_value_t>();
        if compiled.is_null() {
            return Err(out_of_memory());
        }
        let mut compile: nginx_sys::ngx_http_compile_complex_value_t = std::mem::zeroed();
        compile.cf = cf;
        compile.value = &raw mut value;
        compile.complex_value = compiled;
        if nginx_sys::ngx_http_compile_complex_value(&raw mut compile) != OK {
            return Err(ConfError::invalid(directive, key, source, "a known variable"));
        }
        Ok(&*compiled)
    }
}
