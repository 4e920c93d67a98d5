//! What the module keeps for a request: its place in the queue, the slot it holds, and the times
//! that variables show.
//!
//! One record for each request or subrequest, in the request's pool, found again through the pool's
//! cleanups when nginx has zeroed the module's context (internal redirects do). Bound: one record
//! for each request.

use super::address::Address;
use super::attempts::Attempts;
use super::tried::Tried;
use super::upstream::{BalanceModule, UpstreamConf};
use super::waiters::Waiter;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::{nginx, pool};
use nginx_sys::{
    ngx_connection_t, ngx_event_t, ngx_http_request_t, ngx_http_upstream_t, ngx_int_t, ngx_msec_t, ngx_recv_chain_pt,
    ngx_recv_pt,
};
use pincer_core::pick::{Demand, PeerSet};
use pincer_core::zone::{QueueClass, Ticket, WorkerIdx, Zone};
use std::ffi::c_void;
use std::rc::Rc;

/// Where the attempt stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// No attempt is under way.
    Idle,
    /// In the queue, on a placeholder connection.
    Parked,
    /// On a placeholder connection, about to hear that there is no place in the queue.
    TurnedAway,
    /// A slot has come; nginx is about to ask for the peer.
    Granted,
    /// A peer serves the request.
    Holding,
}

/// What a waiting request needs besides; made when it first waits.
pub(crate) struct Parking {
    /// The placeholder's address, an unnamed unix socket's, so that nginx calls `free` for a
    /// waiting request too.
    pub(crate) family: libc::sa_family_t,
    pub(crate) state: *mut RequestState,
    /// What the worker's lists know of it.
    pub(crate) waiter: Waiter,
    /// When the wait began, by nginx's clock.
    pub(crate) parked_ms: ngx_msec_t,
    /// The class it waits as.
    pub(crate) class: QueueClass,
    /// Posted right after parking: takes nginx's connect timer off, then looks for a slot.
    pub(crate) settle_event: ngx_event_t,
    /// The queue's timeout; not cancelable, so a draining worker stays for its waiters.
    pub(crate) timeout_event: ngx_event_t,
}

/// The request of a waiter.
///
/// # Safety
/// `waiter` is that of a live [`Parking`].
pub(super) unsafe fn of_waiter(waiter: *mut Waiter) -> *mut RequestState {
    // SAFETY: as the caller vouches.
    unsafe { (*waiter.byte_sub(std::mem::offset_of!(Parking, waiter)).cast::<Parking>()).state }
}

/// What the first-byte hook replaced.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    /// The reading functions of the peer's connection.
    Connection { connection: *mut ngx_connection_t, recv: ngx_recv_pt, recv_chain: ngx_recv_chain_pt },
    /// grpc's reading of frames: both functions take the one context.
    Frames { upstream: *mut ngx_http_upstream_t, init: InputFilterInit, filter: InputFilter, context: *mut c_void },
}

/// nginx's `u->input_filter_init`.
pub(crate) type InputFilterInit = Option<unsafe extern "C" fn(*mut c_void) -> ngx_int_t>;
/// nginx's `u->input_filter`.
pub(crate) type InputFilter = Option<unsafe extern "C" fn(*mut c_void, isize) -> ngx_int_t>;

// nginx's pools align to a word.
const _: () = assert!(
    align_of::<RequestState>() <= nginx_sys::NGX_ALIGNMENT && align_of::<Parking>() <= nginx_sys::NGX_ALIGNMENT
);

/// Bytes that the record takes at most: 24 more cost a request of the `instructions` benchmark
/// another block of its pool, which is 500 instructions.
const RECORD_BYTES_MAX: usize = 160;
const _: () = assert!(size_of::<RequestState>() <= RECORD_BYTES_MAX);

/// The record. Kept small, see [`RECORD_BYTES_MAX`].
pub(crate) struct RequestState {
    pub(crate) request: *mut ngx_http_request_t,
    pub(crate) conf: &'static UpstreamConf,
    pub(crate) zone: &'static Zone<'static>,
    pub(crate) ticket: Option<Ticket>,
    /// 0 = has not come.
    pub(crate) header_ns: u64,
    /// 0 = has not come.
    pub(crate) first_byte_ns: u64,
    pub(crate) worker: WorkerIdx,
    pub(crate) stage: Stage,
    /// Peers that failed this request in this round, and those that have no line left for it.
    pub(crate) tried: Tried,
    /// Times that the request has been sent to every peer that had a line left.
    pub(crate) round: u8,
    /// The request's number in this worker's upstream: decides whether it may explore.
    pub(crate) number: u64,
    /// The hash of the affinity variable; 0 = none.
    pub(crate) affinity: u64,
    /// Round robin's data, once a fault of ours made it serve this request; else null.
    pub(crate) fallback: *mut c_void,
    /// A failure on this side (no socket, no memory): not the peer's fault.
    pub(crate) local_fault: bool,
    /// A kept connection turned out to be stale.
    pub(crate) had_stale: bool,
    /// The name that nginx shows of the first attempt's peer, and its address.
    pub(crate) address: Option<Rc<Address>>,
    pub(crate) parking: *mut Parking,
    /// What the first-byte hook replaced; null = no hook is on. The record is made when one is
    /// first put on.
    pub(crate) hook: *mut Hook,
    /// `pincer_slot off`: its peers are asked without a slot.
    pub(crate) takes_no_slot: bool,
    pub(super) attempts: Attempts,
}

impl RequestState {
    /// Whether the short way of a claim is open to it.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.affinity == 0 && self.tried.is_empty()
    }

    /// Whether it may explore a peer that was not heard of for a while.
    pub(crate) fn explores(&self) -> bool {
        self.number.is_multiple_of(pincer_core::pick::EXPLORE_ONE_IN)
    }

    /// The request comes to the upstream of `conf`, where no peer has been tried for it.
    pub(super) fn come(&mut self, conf: &'static UpstreamConf) {
        self.conf = conf;
        self.number = conf.number();
        self.tried = Tried::default();
        self.round = 0;
        self.had_stale = false;
        self.fallback = std::ptr::null_mut();
        self.attempts.come();
    }

    /// Begins another attempt.
    pub(crate) fn attempt_begin(&mut self) {
        // SAFETY: the request is live, and with it its pool.
        unsafe { self.attempts.begin((*self.request).pool) };
    }

    /// Notes which peers were full at the pick of the attempt that is under way.
    #[inline]
    pub(crate) fn note_full(&mut self, peers: PeerSet) {
        if peers != 0
            && let Some(upstream) = self.conf.index.get()
        {
            // SAFETY: as above.
            unsafe { self.attempts.note_full(upstream, peers, (*self.request).pool) };
        }
    }
}

/// The record of `request`, if it has one.
///
/// # Safety
/// `request` is live; the pointer is good as long as the request, and only one reference is made of
/// it at a time.
pub(crate) unsafe fn find(request: *mut ngx_http_request_t) -> Option<*mut RequestState> {
    // SAFETY: `request` is live.
    let state = unsafe { BalanceModule::request_ctx(request) };
    if !state.is_null() {
        return Some(state.cast());
    }
    // SAFETY: as the caller vouches. Subrequests share the main request's pool: each record names
    // its own.
    unsafe {
        let is_it = |state: *const RequestState| (*state).request == request;
        let found = nginx::cleanup_find((*request).pool, is_it)?;
        BalanceModule::set_request_ctx(request, found.cast());
        Some(found)
    }
}

/// Makes the record of `request`; `None` when out of memory.
///
/// # Safety
/// `request` is live and has none yet.
pub(crate) unsafe fn create(
    request: *mut ngx_http_request_t,
    conf: &'static UpstreamConf,
    zone: &'static Zone<'static>,
    worker: WorkerIdx,
) -> Option<*mut RequestState> {
    let state = RequestState {
        request,
        conf,
        zone,
        worker,
        stage: Stage::Idle,
        ticket: None,
        header_ns: 0,
        first_byte_ns: 0,
        tried: Tried::default(),
        round: 0,
        number: 0,
        affinity: 0,
        fallback: std::ptr::null_mut(),
        local_fault: false,
        had_stale: false,
        address: None,
        parking: std::ptr::null_mut(),
        hook: std::ptr::null_mut(),
        takes_no_slot: false,
        attempts: Attempts::NONE,
    };
    // SAFETY: as the caller vouches.
    unsafe {
        let state = nginx::cleanup_add((*request).pool, state)?;
        BalanceModule::set_request_ctx(request, state.cast());
        Some(state)
    }
}

impl pool::Record for RequestState {
    const PLACE: &'static str = "request cleanup";

    /// The request's end. Whatever it still holds is given back here, should nginx ever have
    /// forgotten to call `free`.
    unsafe fn end(record: *mut Self) {
        // SAFETY: as the caller vouches.
        unsafe {
            if let Some(give_back) = (*record).conf.give_back.get() {
                give_back(record.cast());
            }
            std::ptr::drop_in_place(record);
        }
    }
}

/// What the pick must know of this request.
pub(crate) fn demand(state: &RequestState, queued: u32, waited_ns: u64) -> Demand {
    Demand {
        queued,
        can_wait: state.conf.queue.is_some(),
        affinity: (state.affinity != 0).then_some(state.affinity),
        tried: state.tried.set(),
        random: state.number,
        waited_ns,
        waits: state.stage == Stage::Parked,
        ..Demand::default()
    }
}
