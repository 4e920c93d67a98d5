//! Responses that the module makes itself.

use super::bits;
use nginx_sys::{ngx_pool_t, ngx_str_t};

/// A buffer over text that lives in `pool` and is the last of a response; null when out of memory.
///
/// # Safety
/// `pool` is live, and `text` lives in it.
pub(crate) unsafe fn memory_buffer(pool: *mut ngx_pool_t, text: ngx_str_t) -> *mut nginx_sys::ngx_buf_t {
    // SAFETY: as the caller vouches; zeroes are a value of a buffer.
    unsafe {
        let buffer = nginx_sys::ngx_pcalloc(pool, size_of::<nginx_sys::ngx_buf_t>()).cast::<nginx_sys::ngx_buf_t>();
        if !buffer.is_null() {
            (*buffer).pos = text.data;
            (*buffer).last = text.data.add(text.len);
            bits::buf::set_memory(buffer, 1);
            bits::buf::set_last_buf(buffer, 1);
            bits::buf::set_last_in_chain(buffer, 1);
        }
        buffer
    }
}
