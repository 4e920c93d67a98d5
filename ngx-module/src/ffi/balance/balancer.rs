//! nginx's balancer interface: `init` for each request, `get` and `free` for each attempt. What is
//! done at configuration time is in `declare`.
//!
//! Never keeps nginx's round robin records: peers live in the zone. Round robin is initialised all
//! the same, because it checks the upstream and is what serves a request when something of ours
//! fails.

use super::request::{self, RequestState, Stage, demand};
use super::tried::Tried;
use super::upstream::{BalanceModule, affinity, of_upstream};
use super::{breaker_log, fingerprint, first_byte, grpc, kick, queue, queue_end, session};
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, clock, nginx};
use crate::ffi::zone::worker;
use crate::phase::outcome::{Facts, cause, looks_stale, outcome};
use nginx_sys::{
    ngx_connection_t, ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_peer_connection_t, ngx_uint_t,
};
use ngx::http::HttpModuleLocationConf as _;
use pincer_core::time::MonoNs;
use pincer_core::zone::{Claim, Outcome, Quick, Ticket, UpstreamIdx, Zone};
use std::ffi::c_void;

/// A request comes to the upstream.
pub(crate) unsafe extern "C" fn init_peer(
    r: *mut ngx_http_request_t,
    upstream: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: nginx passes a live request and its upstream; so in both closures.
    let ours = guard("peer.init", None, || unsafe { init_ours(r, upstream) });
    ours.unwrap_or_else(|| {
        worker::count_fail_open();
        // SAFETY: round robin was initialised in `init_upstream`.
        unsafe { nginx_sys::ngx_http_upstream_init_round_robin_peer(r, upstream) }
    })
}

/// # Safety
/// As [`init_peer`]. `None` when the request must be served without Pincer.
unsafe fn init_ours(r: *mut ngx_http_request_t, upstream: *mut ngx_http_upstream_srv_conf_t) -> Option<ngx_int_t> {
    // SAFETY: as the caller vouches; the upstream's configuration lives longer than the request.
    let conf = unsafe { of_upstream(upstream) };
    let zone = conf.zone.get()?;
    let index = conf.index.get()?;
    let worker = worker::worker()?;
    // SAFETY: as the caller vouches; nobody else has a reference into the record while nginx is in
    // this function.
    unsafe {
        let state = match request::find(r) {
            Some(state) => state,
            None => request::create(r, conf, zone, worker)?,
        };
        if (*state).stage != Stage::Idle {
            abandon(state);
        }
        (*state).come(conf);
        (*state).affinity = affinity(r, conf);
        (*state).takes_no_slot = BalanceModule::location_conf(&*r).is_some_and(|location| location.slot == Some(false));
        balance(&mut (*(*r).upstream).peer, state, tries(zone, index));
    }
    Some(nginx::OK)
}

/// Makes nginx ask this module for the peers of `state`.
fn balance(pc: &mut ngx_peer_connection_t, state: *mut RequestState, tries: ngx_uint_t) {
    pc.data = state.cast();
    pc.get = Some(get);
    pc.free = Some(free);
    pc.set_session = Some(session::set);
    pc.save_session = Some(session::save);
    pc.tries = tries;
}

/// The attempts nginx may make: one for each `server` line of a peer that takes requests.
fn tries(zone: &Zone<'_>, index: UpstreamIdx) -> ngx_uint_t {
    zone.upstream(index).map_or(1, |upstream| upstream.tries()) as ngx_uint_t
}

/// nginx wants a peer.
unsafe extern "C" fn get(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    let state = data.cast::<RequestState>();
    // SAFETY: nginx passes what `init_ours` stored; so below.
    let result = guard("peer.get", None, || unsafe { get_ours(pc, state) });
    result.unwrap_or_else(|| {
        worker::count_fail_open();
        // SAFETY: as above.
        guard("peer.get without pincer", nginx::BUSY, || unsafe { fallback_get(pc, state) })
    })
}

/// # Safety
/// `pc` and `state` belong to one live request.
unsafe fn get_ours(pc: *mut ngx_peer_connection_t, state: *mut RequestState) -> Option<ngx_int_t> {
    // SAFETY: as the caller vouches.
    let (pc, this) = unsafe { (&mut *pc, &mut *state) };
    if !this.fallback.is_null() {
        return None;
    }
    // SAFETY: a reference is to a live structure.
    unsafe { bits::peer::set_cached(pc, 0) };
    pc.connection = std::ptr::null_mut();
    if this.stage == Stage::Granted {
        return bind(pc, this);
    }
    this.attempt_begin();
    let index = this.conf.index.get()?;
    if this.takes_no_slot {
        return get_beside(pc, this, index);
    }
    let can_wait = this.conf.queue.is_some();
    if !can_wait || !this.zone.any_waiting(index) {
        let now = clock::now();
        let mut lost = false;
        if this.is_ordinary() {
            let mut plan = this.conf.plan.try_borrow_mut().ok()?;
            match this.zone.claim_quick(index, this.worker, &mut plan, this.explores(), this.conf.params(), now) {
                Quick::Taken(ticket) => {
                    this.ticket = Some(ticket);
                    let full = plan.full();
                    drop(plan);
                    this.note_full(full);
                    return bind(pc, this);
                }
                Quick::Undecided => {}
                Quick::Lost => lost = true,
            }
        }
        let claimed = this.zone.claim(index, this.worker, &demand(this, 1, 0), this.conf.params(), now);
        if (claimed.kick || lost) && can_wait {
            kick::kick(this.conf, this.zone);
        }
        match claimed.claim {
            Claim::Taken(ticket) => {
                this.ticket = Some(ticket);
                this.note_full(claimed.full);
                return bind(pc, this);
            }
            Claim::Wait if can_wait => {}
            // SAFETY: as below.
            Claim::Wait | Claim::Full | Claim::NoPeer => return Some(unsafe { queue_end::give_back(pc, state) }),
        }
    }
    // SAFETY: `state` stays where it is, in the request's pool.
    Some(unsafe { queue::park(pc, state) })
}

/// The peer of a request that takes no slot: it neither waits nor makes others wait.
#[cold]
fn get_beside(pc: &mut ngx_peer_connection_t, this: &mut RequestState, index: UpstreamIdx) -> Option<ngx_int_t> {
    let demand = demand(this, 1, 0);
    let claimed = this.zone.claim_beside(index, this.worker, &demand, this.conf.params(), clock::now());
    if let Claim::Taken(ticket) = claimed.claim {
        this.ticket = Some(ticket);
        return bind(pc, this);
    }
    // SAFETY: both belong to one live request.
    Some(unsafe { queue_end::give_back(pc, this) })
}

/// Gives nginx the peer of the ticket in hand. The first attempt keeps its address for the log;
/// those of later attempts are copied into the request's pool.
fn bind(pc: &mut ngx_peer_connection_t, state: &mut RequestState) -> Option<ngx_int_t> {
    let ticket = state.ticket.as_ref()?;
    let (peer, why) = (state.zone.peer(ticket.peer)?, ticket.why);
    let address = state.conf.addresses.try_borrow_mut().ok()?.get(ticket.index, ticket.generation, peer);
    pc.socklen = address.sockaddr_len;
    if state.address.is_none() {
        let address = &**state.address.insert(address);
        pc.name = (&raw const address.name).cast_mut();
        pc.sockaddr = (&raw const address.sockaddr).cast_mut().cast();
    } else {
        // SAFETY: the request is live, and the address's length is that of its bytes.
        unsafe {
            let sockaddr =
                std::slice::from_raw_parts((&raw const address.sockaddr).cast::<u8>(), address.sockaddr_len as usize);
            let (name, copy) = nginx::pool_pair((*state.request).pool, nginx::bytes(address.name), sockaddr)?;
            pc.name = name;
            pc.sockaddr = copy.cast();
        }
    }
    state.attempts.note_why(why);
    state.header_ns = 0;
    state.first_byte_ns = 0;
    state.local_fault = false;
    state.stage = Stage::Holding;
    Some(nginx::OK)
}

/// nginx is done with the peer.
unsafe extern "C" fn free(pc: *mut ngx_peer_connection_t, data: *mut c_void, flags: ngx_uint_t) {
    let state = data.cast::<RequestState>();
    guard("peer.free", (), || {
        // SAFETY: nginx passes what `init_ours` stored, of a live request.
        unsafe {
            if !(*state).fallback.is_null() {
                nginx_sys::ngx_http_upstream_free_round_robin_peer(pc, (*state).fallback, flags);
                return;
            }
            match (*state).stage {
                Stage::Idle => {}
                Stage::Parked => queue::leave(state),
                Stage::TurnedAway => queue_end::forget(state),
                Stage::Granted => abandon(state),
                Stage::Holding => {
                    first_byte::unhook(state);
                    let now = clock::now();
                    finish(&mut *state, facts(pc, state, flags, now), now);
                }
            }
            (*pc).tries = (*pc).tries.saturating_sub(1);
        }
    });
}

/// Gives the slot back, with what the attempt says of the peer, and lets the next one in.
fn finish(state: &mut RequestState, mut facts: Facts, now: MonoNs) {
    state.stage = Stage::Idle;
    let Some(ticket) = state.ticket.take() else { return };
    let looks_stale = looks_stale(&facts);
    if looks_stale {
        facts.stale = !std::mem::replace(&mut state.had_stale, true) && state.zone.excuse_stale(&ticket);
    }
    // After a stale connection nginx may try that peer again, and does. Where no other peer may be
    // asked it is tried as long as kept connections of it are left, as an only peer is by nginx's
    // round robin: some servers close each of them after a few responses, when the next request
    // comes.
    let again = facts.stale || looks_stale && !has_another(state, ticket.index, now);
    if (facts.failed || facts.passed_on) && !again {
        state.tried.add(ticket.index);
        begin_round(state);
    }
    release(state, ticket, &facts, now);
}

/// Where every peer has been tried, those with another `server` line are to be had again.
fn begin_round(state: &mut RequestState) {
    let Some(index) = state.conf.index.get() else { return };
    let round = state.round.saturating_add(1);
    if let Some(spent) = state.zone.next_round(index, state.tried.set(), round.into()) {
        (state.tried, state.round) = (Tried::of(spent), round);
    }
}

fn has_another(state: &RequestState, tried: u8, now: MonoNs) -> bool {
    state.conf.index.get().is_some_and(|index| state.zone.has_another(index, state.tried.set(), tried, now))
}

fn release(state: &RequestState, ticket: Ticket, facts: &Facts, now: MonoNs) {
    let params = state.conf.params();
    let outcome = outcome(facts);
    // Only a breaker that opens needs chance.
    let random = if outcome == Outcome::Failure { clock::random() } else { 0 };
    let (zone, index) = (state.zone, state.conf.index.get());
    let is_telling = match outcome {
        Outcome::Failure => facts.sent,
        Outcome::Success { .. } | Outcome::Answered => index.is_some_and(|index| zone.failed_lately(index, now)),
        Outcome::Declined | Outcome::Neutral | Outcome::Excused => false,
    };
    // SAFETY: a reference is to a live record.
    let fingerprint = is_telling.then(|| unsafe { fingerprint::of(state) });
    let changes = zone.release_known(ticket, state.worker, outcome, fingerprint, params, now, random);
    if !changes.is_empty() {
        breaker_log::write(state, &changes, &cause(facts));
    }
    if state.conf.queue.is_some() {
        kick::kick(state.conf, state.zone);
    }
}

/// What nginx knows of the attempt that ends.
///
/// # Safety
/// `pc` and `state` belong to one live request, whose upstream is `r->upstream`.
unsafe fn facts(pc: *const ngx_peer_connection_t, state: *const RequestState, flags: ngx_uint_t, now: MonoNs) -> Facts {
    // SAFETY: as the caller vouches; nothing below writes into the record.
    let (this, r) = unsafe { (&*state, (*state).request) };
    // SAFETY: as the caller vouches.
    let (u, connection) = unsafe { ((*r).upstream, (*pc).connection) };
    // SAFETY: as the caller vouches.
    let status = unsafe { (*u).headers_in.status_n };
    let failed = flags & nginx_sys::NGX_PEER_FAILED as ngx_uint_t != 0;
    Facts {
        failed,
        passed_on: flags & nginx_sys::NGX_PEER_NEXT as ngx_uint_t != 0,
        // SAFETY: as the caller vouches.
        cached: unsafe { bits::peer::cached(pc) != 0 },
        // Asked of attempts that failed only: nobody else is thought stale.
        // SAFETY: an attempt has its state.
        heard: failed && unsafe { (*u).state.as_ref() }.is_some_and(|attempt| attempt.bytes_received > 0),
        // Of an attempt that got no connection the bit is the one before's.
        // SAFETY: as the caller vouches.
        sent: !connection.is_null() && unsafe { bits::upstream::request_sent(u) != 0 },
        // SAFETY: a connection of an attempt is live until nginx has called `free`.
        timed_out: failed && !connection.is_null() && unsafe { has_timed_out(connection) },
        stale: false,
        status,
        // SAFETY: as the caller vouches.
        grpc_status: unsafe { if status == 200 && grpc::is_grpc(u) { grpc::status(u) } else { None } },
        // SAFETY: a live request has its client's connection.
        client_gone: unsafe { is_gone((*r).connection) },
        // SAFETY: as the caller vouches.
        complete: unsafe { is_complete(pc, u) },
        local_fault: this.local_fault,
        header_ns: some(this.header_ns),
        first_byte_ns: some(this.first_byte_ns),
        held_ns: now.since(this.ticket.as_ref().map_or(now, |ticket| ticket.start)),
    }
}

/// Whether reading or writing took longer than nginx allows.
///
/// # Safety
/// `connection` is live.
#[cold]
unsafe fn has_timed_out(connection: *const ngx_connection_t) -> bool {
    // SAFETY: as the caller vouches; a connection has its two events.
    unsafe { bits::event::timedout((*connection).read) != 0 || bits::event::timedout((*connection).write) != 0 }
}

/// Whether nginx has given up on the client behind `connection`.
///
/// # Safety
/// `connection` is live.
unsafe fn is_gone(connection: *const ngx_connection_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { bits::connection::error(connection) != 0 || bits::connection::timedout(connection) != 0 }
}

/// A time of the record, which has 0 for none.
fn some(ns: u64) -> Option<u64> {
    (ns != 0).then_some(ns)
}

/// Whether the response came to its end, as far as nginx reads it.
///
/// # Safety
/// `pc` and `u` belong to one live request.
unsafe fn is_complete(pc: *const ngx_peer_connection_t, u: *const nginx_sys::ngx_http_upstream_t) -> bool {
    // SAFETY: as the caller vouches; `pipe` is set whenever `buffering` is.
    unsafe {
        let connection = (*pc).connection;
        // Without a connection keepalive has it, which takes only finished ones. Without a header
        // sent on, nginx answers by itself.
        if connection.is_null() || bits::upstream::header_sent(u) == 0 || bits::upstream::upgrade(u) != 0 {
            return true;
        }
        let pipe = (*u).pipe;
        if bits::upstream::buffering(u) != 0 && !pipe.is_null() {
            return bits::pipe::upstream_done(pipe) != 0
                || (*pipe).length == 0
                || (bits::pipe::upstream_eof(pipe) != 0 && (*pipe).length == -1);
        }
        (*u).length == 0
            || ((*u).length == -1
                && bits::event::eof((*connection).read) != 0
                && bits::event::error((*connection).read) == 0)
    }
}

/// Gives back whatever the request still has: its place in the queue, its slot. For ends that nginx
/// does not report through `free`.
///
/// # Safety
/// `state` is a live record.
pub(crate) unsafe fn abandon(state: *mut RequestState) {
    // SAFETY: as the caller vouches.
    unsafe {
        match (*state).stage {
            // `free` has taken all else back.
            Stage::Idle if (*state).ticket.is_none() => return,
            Stage::Parked => queue::leave(state),
            Stage::TurnedAway => queue_end::forget(state),
            Stage::Idle | Stage::Granted | Stage::Holding => {}
        }
        first_byte::unhook(state);
        (*state).stage = Stage::Idle;
        if let Some(ticket) = (*state).ticket.take() {
            release(&*state, ticket, &Facts { local_fault: true, ..Facts::default() }, clock::now());
        }
    }
}

/// Serves the attempt by nginx's own round robin, below whatever wraps us.
///
/// # Safety
/// As [`get_ours`].
unsafe fn fallback_get(pc: *mut ngx_peer_connection_t, state: *mut RequestState) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        abandon(state);
        if (*state).fallback.is_null() {
            let Some(data) = round_robin((*state).request) else { return nginx::BUSY };
            (*state).fallback = data;
        }
        nginx_sys::ngx_http_upstream_get_round_robin_peer(pc, (*state).fallback)
    }
}

/// The data of nginx's round robin for `r`; `None` when out of memory.
///
/// # Safety
/// `r` is live and has its upstream.
unsafe fn round_robin(r: *mut ngx_http_request_t) -> Option<*mut c_void> {
    // SAFETY: as the caller vouches; round robin's `init` overwrites the interface in `u->peer`,
    // which is put back, since keepalive may have wrapped it.
    unsafe {
        let u = (*r).upstream;
        let peer = &raw mut (*u).peer;
        let kept = ((*peer).data, (*peer).get, (*peer).free, (*peer).set_session, (*peer).save_session, (*peer).tries);
        let made = nginx_sys::ngx_http_upstream_init_round_robin_peer(r, (*u).upstream);
        let data = (*peer).data;
        ((*peer).data, (*peer).get, (*peer).free, (*peer).set_session, (*peer).save_session, (*peer).tries) = kept;
        (made == nginx::OK).then_some(data)
    }
}
