//! Headers of requests and responses.

use super::pool::pool_copy;
use super::text::bytes;
use nginx_sys::{ngx_http_request_t, ngx_list_part_t, ngx_list_t, ngx_str_t, ngx_table_elt_t};
use std::borrow::Cow;

/// The values of the request's headers `names` (lower case), each as [`header_in`] answers it, in
/// one walk.
///
/// # Safety
/// `request` is live; the bytes live as long as it.
pub(crate) unsafe fn headers_in<'a, const N: usize>(
    request: *const ngx_http_request_t,
    names: [&[u8]; N],
    between: &[u8],
) -> [Cow<'a, [u8]>; N] {
    let mut found = [const { None::<Cow<'a, [u8]>> }; N];
    // SAFETY: as the caller vouches; header lists are made of parts of table elements.
    unsafe {
        let mut part: *const nginx_sys::ngx_list_part_t = &raw const (*request).headers_in.headers.part;
        while !part.is_null() {
            for index in 0..(*part).nelts {
                let header = &*(*part).elts.cast::<nginx_sys::ngx_table_elt_t>().add(index);
                let key = bytes(header.key);
                let named = names.iter().zip(&mut found).find(|(name, _)| key.eq_ignore_ascii_case(name));
                let Some((_, found)) = named else { continue };
                match found {
                    None => *found = Some(Cow::Borrowed(bytes(header.value))),
                    Some(values) => {
                        let values = values.to_mut();
                        values.extend_from_slice(between);
                        values.extend_from_slice(bytes(header.value));
                    }
                }
            }
            part = (*part).next;
        }
    }
    found.map(Option::unwrap_or_default)
}

/// The values of the request's header `name` (lower case); those of several lines with `between`
/// between them: a comma for who reads them as one, a line feed, which no header has in it, for who
/// has to tell them apart.
///
/// # Safety
/// `request` is live; the bytes live as long as it.
pub(crate) unsafe fn header_in<'a>(request: *const ngx_http_request_t, name: &[u8], between: &[u8]) -> Cow<'a, [u8]> {
    // SAFETY: as the caller vouches.
    let [values] = unsafe { headers_in(request, [name], between) };
    values
}

/// Adds a header to the response to `request`; none when out of memory.
///
/// # Safety
/// `request` is live and its header not sent; the text of `name` lives as long as it.
pub(crate) unsafe fn add_header_out(request: *mut ngx_http_request_t, name: ngx_str_t, value: &str) {
    // SAFETY: as the caller vouches; an element of zeroes is a value, and nginx does not write
    // through `key`.
    unsafe {
        let Some(value) = pool_copy((*request).pool, value.as_bytes()) else { return };
        let headers = &raw mut (*request).headers_out.headers;
        let header = nginx_sys::ngx_list_push(headers).cast::<nginx_sys::ngx_table_elt_t>();
        if header.is_null() {
            return;
        }
        std::ptr::write_bytes(header, 0, 1);
        (*header).hash = 1;
        (*header).key = name;
        (*header).value = value;
    }
}

/// Takes the headers called `name` out of the response, in the way of nginx: an element without a
/// hash is not sent.
///
/// # Safety
/// `r` is live and its header not sent.
pub(crate) unsafe fn remove_header_out(r: *mut ngx_http_request_t, name: ngx_str_t) {
    // SAFETY: as the caller vouches: the response's headers are a list of table elements, which
    // does not grow here.
    unsafe {
        for header in elements(&raw const (*r).headers_out.headers) {
            if bytes((*header).key).eq_ignore_ascii_case(bytes(name)) {
                (*header.cast_mut()).hash = 0;
            }
        }
    }
}

/// The elements of a list of headers.
///
/// # Safety
/// `list` is live and does not change before the iterator ends, except by a `collect` that has
/// ended.
pub(crate) unsafe fn elements(list: *const ngx_list_t) -> impl Iterator<Item = *const ngx_table_elt_t> {
    // SAFETY: as the caller vouches: each part has `nelts` elements.
    let mut part: *const ngx_list_part_t = unsafe { &raw const (*list).part };
    let mut index = 0;
    std::iter::from_fn(move || {
        // SAFETY: as above; `next` is null behind the last part.
        unsafe {
            while !part.is_null() && index >= (*part).nelts {
                part = (*part).next;
                index = 0;
            }
            if part.is_null() {
                return None;
            }
            index += 1;
            Some((*part).elts.cast::<ngx_table_elt_t>().add(index - 1).cast_const())
        }
    })
}
