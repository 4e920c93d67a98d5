//! What nginx keeps text and arrays in, as slices.

use super::bits;
use nginx_sys::{ngx_array_t, ngx_str_t};
use ngx::core::NgxStr;

/// The bytes of an nginx string.
///
/// # Safety
/// `string` is null-free or empty, and what it points at outlives `'a`.
pub(crate) unsafe fn bytes<'a>(string: ngx_str_t) -> &'a [u8] {
    if string.data.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for `len` readable bytes at `data` for `'a`.
    unsafe { NgxStr::from_ngx_str(string) }.as_bytes()
}

/// The elements of an nginx array.
///
/// # Safety
/// `array` is null or a live array whose elements are `T`, unchanged during `'a`.
pub(crate) unsafe fn elements<'a, T>(array: *const ngx_array_t) -> &'a [T] {
    if array.is_null() {
        return &[];
    }
    // SAFETY: not null, so a live array as the caller vouches.
    let (elts, nelts) = unsafe { ((*array).elts, (*array).nelts) };
    if nelts == 0 || elts.is_null() {
        return &[];
    }
    // SAFETY: `elts` holds `nelts` elements of `T`, as the caller vouches.
    unsafe { std::slice::from_raw_parts(elts.cast(), nelts) }
}

/// What a buffer holds in memory; `None` if it holds nothing there.
///
/// # Safety
/// `buffer` is live and unchanged during `'a`.
pub(crate) unsafe fn buffered<'a>(buffer: *const nginx_sys::ngx_buf_t) -> Option<&'a [u8]> {
    // SAFETY: as the caller vouches; the flags say whether `pos` and `last` point at memory.
    unsafe {
        let in_memory = bits::buf::in_memory(buffer) != 0;
        let len =
            usize::try_from((*buffer).last.offset_from((*buffer).pos)).ok().filter(|&len| in_memory && len > 0)?;
        Some(std::slice::from_raw_parts((*buffer).pos, len))
    }
}
