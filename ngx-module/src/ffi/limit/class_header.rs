//! The headers by which an upstream learns class and tenant: `X-Pincer-Class` and
//! `X-Pincer-Tenant`. Whatever a client sends under these names, in any spelling that some server
//! takes for them, is taken away; ours are put in their place.

use crate::ffi::base::headers::elements;
use crate::ffi::base::nginx;
use nginx_sys::{ngx_http_request_t, ngx_list_part_t, ngx_list_t, ngx_str_t, ngx_table_elt_t};

const CLASS: (&str, &str) = ("X-Pincer-Class", "x-pincer-class");
const TENANT: (&str, &str) = ("X-Pincer-Tenant", "x-pincer-tenant");

/// Room for as many headers in the first part of a list made anew.
const HEADERS: usize = 20;

/// Replaces what the request says of its class and tenant; an empty value leaves none. `false` when
/// out of memory.
///
/// # Safety
/// `r` is a live main request, before it is passed on; its headers are read, or none will be.
pub(crate) unsafe fn replace(r: *mut ngx_http_request_t, class: &[u8], tenant: &[u8]) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        strip(r)
            && (class.is_empty() || push(&raw mut (*r).headers_in.headers, r, CLASS, class))
            && (tenant.is_empty() || push(&raw mut (*r).headers_in.headers, r, TENANT, tenant))
    }
}

/// Whether some server may take `name` for one of ours: case does not matter, and CGI and WSGI make
/// `_` of `-`.
fn is_ours(name: &[u8]) -> bool {
    [CLASS.1, TENANT.1].iter().any(|ours| {
        ours.len() == name.len()
            && name.iter().zip(ours.bytes()).all(|(&byte, ours)| {
                byte.eq_ignore_ascii_case(&ours) || (ours == b'-' && !byte.is_ascii_alphanumeric())
            })
    })
}

/// Makes the list of headers anew without those of our names. What nginx has noted of others (host,
/// cookies) points at the old list, which stays.
///
/// # Safety
/// As [`replace`].
unsafe fn strip(r: *mut ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches; header lists are made of parts of table elements, and the new
    // one is made as nginx makes it.
    unsafe {
        let headers = &raw mut (*r).headers_in.headers;
        if !elements(headers).any(|header| is_ours(nginx::bytes((*header).key))) {
            return true;
        }
        let old = elements(headers).collect::<Vec<_>>();
        if !make_anew(headers, r) {
            return false;
        }
        for header in old.into_iter().filter(|header| !is_ours(nginx::bytes((**header).key))) {
            let copy = nginx_sys::ngx_list_push(headers).cast::<ngx_table_elt_t>();
            if copy.is_null() {
                return false;
            }
            std::ptr::copy_nonoverlapping(header, copy, 1);
        }
        true
    }
}

/// Makes a list of headers that has none, as nginx makes it. `false` when out of memory; nothing
/// has changed then.
///
/// # Safety
/// `headers` is the list of the live `r`, and nobody needs what is in it.
unsafe fn make_anew(headers: *mut ngx_list_t, r: *mut ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches; the pool answers null or memory for as many elements.
    unsafe {
        let part = nginx_sys::ngx_palloc((*r).pool, HEADERS * size_of::<ngx_table_elt_t>());
        if part.is_null() {
            return false;
        }
        (*headers).part = ngx_list_part_t { elts: part, nelts: 0, next: std::ptr::null_mut() };
        (*headers).last = &raw mut (*headers).part;
        (*headers).size = size_of::<ngx_table_elt_t>();
        (*headers).nalloc = HEADERS;
        (*headers).pool = (*r).pool;
        true
    }
}

/// Adds a header to a request, `value` copied into its pool.
///
/// # Safety
/// `list` is that of the live `r`.
unsafe fn push(
    list: *mut ngx_list_t,
    r: *mut ngx_http_request_t,
    name: (&'static str, &'static str),
    value: &[u8],
) -> bool {
    // SAFETY: as the caller vouches; an element of zeroes is a value, nginx never writes through
    // `key` and `lowcase_key`.
    unsafe {
        // nginx makes the list when it begins to read headers: not for HTTP/0.9, nor for what is no
        // request line and is served by `error_page`.
        if (*list).last.is_null() && !make_anew(list, r) {
            return false;
        }
        let Some(value) = nginx::pool_copy((*r).pool, &[value, b"\0"].concat()) else { return false };
        let header = nginx_sys::ngx_list_push(list).cast::<ngx_table_elt_t>();
        if header.is_null() {
            return false;
        }
        std::ptr::write_bytes(header, 0, 1);
        (*header).key = ngx_str_t { len: name.0.len(), data: name.0.as_ptr().cast_mut() };
        (*header).value = ngx_str_t { len: value.len - 1, ..value };
        (*header).lowcase_key = name.1.as_ptr().cast_mut();
        (*header).hash = nginx_sys::ngx_hash_key(name.1.as_ptr().cast_mut(), name.1.len());
        true
    }
}
