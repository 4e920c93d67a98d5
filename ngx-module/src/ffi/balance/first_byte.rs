//! Takes the time of a response's header and of its body's first byte, where they arrive.
//!
//! The header filter runs first of all filters, right after nginx parsed the header: if body bytes
//! are in `u->buffer` already, the first byte is now. If not, it hooks the connection's `recv` and
//! `recv_chain` for exactly one successful read. Body filters and nginx's pipe see the data late
//! (buffering), so they can't tell. With `grpc_pass` the first bytes may be SETTINGS or PING, so
//! the hook sits on the reading of frames instead and waits for one that gives data to the client.
//! No sample for responses without a body. Cost: one test per response, two pointer swaps where the
//! body comes later.

use super::attempts::ShownTime;
use super::request::{self, Hook, RequestState, Stage};
use super::upstream::BalanceModule;
use super::{breaker_log, grpc, kick};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::filter::{HeaderFilter, Next};
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, clock, nginx};
use crate::phase::outcome;
use nginx_sys::{
    NGX_HTTP_HEAD, ngx_chain_t, ngx_connection_t, ngx_http_request_t, ngx_http_upstream_t, ngx_int_t, ngx_uint_t,
    off_t, u_char,
};
use pincer_core::time::MonoNs;
use pincer_core::zone::Signal;
use std::ffi::c_void;

static NEXT: Next = Next::new();

/// Takes the times.
pub(crate) struct FirstByte;

impl HeaderFilter for FirstByte {
    const PLACE: &'static str = "header filter";

    fn next() -> &'static Next {
        &NEXT
    }

    unsafe fn see(r: *mut ngx_http_request_t) {
        // SAFETY: as the caller vouches.
        unsafe { observe(r) };
    }
}

/// # Safety
/// `r` is live.
unsafe fn observe(r: *mut ngx_http_request_t) {
    // SAFETY: as the caller vouches.
    let u = unsafe { (*r).upstream };
    // SAFETY: as the caller vouches; a request's upstream lives as long as it.
    if u.is_null() || !unsafe { is_fresh(r, u) } {
        return;
    }
    // SAFETY: as the caller vouches; what is stored there is the request's record, to which nobody
    // else has a reference while nginx is in this filter.
    let Some(this) = (unsafe { BalanceModule::request_ctx(r).cast::<RequestState>().as_mut() }) else { return };
    if this.stage != Stage::Holding || this.header_ns != 0 {
        return;
    }
    let now = clock::now();
    // SAFETY: as the caller vouches, and the upstream's header has just been parsed.
    let (has_body, status) = unsafe { (expects_body(r), (*u).headers_in.status_n) };
    if !header_seen(this, status, has_body, now) || !has_body {
        return;
    }
    let state = std::ptr::from_mut(this);
    // SAFETY: a record that holds a peer is live, and so are its upstream and connection.
    unsafe {
        if grpc::is_grpc(u) {
            hook_frames(state, u);
        } else if (*u).buffer.last > (*u).buffer.pos {
            seen(state, now);
        } else {
            hook(state, (*u).peer.connection);
        }
    }
}

/// Whether the header that is about to be sent has just come from the peer.
///
/// # Safety
/// `r` is live, and `u` is its upstream.
unsafe fn is_fresh(r: *const ngx_http_request_t, u: *const ngx_http_upstream_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { bits::request::cached(r) == 0 && !(*u).peer.connection.is_null() && bits::upstream::header_sent(u) == 0 }
}

/// Takes the time of the header; `false` if the request holds no peer. Part of its only caller: a
/// call costs each response 20 instructions.
#[inline(always)]
fn header_seen(this: &mut RequestState, status: ngx_uint_t, has_body: bool, now: MonoNs) -> bool {
    let params = this.conf.params();
    let Some(ticket) = this.ticket.as_mut() else { return false };
    this.header_ns = now.since(ticket.start).max(1);
    if status == outcome::SWITCHING_PROTOCOLS {
        upgraded(this, now);
    } else if params.signal == Signal::Header || (params.signal == Signal::FirstByte && !has_body) {
        this.zone.signal_seen(ticket, this.worker);
    }
    true
}

/// The peer has switched to another protocol, a WebSocket's: a success without a sample.
#[cold]
fn upgraded(this: &mut RequestState, now: MonoNs) {
    let Some(ticket) = this.ticket.as_mut() else { return };
    let change = this.zone.upgraded(ticket, this.worker, this.conf.params(), now);
    breaker_log::write(this, change.as_slice(), "");
    if this.conf.queue.is_some() {
        kick::kick(this.conf, this.zone);
    }
}

/// Whether the response has a body whose first byte means something.
///
/// # Safety
/// `r` is live and its upstream's header parsed.
unsafe fn expects_body(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        let headers = &(*(*r).upstream).headers_in;
        (*r).method != NGX_HTTP_HEAD as ngx_uint_t
            && !matches!(headers.status_n, 204 | 304)
            && headers.content_length_n != 0
    }
}

/// The first byte is here.
///
/// # Safety
/// `state` is live and holds a peer.
unsafe fn seen(state: *mut RequestState, now: MonoNs) {
    // SAFETY: as the caller vouches.
    let this = unsafe { &mut *state };
    let Some(ticket) = this.ticket.as_mut() else { return };
    let first_byte_ns = now.since(ticket.start).max(1);
    let params = this.conf.params();
    // SAFETY: a request that holds a peer has its upstream, and the header was parsed before any
    // byte of the body.
    let status = unsafe { (*(*this.request).upstream).headers_in.status_n };
    if outcome::is_good(status) {
        let change = this.zone.first_byte_seen(ticket, this.worker, first_byte_ns, params, now);
        if change.is_some() {
            breaker_log::write(this, change.as_slice(), "");
        }
    } else if params.signal == Signal::FirstByte {
        this.zone.signal_seen(ticket, this.worker);
    }
    // A first token may have made room for others.
    if this.conf.queue.is_some() {
        kick::kick(this.conf, this.zone);
    }
    this.first_byte_ns = first_byte_ns;
    if let Some(attempt) = this.attempts.last() {
        attempt.first_byte = ShownTime::of_ns(first_byte_ns);
    }
}

/// Remembers what a hook replaces; `false` when out of memory, and there is to be no hook then.
///
/// # Safety
/// `state` is live and has no hook.
unsafe fn put(state: *mut RequestState, hook: Hook) -> bool {
    // SAFETY: as the caller vouches; the pool returns null or memory aligned to a word.
    unsafe {
        let memory = nginx_sys::ngx_palloc((*(*state).request).pool, size_of::<Hook>()).cast::<Hook>();
        if memory.is_null() {
            return false;
        }
        memory.write(hook);
        (*state).hook = memory;
    }
    true
}

/// What the hook had replaced; afterwards there is none.
///
/// # Safety
/// `state` is live.
unsafe fn taken(state: *mut RequestState) -> Option<Hook> {
    // SAFETY: as the caller vouches; a hook's record lives in the request's pool.
    unsafe { std::mem::replace(&mut (*state).hook, std::ptr::null_mut()).as_ref().copied() }
}

/// # Safety
/// `state` is live and holds the peer of `connection`.
unsafe fn hook(state: *mut RequestState, connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches; TLS has put its own functions in place by now and is wrapped
    // as they are.
    unsafe {
        let (recv_before, recv_chain_before) = ((*connection).recv, (*connection).recv_chain);
        if !put(state, Hook::Connection { connection, recv: recv_before, recv_chain: recv_chain_before }) {
            return;
        }
        (*connection).recv = Some(recv);
        (*connection).recv_chain = Some(recv_chain);
    }
}

/// Takes the hook off, if it is on. The connection may be keepalive's by now: its functions are
/// restored all the same.
///
/// # Safety
/// `state` is live.
pub(crate) unsafe fn unhook(state: *mut RequestState) {
    // SAFETY: as the caller vouches; connection objects are elements of nginx's own array and never
    // freed, and this one cannot have been reused between nginx's `free` and here.
    unsafe {
        match taken(state) {
            Some(Hook::Connection { connection, recv, recv_chain }) => {
                (*connection).recv = recv;
                (*connection).recv_chain = recv_chain;
            }
            Some(Hook::Frames { upstream, init, filter, context }) => {
                (*upstream).input_filter_init = init;
                (*upstream).input_filter = filter;
                (*upstream).input_filter_ctx = context;
            }
            None => {}
        }
    }
}

/// # Safety
/// `state` is live and holds the peer of `upstream`.
unsafe fn hook_frames(state: *mut RequestState, upstream: *mut ngx_http_upstream_t) {
    // SAFETY: as the caller vouches. The filter and its context go together and are put back
    // together.
    unsafe {
        let hook = Hook::Frames {
            upstream,
            init: (*upstream).input_filter_init,
            filter: (*upstream).input_filter,
            context: (*upstream).input_filter_ctx,
        };
        if !put(state, hook) {
            return;
        }
        (*upstream).input_filter_init = Some(frames_init);
        (*upstream).input_filter = Some(frames);
        (*upstream).input_filter_ctx = state.cast();
    }
}

/// Passes grpc's own initialisation through, with its own context.
unsafe extern "C" fn frames_init(data: *mut c_void) -> ngx_int_t {
    // SAFETY: nginx passes the context that `hook_frames` stored, of a live request.
    unsafe {
        match (*data.cast::<RequestState>()).hook.as_ref().copied() {
            Some(Hook::Frames { init: Some(original), context, .. }) => original(context),
            _ => nginx::ERROR,
        }
    }
}

/// Stands before grpc's filter until a DATA frame has given bytes.
unsafe extern "C" fn frames(data: *mut c_void, bytes: isize) -> ngx_int_t {
    let state = data.cast::<RequestState>();
    // SAFETY: nginx passes the context that `hook_frames` stored, of a live request.
    unsafe {
        let Some(&Hook::Frames { upstream, filter: Some(original), context, .. }) = (*state).hook.as_ref() else {
            return nginx::ERROR;
        };
        let result = original(context, bytes);
        if !(*upstream).out_bufs.is_null() {
            guard("first byte", (), || {
                unhook(state);
                seen(state, clock::now());
            });
        }
        result
    }
}

/// The hooked request of an upstream connection.
///
/// # Safety
/// `connection` is hooked, so its data is a live request with a record.
unsafe fn hooked(connection: *const ngx_connection_t) -> Option<(*mut RequestState, Hook)> {
    // SAFETY: as the caller vouches.
    unsafe {
        let state = request::find((*connection).data.cast::<ngx_http_request_t>())?;
        (*state).hook.as_ref().map(|hook| (state, *hook))
    }
}

/// After a hooked read of `n` bytes.
///
/// # Safety
/// `state` is live.
unsafe fn after_read(state: *mut RequestState, n: isize) {
    if n > 0 {
        guard("first byte", (), || {
            // SAFETY: as the caller vouches.
            unsafe {
                unhook(state);
                seen(state, clock::now());
            }
        });
    }
}

unsafe extern "C" fn recv(connection: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: nginx calls with its own connection and buffer; the hook names the function that
    // stood here before.
    unsafe {
        let Some((state, Hook::Connection { recv: Some(original), .. })) = hooked(connection) else {
            return nginx::ERROR;
        };
        let n = original(connection, buffer, size);
        after_read(state, n);
        n
    }
}

unsafe extern "C" fn recv_chain(connection: *mut ngx_connection_t, chain: *mut ngx_chain_t, limit: off_t) -> isize {
    // SAFETY: as in `recv`.
    unsafe {
        let Some((state, Hook::Connection { recv_chain: Some(original), .. })) = hooked(connection) else {
            return nginx::ERROR;
        };
        let n = original(connection, chain, limit);
        after_read(state, n);
        n
    }
}
