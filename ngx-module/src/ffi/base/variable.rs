//! Variables: their registration, and the values that nginx gets.

use super::bits;
use super::guard::guard;
use super::pool::pool_copy;
use super::status::{ERROR, OK};
use nginx_sys::{
    NGX_HTTP_VAR_NOCACHEABLE, ngx_conf_t, ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, ngx_str_t,
    ngx_uint_t,
};

/// Fills a variable's value for a request.
///
/// # Safety
/// The request is live, and the value is writable.
pub(crate) type Getter = unsafe fn(*mut ngx_http_request_t, *mut ngx_http_variable_value_t) -> ngx_int_t;

/// A variable.
pub(crate) struct Variable {
    name: &'static str,
    getter: Getter,
}

impl Variable {
    pub(crate) const fn new(name: &'static str, getter: Getter) -> Self {
        Self { name, getter }
    }
}

/// Registers `variable`; `false` when out of memory.
pub(super) fn add(cf: *mut ngx_conf_t, variable: &'static Variable) -> bool {
    let mut name = ngx_str_t { len: variable.name.len(), data: variable.name.as_ptr().cast_mut() };
    // SAFETY: `cf` is live; nginx copies the name (in lower case) and answers null or the variable.
    unsafe {
        let added = nginx_sys::ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_NOCACHEABLE as ngx_uint_t);
        if added.is_null() {
            return false;
        }
        (*added).get_handler = Some(get);
        (*added).data = std::ptr::from_ref(variable).expose_provenance();
    }
    true
}

unsafe extern "C" fn get(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, data: usize) -> ngx_int_t {
    guard("variable", ERROR, || {
        // SAFETY: nginx passes a live request, a value to fill, and what `add` stored.
        unsafe { ((*std::ptr::with_exposed_provenance::<Variable>(data)).getter)(r, value) }
    })
}

/// Gives nginx `text`, copied into the request's pool; empty text is "not found".
///
/// # Safety
/// `r` is live, `value` is writable.
pub(crate) unsafe fn fill(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t, text: &str) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        if text.is_empty() {
            bits::value::set_not_found(value, 1);
            return OK;
        }
        fill_bytes(r, value, text.as_bytes())
    }
}

/// Gives nginx a value, copied into the request's pool. The variables are registered as not
/// cacheable, so nginx asks again at each use.
///
/// # Safety
/// As [`fill`].
pub(crate) unsafe fn fill_bytes(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    text: &[u8],
) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        let Some(copy) = pool_copy((*r).pool, text) else { return ERROR };
        bits::value::fill(value, copy.data, copy.len);
    }
    OK
}
