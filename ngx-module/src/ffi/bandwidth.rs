//! Paces the answers of a class with a bandwidth: a body filter that lets through what [`Zone::bandwidth_grant`] gives and keeps the rest.
//!
//! Buffers that are to be flushed go on whole, so a stream keeps its chunks; others are cut. While something is kept the connection's
//! write event is `delayed`, as with nginx's `limit_rate`, and a timer of our own looks again when the grant says so: nginx's timer on that event is its
//! own to delete. When the timer fires it sends by itself: nginx's event pipe does not flush what it thinks is on its way. A client that does not take
//! what it was sent gets no more, so that nginx's `send_timeout` finds it.
//!
//! Stands behind nginx's range filter, in a module of its own: what a range leaves out costs nothing, and several ranges need their file in one piece.
//! Cost without a bandwidth: one look at the record. Bound: what the upstream's buffers hold.

use super::limits::{self, Record};
use super::{LoopStatic, clock, conf, nginx};
use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_conf_t, ngx_event_t, ngx_http_output_body_filter_pt, ngx_http_request_t, ngx_int_t,
    ngx_msec_t, off_t,
};
use pincer_core::time::MILLISECOND_NS;
use std::cell::Cell;
use std::ffi::c_void;

/// In `r->buffered`: we keep something. nginx's image filter uses the same bit, on the connection.
const BUFFERED: u32 = 0x08;

/// How often something kept is looked after while the client does not take what it was sent, ns. Its socket tells nginx, which does not always tell us.
const STALLED_NS: u64 = 100 * MILLISECOND_NS;

/// Buffers above this are cut where they can be, bytes.
const PIECE_BYTES: off_t = 8 << 10;

/// The filter that stands after ours. Set by the master before it forks.
static NEXT: LoopStatic<Cell<ngx_http_output_body_filter_pt>> = LoopStatic::new(Cell::new(None));

/// What is kept of an answer; in the request's record, which does not move.
pub(crate) struct Pacing {
    kept: *mut ngx_chain_t,
    /// Pieces of cut buffers that were handed on, and those that are used up, for the next cut.
    pieces: *mut ngx_chain_t,
    free: *mut ngx_chain_t,
    timer: ngx_event_t,
    /// The write event is `delayed` because of us.
    delays: bool,
}

impl Default for Pacing {
    fn default() -> Self {
        // SAFETY: an event of zeroes is one that is not in use.
        let timer = unsafe { std::mem::zeroed() };
        let none = std::ptr::null_mut();
        Self { kept: none, pieces: none, free: none, timer, delays: false }
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

/// Puts the body filter in front of those installed so far, if anything is limited: nginx calls this before its copy and range filters are.
pub(crate) unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    super::guard("installing the bandwidth filter", nginx::ERROR, || {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        if unsafe { conf::main_conf_of(cf) }.limits {
            install();
        }
        nginx::OK
    })
}

fn install() {
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
        let write = (*(*r).connection).write;
        if nginx_sys::ngx_chain_add_copy((*r).pool, &raw mut (*record).pacing.kept, chain) != nginx::OK {
            return nginx::ERROR;
        }
        loop {
            let (bytes, retry_ns) = grant(&mut *record, size_of_chain((*record).pacing.kept));
            let (out, taken) = take(r, record, bytes);
            if out.is_null() {
                // Nothing but waiting is left; without a time to wait something of ours is wrong, and a short one is as good.
                (*record).pacing.delays = true;
                (*write).set_delayed(1);
                return keep(r, record, retry_ns.max(MILLISECOND_NS));
            }
            sent(&mut *record, taken);
            let answer = next(r, out);
            reclaim(r, record, out);
            if answer == nginx::ERROR {
                return answer;
            }
            if (*record).pacing.kept.is_null() {
                (*r).set_buffered((*r).buffered() & !BUFFERED);
                return answer;
            }
            if answer == nginx::AGAIN && (*record).pacing.delays {
                (*r).set_buffered((*r).buffered() | BUFFERED);
                return answer;
            }
            if answer == nginx::AGAIN && ((*write).ready() == 0 || (*write).delayed() != 0) {
                return keep(r, record, STALLED_NS);
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
                && let Some(piece) = cut(r, record, (*link).buf, left)
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

/// Takes back the links that the other filters have seen, which keep none, and the pieces that have been sent.
///
/// # Safety
/// As [`pace`]; `link` is a chain that [`take`] made.
unsafe fn reclaim(r: *mut ngx_http_request_t, record: *mut Record, mut link: *mut ngx_chain_t) {
    // SAFETY: as the caller vouches; a piece's buffer is ours, so it is empty only when it has been sent.
    unsafe {
        let pacing = &raw mut (*record).pacing;
        let mut end = &raw mut (*pacing).pieces;
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
        while !(*pacing).pieces.is_null() && size_of_buffer((*(*pacing).pieces).buf) == 0 {
            let sent = (*pacing).pieces;
            (*pacing).pieces = (*sent).next;
            (*sent).next = (*pacing).free;
            (*pacing).free = sent;
        }
    }
}

/// What tells our pieces from other buffers.
fn tag() -> *mut c_void {
    (&raw const NEXT).cast_mut().cast()
}

/// The first `bytes` of a buffer as a link of its own, unless a flush says that the buffer belongs together. The buffer itself goes on last, so whoever
/// waits for it to be used up waits for all of it.
///
/// # Safety
/// `r` is live, `record` its record, `buffer` is live and longer than `bytes`.
unsafe fn cut(
    r: *mut ngx_http_request_t,
    record: *mut Record,
    buffer: *mut ngx_buf_t,
    bytes: off_t,
) -> Option<*mut ngx_chain_t> {
    // SAFETY: as the caller vouches; link and buffer are of this request, made in its pool and used by nobody any more.
    unsafe {
        let in_memory = (*buffer).temporary() != 0 || (*buffer).memory() != 0 || (*buffer).mmap() != 0;
        let in_file = (*buffer).in_file() != 0;
        if in_memory == in_file || (*buffer).flush() != 0 {
            return None;
        }
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
        let piece = (*link).buf;
        std::ptr::copy_nonoverlapping(buffer, piece, 1);
        (*piece).tag = tag();
        (*piece).shadow = std::ptr::null_mut();
        (*piece).set_last_shadow(0);
        (*piece).set_last_buf(0);
        (*piece).set_last_in_chain(0);
        if in_file {
            (*piece).file_last = (*piece).file_pos + bytes;
            (*buffer).file_pos = (*piece).file_last;
        } else {
            (*piece).last = (*piece).pos.add(usize::try_from(bytes).ok()?);
            (*buffer).pos = (*piece).last;
        }
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

/// Comes back to what is kept after `wait_ns`.
///
/// # Safety
/// As [`pace`].
unsafe fn keep(r: *mut ngx_http_request_t, record: *mut Record, wait_ns: u64) -> ngx_int_t {
    // SAFETY: as the caller vouches; the event lies in the record, which stays where it is until the pool's end, where it is cancelled.
    unsafe {
        (*r).set_buffered((*r).buffered() | BUFFERED);
        let timer = &raw mut (*record).pacing.timer;
        (*timer).data = r.cast();
        (*timer).handler = Some(on_timer);
        (*timer).log = (*(*r).connection).log;
        // nginx takes one time for another that is near.
        nginx::cancel(timer);
        nginx::arm(timer, ngx_msec_t::try_from(wait_ns.div_ceil(MILLISECOND_NS)).unwrap_or(1));
        nginx::AGAIN
    }
}

/// Time to look again: sends what may be sent. If the connection rested because of us, whoever writes for the request hears of it.
unsafe extern "C" fn on_timer(event: *mut ngx_event_t) {
    // SAFETY: the timer is cancelled before its request goes, and the record with the event in it is the request's. No Rust value is alive when nginx's
    // functions run, of which the last may end the request.
    unsafe {
        let r = (*event).data.cast::<ngx_http_request_t>();
        let connection = (*r).connection;
        let write = (*connection).write;
        let Some(record) = limits::find(r) else { return };
        let delayed = std::mem::take(&mut (*record).pacing.delays);
        if delayed {
            (*write).set_delayed(0);
        }
        if !(*record).pacing.kept.is_null() {
            // An error stands in the connection, where whoever writes next finds it.
            let _ = nginx_sys::ngx_http_output_filter(r, std::ptr::null_mut());
        }
        // After what was posted, or a subrequest that has just been made would be run by both. Closing the connection takes the event back.
        if delayed {
            nginx::post(write);
        }
        nginx_sys::ngx_http_run_posted_requests(connection);
    }
}
