//! nginx's balancer interface: `init_upstream` at configuration, `init` for each request, `get` and `free` for each attempt.
//!
//! Never keeps nginx's round robin records: peers live in the zone. Round robin is initialised all the same, because it checks the
//! upstream and is what serves a request when something of ours fails.

use super::conf::{DeclaredPeer, UpstreamConf};
use super::request::{RequestState, Stage, Tried};
use super::{bits, clock, conf, first_byte, grpc, log, nginx, process, queue, request, session};
use crate::conf::DirectiveError;
use crate::phase::outcome::{Facts, outcome};
use nginx_sys::{
    NGX_HTTP_UPSTREAM_BACKUP, NGX_HTTP_UPSTREAM_CREATE, NGX_HTTP_UPSTREAM_DOWN, NGX_HTTP_UPSTREAM_FAIL_TIMEOUT,
    NGX_HTTP_UPSTREAM_MAX_CONNS, NGX_HTTP_UPSTREAM_MAX_FAILS, NGX_HTTP_UPSTREAM_WEIGHT, ngx_conf_t, ngx_http_request_t,
    ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_peer_connection_t, ngx_uint_t,
};
use pincer_core::estimate::HALF_LIFE_NS;
use pincer_core::pick::{Demand, THETA};
use pincer_core::time::{MILLISECOND_NS, MonoNs};
use pincer_core::zone::{BalanceParams, Claim, Outcome, PeerSpec, Quick, Ticket, UpstreamIdx, Zone, check_declared};
use std::ffi::c_void;
use std::ptr::NonNull;

/// nginx's defaults of `max_fails` and `fail_timeout`: a `server` line that says neither leaves the breaker its own rule.
const MAX_FAILS_DEFAULT: usize = 1;
const FAIL_TIMEOUT_S_DEFAULT: i64 = 10;

/// Makes Pincer the balancer of the upstream that is being read.
pub(crate) fn capture(cf: *mut ngx_conf_t) -> Result<(), DirectiveError> {
    // SAFETY: inside `upstream {}` the context's `srv_conf` has the upstream module's configuration of it.
    let upstream = unsafe {
        let context = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        let index = nginx_sys::ngx_http_upstream_module.ctx_index;
        &mut *(*(*context).srv_conf.add(index)).cast::<ngx_http_upstream_srv_conf_t>()
    };
    if upstream.peer.init_upstream.is_some() {
        return Err(DirectiveError(
            "\"pincer_balance\" stands after \"keepalive\" or another balancing method, it must stand before \"keepalive\" and alone"
                .to_owned(),
        ));
    }
    upstream.peer.init_upstream = Some(init_upstream);
    let flags = NGX_HTTP_UPSTREAM_CREATE
        | NGX_HTTP_UPSTREAM_WEIGHT
        | NGX_HTTP_UPSTREAM_MAX_CONNS
        | NGX_HTTP_UPSTREAM_MAX_FAILS
        | NGX_HTTP_UPSTREAM_FAIL_TIMEOUT
        | NGX_HTTP_UPSTREAM_DOWN
        | NGX_HTTP_UPSTREAM_BACKUP;
    upstream.flags = flags as ngx_uint_t;
    Ok(())
}

/// Copies the `server` lines and the parameters.
unsafe extern "C" fn init_upstream(cf: *mut ngx_conf_t, upstream: *mut ngx_http_upstream_srv_conf_t) -> ngx_int_t {
    super::guard("init_upstream", nginx::ERROR, || {
        // SAFETY: nginx passes the configuration and the upstream it belongs to; round robin's own initialisation comes first and replaces
        // `peer.init`, which is set again below.
        unsafe {
            if nginx_sys::ngx_http_upstream_init_round_robin(cf, upstream) != nginx::OK {
                return nginx::ERROR;
            }
            let conf = conf::of_upstream(upstream);
            conf.name.replace(nginx::bytes((*upstream).host).to_vec());
            conf.host.set(NonNull::new(&raw mut (*upstream).host));
            conf.peers.replace(declared_peers(upstream));
            let _ = conf.params.set(params(conf));
            conf.initialised.set(true);
            (*upstream).peer.init = Some(init_peer);
        }
        nginx::OK
    })
}

/// # Safety
/// `upstream` is live, its addresses resolved.
unsafe fn declared_peers(upstream: *const ngx_http_upstream_srv_conf_t) -> Vec<DeclaredPeer> {
    let mut peers = Vec::new();
    // SAFETY: nginx's own arrays of `server` lines and their addresses.
    unsafe {
        for server in nginx::elements::<nginx_sys::ngx_http_upstream_server_t>((*upstream).servers) {
            let addresses =
                if server.naddrs == 0 { &[][..] } else { std::slice::from_raw_parts(server.addrs, server.naddrs) };
            for address in addresses {
                let sockaddr = std::slice::from_raw_parts(address.sockaddr.cast::<u8>(), address.socklen as usize);
                let peer = DeclaredPeer {
                    sockaddr: sockaddr.to_vec(),
                    name: nginx::bytes(address.name).to_vec(),
                    server: nginx::bytes(server.name).to_vec(),
                    weight: clamp_u32(server.weight),
                    max_conns: clamp_u32(server.max_conns),
                    max_fails: clamp_u32(server.max_fails),
                    fail_timeout_ms: u32::try_from(server.fail_timeout.saturating_mul(1_000)).unwrap_or(u32::MAX),
                    max_fails_explicit: server.max_fails != MAX_FAILS_DEFAULT
                        || server.fail_timeout != FAIL_TIMEOUT_S_DEFAULT,
                    backup: bits::upstream_server::backup(server) != 0,
                    down: server.down != 0,
                };
                add(&mut peers, peer);
            }
        }
    }
    peers
}

/// Adds an address. One that stands twice in an upstream is one peer: of the lines that are no `backup`, or of those that are if all are,
/// weights and slots are summed up, and it is `down` if all of them are.
fn add(peers: &mut Vec<DeclaredPeer>, peer: DeclaredPeer) {
    let Some(twin) = peers.iter_mut().find(|twin| twin.sockaddr == peer.sockaddr) else { return peers.push(peer) };
    let name = String::from_utf8_lossy(&peer.name).into_owned();
    log::write_cycle(
        log::NGX_LOG_WARN,
        &format!("takes an address that stands twice in an upstream as one peer, address={name}"),
    );
    match (twin.backup, peer.backup) {
        (false, true) => return,
        (true, false) => return *twin = peer,
        _ => {}
    }
    twin.weight = twin.weight.saturating_add(peer.weight);
    let unlimited = twin.max_conns == 0 || peer.max_conns == 0;
    twin.max_conns = if unlimited { 0 } else { twin.max_conns.saturating_add(peer.max_conns) };
    twin.down &= peer.down;
}

fn clamp_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn params(conf: &UpstreamConf) -> BalanceParams {
    let balance = conf.balance.clone().unwrap_or_default();
    BalanceParams {
        signal: balance.signal.unwrap_or_default(),
        half_life_ns: balance.half_life_ms.map_or(HALF_LIFE_NS, |ms| ms.saturating_mul(MILLISECOND_NS)),
        slow_start_ns: balance.slow_start_ms.unwrap_or(0).saturating_mul(MILLISECOND_NS),
        theta: THETA,
    }
}

/// What only shows once the whole upstream is read.
pub(crate) fn check(conf: &UpstreamConf) -> Result<(), String> {
    let peers = conf.peers.borrow();
    let specs: Vec<PeerSpec<'_>> = peers.iter().map(DeclaredPeer::spec).collect();
    check_declared(&conf.name.borrow(), &specs)
        .map_err(|error| format!("\"pincer_balance\": {error} {}", conf.place.borrow()))?;
    let has_odd_name = |name: &str| name.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control());
    if std::str::from_utf8(&conf.name.borrow()).is_ok_and(has_odd_name) {
        let place = conf.place.borrow();
        return Err(format!(
            "\"pincer_balance\" is in an upstream whose name has \"/\", white space or a control character, one without is needed {place}"
        ));
    }
    let slots = peers.iter().any(|peer| peer.max_conns > 0);
    if conf.queue.is_some() && !slots {
        log::write_cycle(
            log::NGX_LOG_WARN,
            &format!("\"pincer_queue\" has no effect until a server has \"max_conns\", {}", conf.place.borrow()),
        );
    }
    Ok(())
}

/// A request comes to the upstream.
unsafe extern "C" fn init_peer(r: *mut ngx_http_request_t, upstream: *mut ngx_http_upstream_srv_conf_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request and its upstream; so in both closures.
    let ours = super::guard("peer.init", None, || unsafe { init_ours(r, upstream) });
    ours.unwrap_or_else(|| {
        process::count_fail_open();
        // SAFETY: round robin was initialised in `init_upstream`.
        unsafe { nginx_sys::ngx_http_upstream_init_round_robin_peer(r, upstream) }
    })
}

/// # Safety
/// As [`init_peer`]. `None` when the request must be served without Pincer.
unsafe fn init_ours(r: *mut ngx_http_request_t, upstream: *mut ngx_http_upstream_srv_conf_t) -> Option<ngx_int_t> {
    // SAFETY: as the caller vouches; the record is the only reference while this function runs.
    unsafe {
        let conf = conf::of_upstream(upstream);
        let zone = conf.zone.get()?;
        let index = conf.index.get()?;
        let worker = process::worker()?;
        let state = match request::find(r) {
            Some(state) => state,
            None => request::create(r, conf, zone, worker)?,
        };
        if (*state).stage != Stage::Idle {
            abandon(state);
        }
        (*state).conf = conf;
        (*state).number = conf.number();
        (*state).tried = Tried::default();
        (*state).fallback = std::ptr::null_mut();
        (*state).redirect_pending = (*state).attempts_len > 0;
        (*state).affinity = affinity(r, conf);
        let pc = &mut (*(*r).upstream).peer;
        pc.data = state.cast();
        pc.get = Some(get);
        pc.free = Some(free);
        pc.set_session = Some(session::set);
        pc.save_session = Some(session::save);
        pc.tries = tries(zone, index);
        Some(nginx::OK)
    }
}

/// The attempts nginx may make: one for each peer.
fn tries(zone: &Zone<'_>, index: UpstreamIdx) -> ngx_uint_t {
    zone.upstream(index).map_or(1, |upstream| upstream.peers_len()).max(1)
}

/// The hash of the affinity variable; 0 without one, or when it is empty.
///
/// # Safety
/// `r` is live.
unsafe fn affinity(r: *mut ngx_http_request_t, conf: &UpstreamConf) -> u64 {
    let Some(compiled) = conf.affinity.get() else { return 0 };
    // SAFETY: `r` is live, `compiled` was compiled for this configuration.
    let value = unsafe { nginx::complex_value(r, compiled) }.unwrap_or_default();
    if value.is_empty() { 0 } else { xxhash_rust::xxh3::xxh3_64(value).max(1) }
}

/// nginx wants a peer.
unsafe extern "C" fn get(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    let state = data.cast::<RequestState>();
    // SAFETY: nginx passes what `init_ours` stored; so below.
    let answer = super::guard("peer.get", None, || unsafe { get_ours(pc, state) });
    answer.unwrap_or_else(|| {
        process::count_fail_open();
        // SAFETY: as above.
        super::guard("peer.get without pincer", nginx::BUSY, || unsafe { fallback_get(pc, state) })
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
    let can_wait = this.conf.queue.is_some();
    if !can_wait || !this.zone.any_waiting(index) {
        let now = clock::now();
        let mut lost = false;
        if this.is_ordinary() {
            let mut plan = this.conf.plan.try_borrow_mut().ok()?;
            match this.zone.claim_quick(index, this.worker, &mut plan, this.explores(), this.conf.params(), now) {
                Quick::Taken(ticket) => {
                    this.ticket = Some(ticket);
                    drop(plan);
                    return bind(pc, this);
                }
                Quick::Undecided => {}
                Quick::Lost => lost = true,
            }
        }
        let claimed = this.zone.claim(index, this.worker, &demand(this, 1, 0), this.conf.params(), now);
        if (claimed.kick || lost) && can_wait {
            queue::kick(this.conf, this.zone);
        }
        match claimed.claim {
            Claim::Taken(ticket) => {
                this.ticket = Some(ticket);
                return bind(pc, this);
            }
            Claim::Full | Claim::NoPeer => return Some(busy(pc, this.conf)),
            Claim::Wait if !can_wait => return Some(busy(pc, this.conf)),
            Claim::Wait => {}
        }
    }
    // SAFETY: `state` stays where it is, in the request's pool.
    Some(unsafe { queue::park(pc, state) })
}

/// No peer for the request: nginx shows the upstream's name instead, as it does for its own balancers.
pub(crate) fn busy(pc: &mut ngx_peer_connection_t, conf: &UpstreamConf) -> ngx_int_t {
    if let Some(host) = conf.host.get() {
        pc.name = host.as_ptr();
    }
    nginx::BUSY
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
        ..Demand::default()
    }
}

/// Gives nginx the peer of the ticket in hand. The first attempt keeps its address for the log; those of later attempts are copied into the
/// request's pool.
fn bind(pc: &mut ngx_peer_connection_t, state: &mut RequestState) -> Option<ngx_int_t> {
    let ticket = state.ticket.as_ref()?;
    let peer = state.zone.peer(ticket.peer)?;
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
    state.header_ns = 0;
    state.first_byte_ns = 0;
    state.local_fault = false;
    state.stage = Stage::Holding;
    Some(nginx::OK)
}

/// nginx is done with the peer.
unsafe extern "C" fn free(pc: *mut ngx_peer_connection_t, data: *mut c_void, flags: ngx_uint_t) {
    let state = data.cast::<RequestState>();
    super::guard("peer.free", (), || {
        // SAFETY: nginx passes what `init_ours` stored, of a live request.
        unsafe {
            if !(*state).fallback.is_null() {
                nginx_sys::ngx_http_upstream_free_round_robin_peer(pc, (*state).fallback, flags);
                return;
            }
            match (*state).stage {
                Stage::Idle => {}
                Stage::Parked => queue::leave(state),
                Stage::TurnedAway => queue::forget(state),
                Stage::Granted => abandon(state),
                Stage::Holding => {
                    first_byte::unhook(state);
                    let now = clock::now();
                    finish(&mut *state, &facts(pc, state, flags, now), now);
                }
            }
            (*pc).tries = (*pc).tries.saturating_sub(1);
        }
    });
}

/// Gives the slot back, with what the attempt says of the peer, and lets the next one in.
fn finish(state: &mut RequestState, facts: &Facts, now: MonoNs) {
    state.stage = Stage::Idle;
    let Some(ticket) = state.ticket.take() else { return };
    // A connection that the peer had closed while idle says nothing: nginx may try that peer again, and does.
    if facts.failed && (!facts.cached || facts.status != 0) {
        state.tried.add(ticket.index);
    }
    release(state, ticket, facts, now);
}

fn release(state: &RequestState, ticket: Ticket, facts: &Facts, now: MonoNs) {
    let params = state.conf.params();
    let outcome = outcome(facts);
    // Only a breaker that opens needs chance.
    let random = if outcome == Outcome::Failure { clock::random() } else { 0 };
    state.zone.release(ticket, state.worker, outcome, params, now, random);
    if state.conf.queue.is_some() {
        queue::kick(state.conf, state.zone);
    }
}

/// What nginx knows of the attempt that ends.
///
/// # Safety
/// `pc` and `state` belong to one live request, whose upstream is `r->upstream`.
unsafe fn facts(pc: *const ngx_peer_connection_t, state: *const RequestState, flags: ngx_uint_t, now: MonoNs) -> Facts {
    // SAFETY: as the caller vouches; `pipe` is set whenever `buffering` is.
    unsafe {
        let r = (*state).request;
        let u = (*r).upstream;
        let start = (*state).ticket.as_ref().map_or(now, |ticket| ticket.start);
        let status = (*u).headers_in.status_n;
        Facts {
            failed: flags & nginx_sys::NGX_PEER_FAILED as ngx_uint_t != 0,
            passed_on: flags & nginx_sys::NGX_PEER_NEXT as ngx_uint_t != 0,
            cached: bits::peer::cached(pc) != 0,
            status,
            grpc_status: if status == 200 && grpc::is_grpc(u) { grpc::status(u) } else { None },
            client_gone: bits::connection::error((*r).connection) != 0
                || bits::connection::timedout((*r).connection) != 0,
            complete: is_complete(pc, u),
            local_fault: (*state).local_fault,
            header_ns: some((*state).header_ns),
            first_byte_ns: some((*state).first_byte_ns),
            held_ns: now.since(start),
        }
    }
}

/// A time of the record, which has 0 for none.
fn some(ns: u64) -> Option<u64> {
    (ns != 0).then_some(ns)
}

/// Whether the answer came to its end, as far as nginx reads it.
///
/// # Safety
/// `pc` and `u` belong to one live request.
unsafe fn is_complete(pc: *const ngx_peer_connection_t, u: *const nginx_sys::ngx_http_upstream_t) -> bool {
    // SAFETY: as the caller vouches; `pipe` is set whenever `buffering` is.
    unsafe {
        let connection = (*pc).connection;
        // Without a connection keepalive has it, which takes only finished ones. Without a header sent on, nginx answers by itself.
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

/// Gives back whatever the request still has: its place in the queue, its slot. For ends that nginx does not report through `free`.
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
            Stage::TurnedAway => queue::forget(state),
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
    // SAFETY: as the caller vouches; round robin's `init` overwrites the interface in `u->peer`, which is put back, since keepalive may
    // have wrapped it.
    unsafe {
        abandon(state);
        let data = match (*state).fallback {
            data if !data.is_null() => data,
            _ => {
                let r = (*state).request;
                let u = (*r).upstream;
                let peer = &mut (*u).peer;
                let kept = (peer.data, peer.get, peer.free, peer.set_session, peer.save_session, peer.tries);
                let answer = nginx_sys::ngx_http_upstream_init_round_robin_peer(r, (*u).upstream);
                let data = peer.data;
                (peer.data, peer.get, peer.free, peer.set_session, peer.save_session, peer.tries) = kept;
                if answer != nginx::OK {
                    return nginx::BUSY;
                }
                (*state).fallback = data;
                data
            }
        };
        nginx_sys::ngx_http_upstream_get_round_robin_peer(pc, data)
    }
}
