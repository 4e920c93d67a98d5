//! Memory of nginx's pools, and records that end with them.

use super::guard::guard;
use nginx_sys::{ngx_pool_t, ngx_str_t};
use std::ffi::c_void;

/// Copies `source` into `pool`; `None` when out of memory.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn pool_copy(pool: *mut ngx_pool_t, source: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: `pool` is live; `ngx_pnalloc` answers null or `len` writable bytes.
    let data = unsafe { nginx_sys::ngx_pnalloc(pool, source.len().max(1)) }.cast::<u8>();
    if data.is_null() {
        return None;
    }
    // SAFETY: `data` has room for `source`, and fresh memory does not overlap it.
    unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), data, source.len()) };
    Some(ngx_str_t { len: source.len(), data })
}

/// Copies `text` into `pool` as an nginx string, and `bytes` beside it, aligned to a word; `None`
/// when out of memory.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn pool_pair(pool: *mut ngx_pool_t, text: &[u8], bytes: &[u8]) -> Option<(*mut ngx_str_t, *mut u8)> {
    // SAFETY: `pool` is live; `ngx_palloc` answers null or memory aligned to a word, with room for
    // the string and both contents.
    unsafe {
        let string = nginx_sys::ngx_palloc(pool, size_of::<ngx_str_t>() + bytes.len() + text.len()).cast::<ngx_str_t>();
        if string.is_null() {
            return None;
        }
        let copy = string.add(1).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        let data = copy.add(bytes.len());
        std::ptr::copy_nonoverlapping(text.as_ptr(), data, text.len());
        string.write(ngx_str_t { len: text.len(), data });
        Some((string, copy))
    }
}

/// Hands `value` to `pool`, which drops it when it is destroyed. Null when out of memory.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn pool_box<T>(pool: *mut ngx_pool_t, value: T) -> *mut T {
    unsafe extern "C" fn drop_box<T>(data: *mut c_void) {
        // SAFETY: nginx calls a cleanup once, with the data stored below: a pointer from
        // `Box::into_raw`.
        drop(unsafe { Box::from_raw(data.cast::<T>()) });
    }
    // SAFETY: `pool` is live; a size of 0 asks for the cleanup record only.
    let cleanup = unsafe { nginx_sys::ngx_pool_cleanup_add(pool, 0) };
    if cleanup.is_null() {
        return std::ptr::null_mut();
    }
    let boxed = Box::into_raw(Box::new(value));
    // SAFETY: `cleanup` is the live record just added.
    unsafe {
        (*cleanup).handler = Some(drop_box::<T>);
        (*cleanup).data = boxed.cast();
    }
    boxed
}

/// What lives in a pool and ends with it.
pub(crate) trait Record: Sized {
    /// For the log, should it panic.
    const PLACE: &'static str;

    /// The pool goes, and nobody uses the record any more.
    ///
    /// # Safety
    /// `record` was put into the pool by [`cleanup_add`], and this is called once.
    unsafe fn end(record: *mut Self);
}

/// The cleanup of records of one type, which it also marks: see [`cleanup_find`]. Never inlined, so
/// that it has one address.
#[inline(never)]
unsafe extern "C" fn ended<R: Record>(data: *mut c_void) {
    // SAFETY: nginx calls a cleanup once, with the record of `cleanup_add`, before the pool's
    // memory goes.
    guard(R::PLACE, (), || unsafe { R::end(data.cast()) });
}

/// Puts `record` into `pool`, with which it ends; `None` when out of memory.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn cleanup_add<R: Record>(pool: *mut ngx_pool_t, record: R) -> Option<*mut R> {
    const { assert!(align_of::<R>() <= nginx_sys::NGX_ALIGNMENT) };
    // SAFETY: `pool` is live; the pool answers null or memory aligned to a word, which is written
    // before anyone reads it.
    unsafe {
        let cleanup = nginx_sys::ngx_pool_cleanup_add(pool, size_of::<R>());
        if cleanup.is_null() {
            return None;
        }
        let data = (*cleanup).data.cast::<R>();
        data.write(record);
        (*cleanup).handler = Some(ended::<R>);
        Some(data)
    }
}

/// The record in `pool` that [`cleanup_add`] put there and that `is_it`: how to find it again when
/// nginx has zeroed the module's context.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn cleanup_find<R: Record>(
    pool: *const ngx_pool_t,
    is_it: impl Fn(*const R) -> bool,
) -> Option<*mut R> {
    let ours: unsafe extern "C" fn(*mut c_void) = ended::<R>;
    // SAFETY: the pool's cleanups are a list that only grows while the pool lives.
    unsafe {
        let mut cleanup = (*pool).cleanup;
        while !cleanup.is_null() {
            let record = (*cleanup).data.cast::<R>();
            if (*cleanup).handler.is_some_and(|other| std::ptr::fn_addr_eq(other, ours)) && is_it(record) {
                return Some(record);
            }
            cleanup = (*cleanup).next;
        }
    }
    None
}
