//! Paces the responses of a class with a bandwidth: a body filter that lets through what
//! [`Zone::bandwidth_grant`](pincer_core::zone::Zone::bandwidth_grant) gives and keeps the rest.
//!
//! Stands behind nginx's postpone and gzip filters, in a module of its own, where one chain of the
//! main request holds all that goes out, in its order: what subrequests bring (slices, SSI,
//! additions) is paced with it, and what counts is what is sent. nginx's own `limit_rate` works one
//! filter further on. The request whose turn it is to write stays `buffered` until what it brought
//! is gone, so subrequests do not run ahead of the client.
//!
//! Small buffers that are to be flushed go on whole, so a stream keeps its chunks; others are cut.
//! While something waits for its turn the connection's write event is `delayed`, as with
//! `limit_rate`, and a timer of our own looks again when the grant says so: nginx's timer on that
//! event is its own to delete. When the timer fires it sends by itself: nginx's event pipe does not
//! flush what it thinks is on its way. A client that does not take what it was sent is granted
//! nothing and its write event is left alone, so that nginx's `send_timeout` finds it. Cost without
//! a bandwidth: one look at the record. Bound: what the upstream's buffers hold.

use super::pieces;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::guard::guard;
use crate::ffi::base::statics::LoopStatic;
use crate::ffi::base::{bits, clock, event, nginx};
use crate::ffi::limit::conf::LimitModule;
use crate::ffi::limit::record::{self, Record};
use nginx_sys::{
    ngx_chain_t, ngx_conf_t, ngx_event_pipe_t, ngx_event_t, ngx_http_output_body_filter_pt, ngx_http_request_t,
    ngx_int_t, ngx_msec_t,
};
use pincer_core::time::MILLISECOND_NS;
use pincer_core::zone::{Class, Held};
use std::cell::Cell;
use std::ops::ControlFlow;

/// In the `buffered` of the request that is writing: we keep something. nginx's image filter uses
/// the same bit, on the connection.
const REQUEST_BUFFERED: u32 = 0x08;

/// The same in the connection's, whose other bits are nginx's.
const CONNECTION_BUFFERED: u32 = 0x40;

/// In a connection's `buffered`: filters behind ours have something that is not sent (TLS, HTTP/2,
/// the write filter).
const UNSENT: u32 = 0x01 | 0x02 | 0x10;

/// How often it is looked whether the client takes what it was sent, ns. Its socket tells nginx,
/// which does not always tell us.
const STALLED_NS: u64 = 100 * MILLISECOND_NS;

/// The filter that stands after ours. Set by the master before it forks.
static NEXT: LoopStatic<Cell<ngx_http_output_body_filter_pt>> = LoopStatic::new(Cell::new(None));

/// Puts the body filter in front of those installed so far, if anything is limited: nginx calls
/// this before its gzip and postpone filters are.
pub(crate) fn configured(cf: *mut ngx_conf_t) {
    // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
    if unsafe { LimitModule::main_read(cf) }.in_use {
        install();
    }
}

fn install() {
    // SAFETY: configuration time, one thread.
    unsafe {
        NEXT.set(nginx_sys::ngx_http_top_body_filter);
        nginx_sys::ngx_http_top_body_filter = Some(body_filter);
    }
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request, whose main request lives as long.
    let record = guard("bandwidth filter", None, || unsafe {
        record::find((*r).main).filter(|record| !(**record).holds.is_empty())
    });
    match record {
        // SAFETY: the record is the live main request's.
        Some(record) => guard("bandwidth filter", nginx::ERROR, || unsafe { pace((*r).main, record, chain) }),
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
        if (*record).pacing.kept.is_null() && chain.is_null() && !has_unsent(r) {
            // The gzip filter asks for its buffers to be sent, and our timer has: the write filter
            // takes a flush of nothing for an error.
            return nginx::OK;
        }
        if (*record).pacing.kept.is_null() && (chain.is_null() || !is_paced(&*record)) {
            sent(&mut *record, pieces::size_of_chain(chain));
            return next(r, chain);
        }
        if nginx_sys::ngx_chain_add_copy((*r).pool, &raw mut (*record).pacing.kept, chain) != nginx::OK {
            return nginx::ERROR;
        }
        if (*record).pacing.delays && bits::event::timer_set(&raw const (*record).pacing.timer) != 0 {
            // A send_timeout of earlier may have ended the delay.
            bits::event::set_delayed((*(*r).connection).write, 1);
            return mark_kept(r);
        }
    }
    loop {
        // SAFETY: as above.
        if let ControlFlow::Break(result) = unsafe { send_granted(r, record) } {
            return result;
        }
    }
}

/// Sends what is granted of what is kept, once; breaks with what nginx is to hear.
///
/// # Safety
/// As [`pace`].
unsafe fn send_granted(r: *mut ngx_http_request_t, record: *mut Record) -> ControlFlow<ngx_int_t> {
    // SAFETY: as the caller vouches; no reference into the record is alive while other filters run.
    unsafe {
        if is_stalled(r) {
            return ControlFlow::Break(keep(r, record, STALLED_NS));
        }
        let (wanted, least) = pieces::wanted((*record).pacing.kept);
        let (bytes, retry_ns) = grant(&mut *record, wanted, least);
        let Some((out, taken)) = pieces::take(r, record, bytes) else { return ControlFlow::Break(nginx::ERROR) };
        if out.is_null() {
            return wait_for_grant(r, record, retry_ns);
        }
        sent(&mut *record, taken);
        let result = next(r, out);
        pieces::reclaim(r, record, out);
        if result == nginx::ERROR || (*record).pacing.kept.is_null() {
            mark_empty(r);
            return ControlFlow::Break(result);
        }
    }
    ControlFlow::Continue(())
}

/// Has the filters behind ours send what they keep, and comes back when something may be granted;
/// goes on if the client then does not take what it was sent.
///
/// # Safety
/// As [`pace`].
unsafe fn wait_for_grant(r: *mut ngx_http_request_t, record: *mut Record, retry_ns: u64) -> ControlFlow<ngx_int_t> {
    // SAFETY: as the caller vouches.
    unsafe {
        if has_unsent(r) && next(r, std::ptr::null_mut()) == nginx::ERROR {
            return ControlFlow::Break(nginx::ERROR);
        }
        if is_stalled(r) {
            return ControlFlow::Continue(());
        }
        // Nothing but waiting is left; without a time to wait something of ours is wrong, and a
        // short one is as good.
        (*record).pacing.delays = true;
        bits::event::set_delayed((*(*r).connection).write, 1);
        ControlFlow::Break(keep(r, record, retry_ns.max(MILLISECOND_NS)))
    }
}

/// Whether a limit of the request has a bandwidth now.
fn is_paced(record: &Record) -> bool {
    let bandwidth = |held: &Held| record.zone.class(held.class()).map_or(0, Class::bandwidth);
    record.worker.is_some() && record.holds.iter().any(|held| bandwidth(held) > 0)
}

/// Whether filters behind ours keep something that may be sent.
///
/// # Safety
/// `r` is a live main request.
unsafe fn has_unsent(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { !(*r).out.is_null() || bits::connection::buffered((*r).connection) & UNSENT != 0 }
}

/// Whether the client does not take what it was sent, or nginx delays it for its own reasons.
///
/// # Safety
/// `r` is a live main request, which is not delayed by us.
unsafe fn is_stalled(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        let write = (*(*r).connection).write;
        bits::event::delayed(write) != 0 || (bits::event::ready(write) == 0 && has_unsent(r))
    }
}

/// What all limits let through of `wanted` bytes, `least` at once or none, and when to ask again if
/// that is none.
fn grant(record: &mut Record, wanted: u64, least: u64) -> (u64, u64) {
    let mut all = (wanted, 0);
    let (zone, Some(worker)) = (record.zone, record.worker) else { return all };
    if wanted == 0 {
        return all;
    }
    let now = clock::now();
    for (held, flow) in record.holds.iter_mut().zip(&mut record.flows) {
        let grant = zone.bandwidth_grant(worker, held, flow, (wanted, least), now);
        all = (all.0.min(grant.bytes), all.1.max(grant.retry_after_ns));
    }
    all
}

fn sent(record: &mut Record, bytes: u64) {
    let zone = record.zone;
    for (held, flow) in record.holds.iter().zip(&mut record.flows) {
        zone.bandwidth_sent(held, flow, bytes);
    }
}

/// Comes back to what is kept after `wait_ns`.
///
/// # Safety
/// As [`pace`].
unsafe fn keep(r: *mut ngx_http_request_t, record: *mut Record, wait_ns: u64) -> ngx_int_t {
    // SAFETY: as the caller vouches; the event lies in the record, which stays where it is until
    // the pool's end, where it is cancelled.
    unsafe {
        let timer = &raw mut (*record).pacing.timer;
        (*timer).data = r.cast();
        (*timer).handler = Some(event::handler::<LookAgain>);
        (*timer).log = (*(*r).connection).log;
        // nginx takes one time for another that is near.
        nginx::cancel(timer);
        nginx::arm(timer, ngx_msec_t::try_from(wait_ns.div_ceil(MILLISECOND_NS)).unwrap_or(1));
        mark_kept(r)
    }
}

/// The request whose turn it is to write is not done while we keep something: `r` or a subrequest
/// of it.
///
/// # Safety
/// As [`pace`].
unsafe fn mark_kept(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: as the caller vouches; while a request is answered it or the subrequest that is
    // writing is its connection's `data`.
    unsafe {
        let connection = (*r).connection;
        let active = (*connection).data.cast::<ngx_http_request_t>();
        bits::request::set_buffered(active, bits::request::buffered(active) | REQUEST_BUFFERED);
        bits::connection::set_buffered(connection, bits::connection::buffered(connection) | CONNECTION_BUFFERED);
    }
    nginx::AGAIN
}

/// Nothing is kept any more. Whoever was marked and is not done is the one that is writing now, or
/// waits for it as its parent.
///
/// # Safety
/// As [`pace`].
unsafe fn mark_empty(r: *mut ngx_http_request_t) {
    // SAFETY: as in `mark_kept`; parents live as long as their subrequests.
    unsafe {
        let connection = (*r).connection;
        bits::connection::set_buffered(connection, bits::connection::buffered(connection) & !CONNECTION_BUFFERED);
        let mut one = (*connection).data.cast::<ngx_http_request_t>();
        while !one.is_null() {
            bits::request::set_buffered(one, bits::request::buffered(one) & !REQUEST_BUFFERED);
            one = (*one).parent;
        }
    }
}

/// Time to look again at what is kept.
struct LookAgain;

impl event::Handler for LookAgain {
    const PLACE: &'static str = "bandwidth timer";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: the timer is cancelled before its request goes, and the record with the event in
        // it is the request's.
        unsafe {
            let r = (*event).data.cast::<ngx_http_request_t>();
            let Some(record) = record::find(r) else { return };
            if std::mem::take(&mut (*record).pacing.delays) {
                bits::event::set_delayed((*(*r).connection).write, 0);
            } else if is_stalled(r) {
                // nginx's timer runs: it is not to hear of us.
                keep(r, record, STALLED_NS);
                return;
            }
            send_again(r, record);
        }
    }
}

/// Sends what may be sent. Whoever writes for the request hears of it when it may write again.
///
/// # Safety
/// As [`pace`], from the event loop; the request may be gone afterwards.
unsafe fn send_again(r: *mut ngx_http_request_t, record: *mut Record) {
    // SAFETY: as the caller vouches. No Rust value is alive when nginx's functions run, of which
    // the last may end the request.
    unsafe {
        let connection = (*r).connection;
        let active = (*connection).data.cast::<ngx_http_request_t>();
        if pace(r, record, std::ptr::null_mut()) == nginx::ERROR {
            // Whoever writes next finds it.
            bits::connection::set_error(connection, 1);
        }
        tell_pipe(active);
        if (*record).pacing.kept.is_null() {
            send_on(r, record);
        }
        // After what was posted, or a subrequest that has just been made would be run by both.
        // Closing the connection takes the event back.
        if !(*record).pacing.delays {
            nginx::post((*connection).write);
        }
        nginx_sys::ngx_http_run_posted_requests(connection);
    }
}

/// Tells filters before ours that there is room, as if nginx had asked for what they keep: its
/// event pipe does not, and its postpone filter lets a flush through only while something of the
/// connection is marked as kept, which the gzip filter unmarks with each flush, whatever it still
/// has.
///
/// # Safety
/// As [`pace`]; nothing is kept.
unsafe fn send_on(r: *mut ngx_http_request_t, record: *mut Record) {
    // SAFETY: as the caller vouches; of a request that has kept something all filters are set up
    // once its header is sent.
    unsafe {
        let connection = (*r).connection;
        let active = (*connection).data.cast::<ngx_http_request_t>();
        if !may_be_asked(active) || bits::connection::error(connection) != 0 {
            return;
        }
        bits::connection::set_buffered(connection, bits::connection::buffered(connection) | CONNECTION_BUFFERED);
        if nginx_sys::ngx_http_output_filter(active, std::ptr::null_mut()) == nginx::ERROR {
            bits::connection::set_error(connection, 1);
        }
        tell_pipe(active);
        if (*record).pacing.kept.is_null() {
            mark_empty(r);
        }
    }
}

/// Whether nginx may be asked for more of the response to `r` now. What a thread has written for
/// the pipe, the pipe takes back first and sends on itself: they share a file, and so the thread's
/// result.
///
/// # Safety
/// `r` is live.
unsafe fn may_be_asked(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        bits::request::header_sent(r) != 0
            && bits::request::aio(r) == 0
            && pipe_of(r).is_none_or(|pipe| (*pipe).writing.is_null())
    }
}

/// The event pipe that reads for `r`, if its response is buffered.
///
/// # Safety
/// `r` is live.
unsafe fn pipe_of(r: *const ngx_http_request_t) -> Option<*mut ngx_event_pipe_t> {
    // SAFETY: as the caller vouches; a request's upstream lives as long as it.
    unsafe { (*r).upstream.as_ref().map(|upstream| upstream.pipe).filter(|pipe| !pipe.is_null()) }
}

/// Tells the pipe of `r` whether a thread reads for `r` now, as nginx does whenever the pipe itself
/// has written: it begins no second one then.
///
/// # Safety
/// `r` is live.
unsafe fn tell_pipe(r: *const ngx_http_request_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        if let Some(pipe) = pipe_of(r) {
            bits::pipe::set_aio(pipe, bits::request::aio(r));
        }
    }
}
