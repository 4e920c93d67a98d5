//! The chain that is kept of a response: what of it goes on next, where its buffers are cut, and
//! what was cut and is sent.
//!
//! Buffers with a flush that are small are never cut. A buffer that is cut goes on itself as its
//! last piece, so whoever waits for it to be used up waits for all of it. Reads sizes as nginx's
//! `ngx_buf_size` does. Cost: one step for each buffer. Bound: pieces that are sent are used again.

use super::pacing::Pacing;
use crate::ffi::base::bits;
use crate::ffi::limit::record::Record;
use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_http_request_t, off_t};
use std::ffi::c_void;

/// Buffers that are to be flushed are cut only above this, bytes.
const WHOLE_BYTES_MAX: u64 = 4 << 10;

/// Pieces are not smaller than this while more is there, bytes.
const PIECE_BYTES_MIN: u64 = 1 << 10;

/// Takes buffers worth up to `bytes` from what is kept, the last one cut if it can be. With nothing
/// granted only what has no size goes. `None` without memory.
///
/// # Safety
/// `r` is a live main request, `record` its record.
pub(super) unsafe fn take(
    r: *mut ngx_http_request_t,
    record: *mut Record,
    bytes: u64,
) -> Option<(*mut ngx_chain_t, u64)> {
    let (mut left, mut first) = (bytes, std::ptr::null_mut::<ngx_chain_t>());
    let mut end = &raw mut first;
    // SAFETY: as the caller vouches; the kept links are our own, their buffers are live until all
    // of them is consumed.
    unsafe {
        let mut link = (*record).pacing.kept;
        while !link.is_null() {
            let size = size_of_buffer((*link).buf);
            if size > left {
                if left > 0 && !goes_whole((*link).buf) {
                    *end = cut(r, record, (*link).buf, left)?;
                    end = &raw mut (**end).next;
                    left = 0;
                }
                break;
            }
            *end = link;
            end = &raw mut (*link).next;
            link = (*link).next;
            left -= size;
        }
        *end = std::ptr::null_mut();
        (*record).pacing.kept = link;
    }
    Some((first, bytes - left))
}

/// The bytes of a chain, and how many of them go at once: a whole buffer, or a piece of some size.
///
/// # Safety
/// `chain` is live.
pub(super) unsafe fn wanted(mut chain: *const ngx_chain_t) -> (u64, u64) {
    // SAFETY: as the caller vouches.
    unsafe {
        let (all, mut least) = (size_of_chain(chain), 0);
        while !chain.is_null() && least < PIECE_BYTES_MIN {
            let size = size_of_buffer((*chain).buf);
            if size > 0 && goes_whole((*chain).buf) {
                return (all, if least == 0 { size } else { least });
            }
            least += size;
            chain = (*chain).next;
        }
        (all, least.min(PIECE_BYTES_MIN))
    }
}

/// Takes back the links that the other filters have seen, which keep none, and the pieces that have
/// been sent.
///
/// # Safety
/// `r` is a live main request, `record` its record; `link` is a chain that [`take`] made.
pub(super) unsafe fn reclaim(r: *mut ngx_http_request_t, record: *mut Record, mut link: *mut ngx_chain_t) {
    // SAFETY: as the caller vouches; a piece's buffer is ours.
    unsafe {
        let mut end = &raw mut (*record).pacing.pieces;
        while !(*end).is_null() {
            end = &raw mut (**end).next;
        }
        while !link.is_null() {
            let next = (*link).next;
            if (*(*link).buf).tag == tag() {
                (*link).next = std::ptr::null_mut();
                *end = link;
                end = &raw mut (*link).next;
            } else {
                (*link).next = (*(*r).pool).chain;
                (*(*r).pool).chain = link;
            }
            link = next;
        }
        reuse(&mut (*record).pacing);
    }
}

/// Lets the pieces that have been sent be used again.
///
/// # Safety
/// The request of `pacing` is live.
unsafe fn reuse(pacing: &mut Pacing) {
    // SAFETY: as the caller vouches; a piece is empty only when it has been sent.
    unsafe {
        while !pacing.pieces.is_null() && size_of_buffer((*pacing.pieces).buf) == 0 {
            let sent = pacing.pieces;
            pacing.pieces = (*sent).next;
            (*sent).next = pacing.free;
            pacing.free = sent;
        }
    }
}

/// Its address tells our pieces from other buffers.
static TAG: u8 = 0;

fn tag() -> *mut c_void {
    (&raw const TAG).cast_mut().cast()
}

/// Whether a buffer is not cut: a flush says that it belongs together and it is small, or it is of
/// a kind that we do not know.
///
/// # Safety
/// `buffer` is live.
unsafe fn goes_whole(buffer: *const ngx_buf_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        let in_file = bits::buf::in_file(buffer) != 0;
        // What the copy filter has read may be in memory and in the file at once.
        let differs = in_file && is_in_memory(buffer) && bytes_in_file(buffer) != bytes_in_memory(buffer);
        let together = bits::buf::flush(buffer) != 0 && size_of_buffer(buffer) <= WHOLE_BYTES_MAX;
        together || differs || !(in_file || is_in_memory(buffer))
    }
}

/// The first `bytes` of a buffer as a link of its own. The buffer itself goes on last, so whoever
/// waits for it to be used up waits for all of it.
///
/// # Safety
/// `r` is live, `record` its record, `buffer` is live, longer than `bytes` and may be cut.
unsafe fn cut(
    r: *mut ngx_http_request_t,
    record: *mut Record,
    buffer: *mut ngx_buf_t,
    bytes: u64,
) -> Option<*mut ngx_chain_t> {
    // SAFETY: as the caller vouches; the piece is apart from the buffer.
    unsafe {
        let link = link(r, record)?;
        let piece = (*link).buf;
        std::ptr::copy_nonoverlapping(buffer, piece, 1);
        (*piece).tag = tag();
        (*piece).shadow = std::ptr::null_mut();
        bits::buf::set_last_shadow(piece, 0);
        bits::buf::set_last_buf(piece, 0);
        bits::buf::set_last_in_chain(piece, 0);
        if bits::buf::in_file(buffer) != 0 {
            (*piece).file_last = (*piece).file_pos + off_t::try_from(bytes).ok()?;
            (*buffer).file_pos = (*piece).file_last;
        }
        if is_in_memory(buffer) {
            (*piece).last = (*piece).pos.add(usize::try_from(bytes).ok()?);
            (*buffer).pos = (*piece).last;
        }
        Some(link)
    }
}

/// A link with a buffer for a piece, one that is used up if there is any; `None` when memory is
/// out.
///
/// # Safety
/// `r` is live, `record` its record.
unsafe fn link(r: *mut ngx_http_request_t, record: *mut Record) -> Option<*mut ngx_chain_t> {
    // SAFETY: as the caller vouches; what is used up was made here, in this request's pool.
    unsafe {
        let mut link = (*record).pacing.free;
        if link.is_null() {
            link = nginx_sys::ngx_alloc_chain_link((*r).pool);
            let piece = nginx_sys::ngx_palloc((*r).pool, size_of::<ngx_buf_t>()).cast::<ngx_buf_t>();
            if link.is_null() || piece.is_null() {
                return None;
            }
            (*link).buf = piece;
        } else {
            (*record).pacing.free = (*link).next;
        }
        (*link).next = std::ptr::null_mut();
        Some(link)
    }
}

/// # Safety
/// `buffer` is live.
unsafe fn is_in_memory(buffer: *const ngx_buf_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { bits::buf::in_memory(buffer) != 0 }
}

/// # Safety
/// `buffer` is live and in memory.
unsafe fn bytes_in_memory(buffer: *const ngx_buf_t) -> u64 {
    // SAFETY: as the caller vouches.
    u64::try_from(unsafe { (*buffer).last.offset_from((*buffer).pos) }).unwrap_or(0)
}

/// # Safety
/// `buffer` is live.
unsafe fn bytes_in_file(buffer: *const ngx_buf_t) -> u64 {
    // SAFETY: as the caller vouches.
    u64::try_from(unsafe { (*buffer).file_last - (*buffer).file_pos }).unwrap_or(0)
}

/// Bytes that a buffer still has to send, as nginx's `ngx_buf_size` counts them.
///
/// # Safety
/// `buffer` is live.
unsafe fn size_of_buffer(buffer: *const ngx_buf_t) -> u64 {
    // SAFETY: as the caller vouches.
    unsafe { if is_in_memory(buffer) { bytes_in_memory(buffer) } else { bytes_in_file(buffer) } }
}

/// # Safety
/// `chain` is live.
pub(super) unsafe fn size_of_chain(mut chain: *const ngx_chain_t) -> u64 {
    let mut bytes = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while !chain.is_null() {
            bytes += size_of_buffer((*chain).buf);
            chain = (*chain).next;
        }
    }
    bytes
}
