//! Requests that wait for a slot. Each worker has its own in private lists; the zone shows what is
//! in them, and whose turn it is goes next, whichever worker frees the slot: the best class, the
//! oldest first, and a class that is owed its share before all.
//!
//! A waiting request sits on a placeholder connection that nginx sets up as if it were connecting
//! (NGX_AGAIN from `get`). When a slot comes it is swapped for a real one. Nothing is pushed to a
//! waiter: whoever frees a slot kicks the worker whose turn it is, which looks for itself, so a
//! death in between loses nothing. Likewise a request that must give way to a better one is sent
//! away by its own worker. A timer looks again every [`TICK_MS`] while anything waits: for kicks
//! that could not be sent, breakers that may try again, and workers that died; and sooner when a
//! request has waited as long beside a free slot as it may.
//!
//! How a wait ends without a peer is in [`super::queue_end`]. A retry is let in whatever waits. The
//! wait counts against no time limit of nginx's. Bound: `pincer_queue size=` over all workers, and
//! retries.

use super::kick::{drain_later, is_stale, kick, kick_worker};
use super::parking::{prepare_event, present, unlink};
use super::request::{RequestState, Stage, demand, of_waiter};
use super::terms::{Event, class_of, count, terms_of, timeout_ms};
use super::upstream::UpstreamConf;
use super::{placeholder, queue_end};
use crate::ffi::base::{bits, clock, event, nginx};
use crate::ffi::zone::worker;
use nginx_sys::{ngx_event_t, ngx_int_t, ngx_msec_t, ngx_peer_connection_t};
use pincer_core::zone::{Claim, Place, Ticket, UpstreamIdx, WorkerIdx, Zone};

/// How often a worker with waiting requests looks by itself, in milliseconds.
pub(crate) const TICK_MS: ngx_msec_t = 40;

/// Requests resumed in one go, before other events get their turn.
const RESUMES_MAX: usize = 64;

/// Lets the request wait: NGX_AGAIN, or NGX_BUSY when there is no place for it.
///
/// # Safety
/// `pc` and `state` belong to one live request, whose upstream has a queue.
pub(crate) unsafe fn park(pc: *mut ngx_peer_connection_t, state: *mut RequestState) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    let this = unsafe { &mut *state };
    let (conf, zone, worker) = (this.conf, this.zone, this.worker);
    let (Some(queue), Some(index)) = (conf.queue, conf.index.get()) else { return nginx::BUSY };
    let now = clock::now();
    let terms = |class| terms_of(zone, class);
    let is_retry = !this.tried.is_empty() || this.round > 0 || this.had_stale;
    let entered = if is_retry {
        zone.queue_enter_again(index, worker, class_of(this), &terms, now)
    } else {
        zone.queue_enter(index, worker, class_of(this), queue.size, &terms, now)
    };
    let place = match entered {
        Ok(place) => place,
        // SAFETY: as the caller vouches.
        Err(refused) => return unsafe { queue_end::turn_away(pc, state, refused) },
    };
    // SAFETY: `pc` and its request are live.
    let Some(parking) = (unsafe { present(pc, state) }) else {
        zone.queue_leave(index, worker, place.cell, conf.local.ends(place.cell));
        if is_retry {
            zone.queue_retry_left(index, worker);
        }
        kick(conf, zone);
        return nginx::ERROR;
    };
    this.stage = Stage::Parked;
    // SAFETY: as the caller vouches; events and link live in the record, which stays in the
    // request's pool.
    unsafe {
        let Place { cell, class, sequence, .. } = place;
        (*parking).waiter.cell = cell;
        (*parking).class = class;
        (*parking).waiter.sequence = sequence;
        (*parking).waiter.parked_at = now;
        (*parking).parked_ms = nginx::current_msec();
        (*parking).waiter.is_retry = is_retry;
        conf.local.prepare();
        conf.local.append(&raw mut (*parking).waiter);
        count(zone, index, worker, class, &Event::Entered);
        prepare_event(&raw mut (*parking).settle_event, state, event::handler::<Settle>);
        prepare_event(&raw mut (*parking).timeout_event, state, event::handler::<queue_end::Timeout>);
        let timeout_ms = timeout_ms(zone, class, queue.timeout_ms);
        nginx::arm(&raw mut (*parking).timeout_event, ngx_msec_t::try_from(timeout_ms).unwrap_or(ngx_msec_t::MAX >> 1));
        nginx::arm(conf.local.tick_event.get(), TICK_MS);
        nginx::post(&raw mut (*parking).settle_event);
    }
    nginx::AGAIN
}

/// The request gives up its place: the client left. A kick that it swallowed is passed on.
///
/// # Safety
/// `state` is live and parked.
pub(crate) unsafe fn leave(state: *mut RequestState) {
    // SAFETY: as the caller vouches.
    let (conf, zone) = unsafe {
        unlink(state, |_| Event::Left);
        ((*state).conf, (*state).zone)
    };
    kick(conf, zone);
}

/// Sends away those who must give way, and hands out slots to this worker's waiting requests, as
/// long as it is their turn.
pub(crate) fn drain(conf: &'static UpstreamConf) {
    let (Some(zone), Some(index), Some(me)) = (conf.zone.get(), conf.index.get(), worker::worker()) else { return };
    if let Some(slot) = zone.workers.get(usize::from(me.0)) {
        slot.kick_answered();
    }
    if conf.local.is_empty() {
        return;
    }
    trim(conf, zone, index, me);
    let terms = |class| terms_of(zone, class);
    for _ in 0..RESUMES_MAX {
        let now = clock::now();
        let next = zone.queue_next(index, &terms, |worker| worker != me && is_stale(zone, worker, now.0));
        let Some(turn) = next else { return };
        if turn.worker != me {
            if zone.any_free(index, conf.params(), now) {
                kick_worker(zone, turn.worker, now.0);
            }
            return;
        }
        let Some(waiter) = conf.local.oldest(turn.cell) else { return };
        // SAFETY: what a list links is live.
        let state = unsafe { of_waiter(waiter) };
        // SAFETY: the oldest of a list is live; the reference ends before nginx gets a turn.
        let demand = unsafe { demand(&*state, zone.waiting(index), conf.local.waited_ns(now)) };
        let claimed = zone.claim(index, me, &demand, conf.params(), now);
        if claimed.kick {
            drain_later(conf);
        }
        match claimed.claim {
            Claim::Taken(ticket) => {
                zone.queue_granted(index, &turn, &terms(turn.class), now);
                // SAFETY: `state` is live and parked; neither is touched after the grant.
                unsafe {
                    (*state).note_full(claimed.full);
                    grant(state, ticket);
                }
            }
            Claim::Wait | Claim::Full => {
                if let Some(ns) = claimed.look_again_ns {
                    conf.local.look_in(ns);
                }
                return;
            }
            // SAFETY: as above.
            Claim::NoPeer => unsafe { queue_end::refuse(state) },
        }
    }
    drain_later(conf);
}

/// Sends away the newest requests of the lowest class while more wait than may, or has the worker
/// do it that has them.
fn trim(conf: &'static UpstreamConf, zone: &Zone<'_>, index: UpstreamIdx, me: WorkerIdx) {
    let Some(queue) = conf.queue else { return };
    for _ in 0..RESUMES_MAX {
        let Some(victim) = zone.queue_victim(index, queue.size, &|class| terms_of(zone, class)) else { return };
        if victim.worker != me {
            return kick_worker(zone, victim.worker, clock::now().0);
        }
        let Some(waiter) = conf.local.newest_bounded(victim.cell) else { return };
        // SAFETY: the newest of a list is live and parked; it is not touched afterwards.
        unsafe { queue_end::send_away(of_waiter(waiter)) };
    }
    drain_later(conf);
}

/// Swaps the placeholder for a connection to the ticket's peer and lets nginx go on.
///
/// # Safety
/// `state` is live and parked. It may be gone afterwards.
unsafe fn grant(state: *mut RequestState, ticket: Ticket) {
    // SAFETY: as the caller vouches; a parked request has its upstream.
    let u = unsafe {
        unlink(state, Event::Served);
        (*state).ticket = Some(ticket);
        (*state).stage = Stage::Granted;
        (*(*state).request).upstream
    };
    // SAFETY: a parked request waits on its placeholder; nginx is not inside this request, as a
    // drain runs from the loop.
    unsafe {
        let waited_on = (*u).peer.connection;
        (*u).start_time = nginx::current_msec();
        let result = nginx_sys::ngx_event_connect_peer(&raw mut (*u).peer);
        if result != nginx::OK && result != nginx::AGAIN && result != nginx::DONE {
            (*state).local_fault = result == nginx::ERROR;
            (*u).peer.connection = waited_on;
            placeholder::fail(u);
            return;
        }
        placeholder::adopt(u, waited_on);
        nginx::close_connection(waited_on);
        if result == nginx::AGAIN {
            bits::event::add_timer((*(*u).peer.connection).write, (*(*u).conf).connect_timeout);
            return;
        }
        placeholder::run_write_handler((*u).peer.connection);
    }
}

/// Right after parking: nginx has armed its connect timeout on the placeholder, which is not what
/// limits a wait.
struct Settle;

impl event::Handler for Settle {
    const PLACE: &'static str = "queue settle";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: the event is cancelled before its record goes.
        let conf = unsafe {
            let state = (*event).data.cast::<RequestState>();
            let connection = (*(*(*state).request).upstream).peer.connection;
            if !connection.is_null() && bits::event::timer_set((*connection).write) != 0 {
                bits::event::del_timer((*connection).write);
            }
            (*state).conf
        };
        drain(conf);
    }
}

pub(crate) struct Drain;

impl event::Handler for Drain {
    const PLACE: &'static str = "queue drain";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: `prepare` stored the configuration, which outlives the loop.
        drain(unsafe { &*(*event).data.cast::<UpstreamConf>() });
    }
}

pub(crate) struct Tick;

impl event::Handler for Tick {
    const PLACE: &'static str = "queue tick";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: as in `Drain`.
        let conf: &'static UpstreamConf = unsafe { &*(*event).data.cast::<UpstreamConf>() };
        worker::reclaim();
        if !conf.local.is_empty() {
            // SAFETY: the event lives in the configuration, and has just fired. The last one that
            // leaves the queue cancels it.
            unsafe { nginx::arm(event, TICK_MS) };
        }
        drain(conf);
    }
}
