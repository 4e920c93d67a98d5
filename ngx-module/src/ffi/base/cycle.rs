//! What a cycle holds: its modules, and the variables that its configuration uses.

use super::text::{bytes, elements};
use nginx_sys::ngx_cycle_t;
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

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

/// Whether something in the configuration that was just read uses the variable `name`.
pub(crate) fn uses_variable(cf: *mut nginx_sys::ngx_conf_t, name: &str) -> bool {
    // SAFETY: nginx calls with a live `ngx_conf_t` inside `http {}`.
    let Some(core) = NgxHttpCoreModule::main_conf(unsafe { &*cf }) else { return false };
    // SAFETY: what uses a variable has put it into this array.
    let used: &[nginx_sys::ngx_http_variable_t] = unsafe { elements(&raw const core.variables) };
    // SAFETY: nginx keeps names as long as the configuration.
    used.iter().any(|variable| unsafe { bytes(variable.name) } == name.as_bytes())
}
