//! Requests that wait for a slot. Each worker has a private queue, ordered by key; the zone holds each worker's best key, and the
//! least of all goes next, whichever worker frees the slot.
//!
//! A waiting request sits on a placeholder connection that nginx sets up as if it were connecting (NGX_AGAIN from `get`). When a slot
//! comes it is swapped for a real one. Nothing is pushed to a waiter: whoever frees a slot kicks the owner of the least key, who looks for
//! itself, so a death in between loses nothing. A timer looks again every [`TICK_MS`] while anything waits: for kicks that
//! could not be sent, breakers that may try again, and workers that died. Bound: `pincer_queue size=` over all workers.

use super::conf::UpstreamConf;
use super::request::{Parking, RequestState, ShownTime, Stage};
use super::{balancer, clock, nginx, process, wake};
use nginx_sys::{ngx_connection_t, ngx_event_t, ngx_http_upstream_t, ngx_int_t, ngx_msec_t, ngx_peer_connection_t};
use pincer_core::time::MILLISECOND_NS;
use pincer_core::zone::{Claim, Ticket, WorkerIdx, Zone};

/// How often a worker with waiting requests looks by itself, in milliseconds.
pub(crate) const TICK_MS: ngx_msec_t = 100;

/// A worker that has not answered a kick for so long is passed over, until it does. A healthy loop answers in 0.1 ms.
const KICK_STALE_NS: u64 = 30 * MILLISECOND_NS;

/// Requests resumed in one go, before other events get their turn.
const RESUMES_MAX: usize = 64;

const AF_UNIX: libc::sa_family_t = 1;
/// Length of an unnamed unix socket's address: its family alone.
const SA_FAMILY_LEN: u32 = 2;
const _: () = assert!(libc::AF_UNIX == 1 && size_of::<libc::sa_family_t>() == 2);

/// The queue's priority of a request without a class.
const PRIORITY_DEFAULT: u8 = 100;

/// The request's parking record, made if it never waited before; `None` when memory is out.
///
/// # Safety
/// `state` is live and not parked.
unsafe fn parking(state: *mut RequestState) -> Option<*mut Parking> {
    // SAFETY: as the caller vouches; the pool answers null or memory aligned to a word, and zeroes are a value of the record.
    unsafe {
        if (*state).parking.is_null() {
            (*state).parking = nginx_sys::ngx_pcalloc((*(*state).request).pool, size_of::<Parking>()).cast();
        }
        (!(*state).parking.is_null()).then(|| (*state).parking)
    }
}

/// Lets the request wait: NGX_AGAIN, or NGX_BUSY when the queue is full.
///
/// # Safety
/// `pc` and `state` belong to one live request, whose upstream has a queue.
pub(crate) unsafe fn park(pc: *mut ngx_peer_connection_t, state: *mut RequestState) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    let this = unsafe { &mut *state };
    let (conf, zone, worker) = (this.conf, this.zone, this.worker);
    let (Some(queue), Some(index)) = (conf.queue, conf.index.get()) else { return nginx::BUSY };
    if !zone.waiting_add(index, worker, queue.size) {
        zone.queue_overflow(index);
        // SAFETY: `pc` is live.
        return balancer::busy(unsafe { &mut *pc }, conf);
    }
    // SAFETY: `pc` and its request are live.
    let parts = unsafe { parking(state).and_then(|parking| Some((parking, placeholder(pc)?))) };
    let Some((parking, placeholder)) = parts else {
        zone.waiting_sub(index, worker);
        return nginx::ERROR;
    };
    conf.local.prepare(conf);
    this.stage = Stage::Parked;
    // SAFETY: as the caller vouches; events and link live in the record, which stays in the request's pool.
    unsafe {
        (*pc).connection = placeholder;
        (*parking).family = AF_UNIX;
        (*pc).sockaddr = (&raw mut (*parking).family).cast();
        (*pc).socklen = SA_FAMILY_LEN;
        balancer::busy(&mut *pc, conf);
        (*parking).state = state;
        (*parking).key = zone.next_key(index, PRIORITY_DEFAULT);
        (*parking).parked_at = clock::now();
        conf.local.insert(parking);
        prepare_event(&raw mut (*parking).settle_event, state, on_settle);
        prepare_event(&raw mut (*parking).timeout_event, state, on_timeout);
        nginx::arm(
            &raw mut (*parking).timeout_event,
            ngx_msec_t::try_from(queue.timeout_ms).unwrap_or(ngx_msec_t::MAX >> 1),
        );
        nginx::arm(conf.local.tick_event.get(), TICK_MS);
        nginx::post(&raw mut (*parking).settle_event);
    }
    conf.local.publish(zone, index, worker);
    nginx::AGAIN
}

unsafe fn prepare_event(
    event: *mut ngx_event_t,
    state: *mut RequestState,
    handler: unsafe extern "C" fn(*mut ngx_event_t),
) {
    // SAFETY: an event inside the live record, not in use.
    unsafe {
        event.write(std::mem::zeroed());
        (*event).data = state.cast();
        (*event).handler = Some(handler);
        (*event).log = (*(*(*state).request).connection).log;
    }
}

/// A connection object that is in no event loop: nginx arms its timer on it and closes it, nothing else ever happens to it.
///
/// # Safety
/// `pc` is live.
unsafe fn placeholder(pc: *const ngx_peer_connection_t) -> Option<*mut ngx_connection_t> {
    let descriptor = process::placeholder_descriptor()?;
    // SAFETY: as the caller vouches.
    unsafe {
        let log = (*pc).log;
        let connection = nginx_sys::ngx_get_connection(descriptor, log);
        if connection.is_null() {
            libc::close(descriptor);
            return None;
        }
        (*(*connection).read).log = log;
        (*(*connection).write).log = log;
        (*connection).log = log;
        Some(connection)
    }
}

/// Takes the request out of the queue, with its events. The placeholder stays nginx's.
///
/// # Safety
/// `state` is live and parked.
unsafe fn unlink(state: *mut RequestState) {
    // SAFETY: a parked record is in the list of its upstream.
    unsafe {
        let parking = (*state).parking;
        nginx_sys::ngx_queue_remove(&raw mut (*parking).link);
        nginx::cancel(&raw mut (*parking).settle_event);
        nginx::cancel(&raw mut (*parking).timeout_event);
        (*state).stage = Stage::Idle;
        let waited_ns = clock::now().since((*parking).parked_at);
        if let Some(attempt) = (*state).attempt() {
            attempt.queue = ShownTime::of_ns(waited_ns);
        }
        let conf = (*state).conf;
        if let Some(index) = conf.index.get() {
            conf.local.publish((*state).zone, index, (*state).worker);
            (*state).zone.waiting_sub(index, (*state).worker);
        }
        if conf.local.first().is_none() {
            nginx::cancel(conf.local.tick_event.get());
        }
    }
}

/// The request gives up its place: the client left, or its wait is over. A kick that it swallowed is passed on.
///
/// # Safety
/// `state` is live and parked.
pub(crate) unsafe fn leave(state: *mut RequestState) {
    // SAFETY: as the caller vouches.
    let (conf, zone) = unsafe {
        unlink(state);
        ((*state).conf, (*state).zone)
    };
    kick(conf, zone);
}

/// A slot may be free: has the owner of the least key look. Cheap when nothing waits.
pub(crate) fn kick(conf: &'static UpstreamConf, zone: &Zone<'_>) {
    let Some(index) = conf.index.get() else { return };
    if zone.waiting(index) == 0 {
        return;
    }
    let now = clock::now();
    let me = process::worker();
    let stale = |worker: WorkerIdx| Some(worker) != me && is_stale(zone, worker, now.0);
    match zone.least_head(index, stale) {
        Some((worker, _)) if Some(worker) == me => drain_later(conf),
        Some((worker, _)) => kick_worker(zone, worker, now.0),
        None => {}
    }
}

fn is_stale(zone: &Zone<'_>, worker: WorkerIdx, now_ns: u64) -> bool {
    zone.workers.get(usize::from(worker.0)).is_some_and(|slot| slot.kick_stale(now_ns, KICK_STALE_NS))
}

fn kick_worker(zone: &Zone<'_>, worker: WorkerIdx, now_ns: u64) {
    if let Some(slot) = zone.workers.get(usize::from(worker.0)) {
        slot.kick_sent(now_ns);
    }
    if wake::kick(worker) {
        zone.header.counters.kicks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Looks for slots later in this turn of the event loop.
pub(crate) fn drain_later(conf: &'static UpstreamConf) {
    conf.local.prepare(conf);
    // SAFETY: the event lives in the configuration.
    unsafe { nginx::post(conf.local.drain_event.get()) };
}

/// Hands out slots to this worker's waiting requests, as long as theirs is the least key.
pub(crate) fn drain(conf: &'static UpstreamConf) {
    let (Some(zone), Some(index), Some(me)) = (conf.zone.get(), conf.index.get(), process::worker()) else { return };
    if let Some(slot) = zone.workers.get(usize::from(me.0)) {
        slot.kick_answered();
    }
    for _ in 0..RESUMES_MAX {
        let Some(state) = conf.local.first() else { return };
        let now = clock::now();
        match zone.least_head(index, |worker| worker != me && is_stale(zone, worker, now.0)) {
            Some((worker, _)) if worker != me => {
                if zone.any_free(index, conf.params(), now) {
                    kick_worker(zone, worker, now.0);
                }
                return;
            }
            _ => {}
        }
        // SAFETY: the first of the list is live; the reference ends before nginx gets a turn.
        let demand = unsafe { balancer::demand(&*state, zone.waiting(index)) };
        let claimed = zone.claim(index, me, &demand, conf.params(), now);
        if claimed.kick {
            drain_later(conf);
        }
        match claimed.claim {
            // SAFETY: `state` is live and parked; neither is touched afterwards.
            Claim::Taken(ticket) => unsafe { grant(state, ticket) },
            Claim::Wait | Claim::Full => return,
            // SAFETY: as above.
            Claim::NoPeer => unsafe { refuse(state) },
        }
    }
    drain_later(conf);
}

/// Swaps the placeholder for a connection to the ticket's peer and lets nginx go on.
///
/// # Safety
/// `state` is live and parked. It may be gone afterwards.
unsafe fn grant(state: *mut RequestState, ticket: Ticket) {
    // SAFETY: a parked request has its upstream and its placeholder; nginx is not inside this request, as a drain runs from the loop.
    unsafe {
        let waited_ns = clock::now().since((*(*state).parking).parked_at);
        unlink(state);
        if let Some(index) = (*state).conf.index.get() {
            (*state).zone.queue_left(index, waited_ns);
        }
        (*state).ticket = Some(ticket);
        (*state).stage = Stage::Granted;
        let u = (*(*state).request).upstream;
        let placeholder = (*u).peer.connection;
        (*u).start_time = nginx::current_msec();
        let answer = nginx_sys::ngx_event_connect_peer(&raw mut (*u).peer);
        if answer != nginx::OK && answer != nginx::AGAIN && answer != nginx::DONE {
            (*state).local_fault = answer == nginx::ERROR;
            (*u).peer.connection = placeholder;
            fail(u);
            return;
        }
        adopt(u, placeholder);
        nginx::close_connection(placeholder);
        if answer == nginx::AGAIN {
            nginx_sys::ngx_add_timer((*(*u).peer.connection).write, (*(*u).conf).connect_timeout);
            return;
        }
        run_write_handler((*u).peer.connection);
    }
}

/// Gives the new connection what nginx gave the placeholder.
///
/// # Safety
/// `u` is live and connected or connecting; `placeholder` is still open.
unsafe fn adopt(u: *mut ngx_http_upstream_t, placeholder: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches; the pool moves from the one connection to the other unless keepalive's has its own.
    unsafe {
        let c = (*u).peer.connection;
        let r = (*placeholder).data.cast::<nginx_sys::ngx_http_request_t>();
        (*c).requests += 1;
        (*c).data = (*placeholder).data;
        (*(*c).write).handler = (*(*placeholder).write).handler;
        (*(*c).read).handler = (*(*placeholder).read).handler;
        (*c).set_sendfile((*c).sendfile() & (*(*r).connection).sendfile());
        (*u).output.set_sendfile((*c).sendfile());
        if (*(*r).connection).tcp_nopush() == nginx_sys::ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED {
            (*c).set_tcp_nopush(nginx_sys::ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED);
        }
        if (*c).pool.is_null() {
            (*c).pool = std::mem::replace(&mut (*placeholder).pool, std::ptr::null_mut());
        }
        let log = (*(*r).connection).log;
        (*c).log = log;
        (*(*c).pool).log = log;
        (*(*c).read).log = log;
        (*(*c).write).log = log;
        (*u).writer.connection = c;
        if !(*u).state.is_null() {
            (*(*u).state).peer = (*u).peer.name;
        }
    }
}

/// No peer is eligible any more: nginx asks for one itself and hears so.
///
/// # Safety
/// `state` is live and parked. It may be gone afterwards.
unsafe fn refuse(state: *mut RequestState) {
    // SAFETY: as the caller vouches.
    unsafe {
        let u = (*(*state).request).upstream;
        unlink(state);
        fail(u);
    }
}

/// Makes nginx see a failed connect on the placeholder: its descriptor becomes a socket with a pending ECONNRESET, so that nginx's own test
/// fails, in its own words and with its own choice of the next peer.
///
/// # Safety
/// `u` is live, on its placeholder. It may be gone afterwards.
unsafe fn fail(u: *mut ngx_http_upstream_t) {
    // SAFETY: as the caller vouches; the descriptor is the placeholder's own, in no event loop.
    unsafe {
        let connection = (*u).peer.connection;
        if !poison((*connection).fd) {
            (*(*connection).write).set_timedout(1);
        }
        run_write_handler(connection);
    }
}

/// Puts a reset socket behind `descriptor`; `false` when descriptors are out.
fn poison(descriptor: i32) -> bool {
    let mut pair = [0_i32; 2];
    // SAFETY: makes two sockets, closes both again; a unix socket whose other end closes with unread bytes gets ECONNRESET.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        if libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) != 0 {
            return false;
        }
        libc::write(pair[0], b"x".as_ptr().cast(), 1);
        libc::close(pair[1]);
        let moved = libc::dup3(pair[0], descriptor, libc::O_CLOEXEC);
        libc::close(pair[0]);
        moved == descriptor
    }
}

/// # Safety
/// `connection` has nginx's handlers. The request may be gone afterwards.
unsafe fn run_write_handler(connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        let write = (*connection).write;
        if let Some(handler) = (*write).handler {
            handler(write);
        }
    }
}

/// Right after parking: nginx has armed its connect timeout on the placeholder, which is not what limits a wait.
unsafe extern "C" fn on_settle(event: *mut ngx_event_t) {
    super::guard("queue settle", (), || {
        // SAFETY: the event is cancelled before its record goes.
        let conf = unsafe {
            let state = (*event).data.cast::<RequestState>();
            let connection = (*(*(*state).request).upstream).peer.connection;
            if !connection.is_null() && (*(*connection).write).timer_set() != 0 {
                nginx_sys::ngx_del_timer((*connection).write);
            }
            (*state).conf
        };
        drain(conf);
    });
}

/// The wait is over: nginx answers 504, without asking for another peer.
unsafe extern "C" fn on_timeout(event: *mut ngx_event_t) {
    super::guard("queue timeout", (), || {
        // SAFETY: as in `on_settle`.
        unsafe {
            let state = (*event).data.cast::<RequestState>();
            if let Some(index) = (*state).conf.index.get() {
                (*state).zone.queue_timeout(index, clock::now().since((*(*state).parking).parked_at));
            }
            let u = (*(*state).request).upstream;
            leave(state);
            (*u).peer.tries = 0;
            let connection = (*u).peer.connection;
            (*(*connection).write).set_timedout(1);
            run_write_handler(connection);
        }
    });
}

pub(crate) unsafe extern "C" fn on_drain(event: *mut ngx_event_t) {
    super::guard("queue drain", (), || {
        // SAFETY: `prepare` stored the configuration, which outlives the loop.
        drain(unsafe { &*(*event).data.cast::<UpstreamConf>() });
    });
}

pub(crate) unsafe extern "C" fn on_tick(event: *mut ngx_event_t) {
    super::guard("queue tick", (), || {
        // SAFETY: as in `on_drain`.
        let conf: &'static UpstreamConf = unsafe { &*(*event).data.cast::<UpstreamConf>() };
        process::reclaim();
        drain(conf);
        if conf.local.first().is_some() {
            // SAFETY: the event lives in the configuration, and has just fired.
            unsafe { nginx::arm(event, TICK_MS) };
        }
    });
}
