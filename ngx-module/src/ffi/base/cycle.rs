//! What a cycle holds: its modules, and nginx.conf outside of `http {}`.

use super::text::{bytes, elements};
use nginx_sys::{ngx_cycle_t, ngx_http_conf_ctx_t};
use std::ffi::c_void;

/// The module called `name`; null when nginx was built without it and has not loaded it.
///
/// # Safety
/// `cycle` is live and its modules are known.
pub(crate) unsafe fn module_named(cycle: *const ngx_cycle_t, name: &str) -> *mut nginx_sys::ngx_module_t {
    // SAFETY: the cycle's modules end with null, each has its name.
    unsafe {
        let mut module = (*cycle).modules;
        while !module.is_null() && !(*module).is_null() {
            let known = (**module).name;
            if !known.is_null() && std::ffi::CStr::from_ptr(known).to_bytes() == name.as_bytes() {
                return *module;
            }
            module = module.add(1);
        }
    }
    std::ptr::null_mut()
}

/// The `http {}` configuration in `cycle` of the http module `index`; null if there is no
/// `http {}`.
///
/// # Safety
/// `cycle` is live and its configuration has been read.
pub(super) unsafe fn main_conf_in(cycle: *const ngx_cycle_t, index: usize) -> *mut c_void {
    // SAFETY: `conf_ctx` has a slot for every module's index; `ngx_http_module` is nginx's own.
    unsafe {
        let context = *(*cycle).conf_ctx.add(nginx_sys::ngx_http_module.index);
        if context.is_null() {
            return std::ptr::null_mut();
        }
        let context = context.cast::<ngx_http_conf_ctx_t>();
        *(*context).main_conf.add(index)
    }
}

/// What stands outside of every block of nginx.conf: user, worker_processes.
///
/// # Safety
/// `cycle` is live and its configuration has been read.
pub(crate) unsafe fn core_conf<'a>(cycle: *const ngx_cycle_t) -> &'a nginx_sys::ngx_core_conf_t {
    // SAFETY: the core module's configuration exists in every cycle, as long as the cycle.
    unsafe { &*(*(*cycle).conf_ctx.add(nginx_sys::ngx_core_module.index)).cast() }
}

/// Whether something in the configuration that was just read uses the variable `name`.
pub(crate) fn uses_variable(cf: *mut nginx_sys::ngx_conf_t, name: &str) -> bool {
    // SAFETY: nginx calls with a live `ngx_conf_t` inside `http {}`, where the core module's main
    // configuration exists; what uses a variable has put it into this array.
    unsafe {
        let context = (*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        let core = *(*context).main_conf.add(nginx_sys::ngx_http_core_module.ctx_index);
        let variables = &raw const (*core.cast::<nginx_sys::ngx_http_core_main_conf_t>()).variables;
        let used: &[nginx_sys::ngx_http_variable_t] = elements(variables);
        used.iter().any(|variable| bytes(variable.name) == name.as_bytes())
    }
}
