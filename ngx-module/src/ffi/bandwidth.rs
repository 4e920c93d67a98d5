//! Paces the answers of a class with a bandwidth: a body filter that lets through what [`Zone::bandwidth_grant`] gives and keeps the rest.
//!
//! Buffers go on whole, so a stream keeps its chunks; only what lies in a file or in memory that nobody reuses is cut. While something is kept the connection's
//! write event is `delayed`, as with nginx's `limit_rate`, and a timer of our own looks again when the grant says so: nginx's timer on that event is its
//! own to delete. Cost without a bandwidth: one look at the record. Bound: what the upstream's buffers hold.

use super::limits::{self, Record};
use super::{LoopStatic, clock, nginx};
use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_event_t, ngx_http_output_body_filter_pt, ngx_http_request_t, ngx_int_t, ngx_msec_t,
    off_t,
};
use pincer_core::time::MILLISECOND_NS;
use std::cell::Cell;

/// In `r->buffered`: we keep something. nginx's image filter uses the same bit, on the connection.
const BUFFERED: u32 = 0x08;

/// Buffers above this are cut where they can be, bytes.
const PIECE_BYTES: off_t = 16 << 10;

/// The filter that stands after ours. Set by the master before it forks.
static NEXT: LoopStatic<Cell<ngx_http_output_body_filter_pt>> = LoopStatic::new(Cell::new(None));

/// What is kept of an answer; in the request's record, which does not move.
pub(crate) struct Pacing {
    kept: *mut ngx_chain_t,
    timer: ngx_event_t,
}

impl Default for Pacing {
    fn default() -> Self {
        // SAFETY: an event of zeroes is one that is not in use.
        Self { kept: std::ptr::null_mut(), timer: unsafe { std::mem::zeroed() } }
    }
}

/// Stops the timer, at the request's end.
///
/// # Safety
/// `pacing` lies where it lay when the timer was armed.
pub(crate) unsafe fn stop(pacing: *mut Pacing) {
    // SAFETY: as the caller vouches.
    unsafe { nginx::cancel(&raw mut (*pacing).timer) };
}

/// Puts the body filter in front of all others.
pub(crate) fn install() {
    // SAFETY: configuration time, one thread.
    unsafe {
        NEXT.set(nginx_sys::ngx_http_top_body_filter);
        nginx_sys::ngx_http_top_body_filter = Some(body_filter);
    }
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request; what a subrequest brings goes out with its main request's.
    let record = super::guard("bandwidth filter", None, || unsafe {
        if std::ptr::eq((*r).main, r) { limits::find(r).filter(|record| !(**record).holds.is_empty()) } else { None }
    });
    match record {
        // SAFETY: the record is the live request's.
        Some(record) => super::guard("bandwidth filter", nginx::ERROR, || unsafe { pace(r, record, chain) }),
        // SAFETY: as nginx called us.
        None => unsafe { next(r, chain) },
    }
}

/// # Safety
/// As nginx calls a body filter.
unsafe fn next(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    match NEXT.get() {
        // SAFETY: the filter that nginx had installed before ours.
        Some(next) => unsafe { next(r, chain) },
        None => nginx::OK,
    }
}

/// Sends what may be sent of what was kept and what came.
///
/// # Safety
/// `r` is a live main request, `record` its record, `chain` live.
unsafe fn pace(r: *mut ngx_http_request_t, record: *mut Record, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: as the caller vouches; no reference into the record is alive while other filters run.
    unsafe {
        if (*record).pacing.kept.is_null() {
            let bytes = size_of_chain(chain);
            let grant = grant(&mut *record, bytes);
            if grant.0 >= bytes {
                sent(&mut *record, bytes);
                return next(r, chain);
            }
        }
        if nginx_sys::ngx_chain_add_copy((*r).pool, &raw mut (*record).pacing.kept, chain) != nginx::OK {
            return nginx::ERROR;
        }
        loop {
            let (bytes, retry_ns) = grant(&mut *record, size_of_chain((*record).pacing.kept));
            let (out, taken) = take(r, record, bytes);
            if out.is_null() {
                // Nothing but waiting is left; without a time to wait something of ours is wrong, and a short one is as good.
                return wait(r, record, retry_ns.max(MILLISECOND_NS));
            }
            sent(&mut *record, taken);
            let answer = next(r, out);
            if answer == nginx::ERROR {
                return answer;
            }
            if (*record).pacing.kept.is_null() {
                (*r).set_buffered((*r).buffered() & !BUFFERED);
                return answer;
            }
        }
    }
}

/// What all limits let through of `wanted` bytes, and when to ask again if that is none.
fn grant(record: &mut Record, wanted: u64) -> (u64, u64) {
    let now = clock::now();
    let mut least = (wanted, 0);
    let (zone, Some(worker)) = (record.zone, record.worker) else { return least };
    for (held, flow) in record.holds.iter_mut().zip(&mut record.flows) {
        let grant = zone.bandwidth_grant(worker, held, flow, wanted, now);
        least = (least.0.min(grant.bytes), least.1.max(grant.retry_after_ns));
    }
    least
}

fn sent(record: &mut Record, bytes: u64) {
    let zone = record.zone;
    for (held, flow) in record.holds.iter().zip(&mut record.flows) {
        zone.bandwidth_sent(held, flow, bytes);
    }
}

/// Takes buffers worth about `bytes` from what is kept: whole ones, the last of which may be more than was left, unless it can be cut. With nothing granted only
/// what has no size goes.
///
/// # Safety
/// As [`pace`].
unsafe fn take(r: *mut ngx_http_request_t, record: *mut Record, bytes: u64) -> (*mut ngx_chain_t, u64) {
    let (mut taken, mut first) = (0, std::ptr::null_mut::<ngx_chain_t>());
    let mut end = &raw mut first;
    // SAFETY: as the caller vouches; the kept links are our own, their buffers are live until all of them is consumed.
    unsafe {
        let mut link = (*record).pacing.kept;
        while !link.is_null() {
            let size = size_of_buffer((*link).buf);
            if size > 0 && taken >= bytes {
                break;
            }
            let left = off_t::try_from(bytes.saturating_sub(taken)).unwrap_or(off_t::MAX).max(PIECE_BYTES);
            if size > left
                && let Some(piece) = cut(r, (*link).buf, left)
            {
                *end = piece;
                end = &raw mut (*piece).next;
                taken += u64::try_from(left).unwrap_or(0);
                continue;
            }
            *end = link;
            end = &raw mut (*link).next;
            link = (*link).next;
            taken += u64::try_from(size).unwrap_or(0);
        }
        *end = std::ptr::null_mut();
        (*record).pacing.kept = link;
    }
    (first, taken)
}

/// The first `bytes` of a buffer as a link of its own, if nobody else counts on the buffer being used up as a whole.
///
/// # Safety
/// `r` is live, `buffer` is live and longer than `bytes`.
unsafe fn cut(r: *mut ngx_http_request_t, buffer: *mut ngx_buf_t, bytes: off_t) -> Option<*mut ngx_chain_t> {
    // SAFETY: as the caller vouches; link and buffer are made in the request's pool.
    unsafe {
        let in_memory = (*buffer).temporary() != 0 || (*buffer).memory() != 0 || (*buffer).mmap() != 0;
        let in_file = (*buffer).in_file() != 0;
        if in_memory == in_file || (*buffer).temporary() != 0 || (*buffer).recycled() != 0 {
            return None;
        }
        let link = nginx_sys::ngx_alloc_chain_link((*r).pool);
        let piece = nginx_sys::ngx_palloc((*r).pool, size_of::<ngx_buf_t>()).cast::<ngx_buf_t>();
        if link.is_null() || piece.is_null() {
            return None;
        }
        std::ptr::copy_nonoverlapping(buffer, piece, 1);
        (*piece).set_flush(0);
        (*piece).set_last_buf(0);
        (*piece).set_last_in_chain(0);
        if in_file {
            (*piece).file_last = (*piece).file_pos + bytes;
            (*buffer).file_pos = (*piece).file_last;
        } else {
            (*piece).last = (*piece).pos.add(usize::try_from(bytes).ok()?);
            (*buffer).pos = (*piece).last;
        }
        (*link).buf = piece;
        (*link).next = std::ptr::null_mut();
        Some(link)
    }
}

/// Bytes that a buffer still has to send, as nginx's `ngx_buf_size` counts them.
///
/// # Safety
/// `buffer` is live.
unsafe fn size_of_buffer(buffer: *const ngx_buf_t) -> off_t {
    // SAFETY: as the caller vouches.
    unsafe {
        if (*buffer).temporary() != 0 || (*buffer).memory() != 0 || (*buffer).mmap() != 0 {
            (*buffer).last.offset_from((*buffer).pos) as off_t
        } else {
            (*buffer).file_last - (*buffer).file_pos
        }
    }
}

/// # Safety
/// `chain` is live.
unsafe fn size_of_chain(mut chain: *const ngx_chain_t) -> u64 {
    let mut bytes = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while !chain.is_null() {
            bytes += u64::try_from(size_of_buffer((*chain).buf)).unwrap_or(0);
            chain = (*chain).next;
        }
    }
    bytes
}

/// Lets the answer rest: nobody writes until the timer fires.
///
/// # Safety
/// As [`pace`].
unsafe fn wait(r: *mut ngx_http_request_t, record: *mut Record, wait_ns: u64) -> ngx_int_t {
    // SAFETY: as the caller vouches; the event lies in the record, which stays where it is until the pool's end, where it is cancelled.
    unsafe {
        (*r).set_buffered((*r).buffered() | BUFFERED);
        let connection = (*r).connection;
        (*(*connection).write).set_delayed(1);
        let timer = &raw mut (*record).pacing.timer;
        (*timer).data = r.cast();
        (*timer).handler = Some(on_timer);
        (*timer).log = (*connection).log;
        nginx::arm(timer, ngx_msec_t::try_from(wait_ns.div_ceil(MILLISECOND_NS)).unwrap_or(1));
        nginx::AGAIN
    }
}

/// Time to look again: the connection may write, and whoever writes for the request comes by our filter.
unsafe extern "C" fn on_timer(event: *mut ngx_event_t) {
    // SAFETY: the timer is cancelled before its request goes. No Rust value is alive when nginx's handler runs, which may end the request.
    unsafe {
        let r = (*event).data.cast::<ngx_http_request_t>();
        let write = (*(*r).connection).write;
        (*write).set_delayed(0);
        if let Some(handler) = (*write).handler {
            handler(write);
        }
    }
}
