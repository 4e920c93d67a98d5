//! A worker's private part of an upstream's queue: a list for each class that waits here, the
//! oldest first, and the two events that serve them.
//!
//! The lists are the cells that the zone shows of this worker, one for one, so nothing is sorted.
//! They run through the requests' own records, so nothing is allocated. Bound: that of
//! `pincer_queue`, and [`CELLS`] lists.

use crate::ffi::base::{bits, log, nginx};
use nginx_sys::{ngx_event_t, ngx_msec_t, ngx_queue_t};
use pincer_core::time::{MILLISECOND_NS, MonoNs};
use pincer_core::zone::CELLS;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;

/// Of an event.
type Handler = unsafe extern "C" fn(*mut ngx_event_t);

/// A request that waits, as the lists know it.
pub(crate) struct Waiter {
    /// Its number in the queue, and when the wait began.
    pub(crate) sequence: u64,
    pub(crate) parked_at: MonoNs,
    /// It had a slot before, and waits beyond the queue's size.
    pub(crate) is_retry: bool,
    /// The list that it is in.
    pub(crate) cell: u8,
    pub(crate) link: ngx_queue_t,
}

/// A worker's queue of one upstream. Touched by the event loop only.
pub(crate) struct LocalQueue {
    heads: [UnsafeCell<ngx_queue_t>; CELLS],
    /// Requests in all lists.
    len: Cell<usize>,
    /// Posted: hands out slots later in this turn of the loop.
    pub(crate) drain_event: UnsafeCell<ngx_event_t>,
    /// Armed while anything waits.
    pub(crate) tick_event: UnsafeCell<ngx_event_t>,
    /// What [`LocalQueue::prepare`] will link.
    served_by: Cell<Option<(*mut c_void, Handler, Handler)>>,
}

impl Default for LocalQueue {
    fn default() -> Self {
        // SAFETY: plain C structs, for which zeroes are a value; `prepare` fills them before use.
        unsafe {
            Self {
                heads: std::array::from_fn(|_| UnsafeCell::new(std::mem::zeroed())),
                len: Cell::new(0),
                drain_event: UnsafeCell::new(std::mem::zeroed()),
                tick_event: UnsafeCell::new(std::mem::zeroed()),
                served_by: Cell::new(None),
            }
        }
    }
}

impl LocalQueue {
    /// Has the queue served by two handlers that get `data`, which lives as long as the queue.
    /// Before anything waits.
    pub(crate) fn serve_by(&self, data: *mut c_void, on_drain: Handler, on_tick: Handler) {
        self.served_by.set(Some((data, on_drain, on_tick)));
    }

    /// Links the queue's parts; after that they never move, as configurations live in a box.
    pub(crate) fn prepare(&'static self) {
        let Some((data, on_drain, on_tick)) = self.served_by.take() else { return };
        // SAFETY: the cells are ours, and this is the event loop's thread.
        unsafe {
            for head in self.heads.iter().map(UnsafeCell::get) {
                (*head).next = head;
                (*head).prev = head;
            }
            for (event, handler) in [(self.drain_event.get(), on_drain), (self.tick_event.get(), on_tick)] {
                (*event).data = data;
                (*event).handler = Some(handler);
                (*event).log = log::cycle_log();
                bits::event::set_cancelable(event, 1);
            }
        }
    }

    /// Has the queue looked at in `ns`, if its next tick is later. Something waits, so the tick is
    /// armed.
    pub(crate) fn look_in(&self, ns: u64) {
        let event = self.tick_event.get();
        let ms = ngx_msec_t::try_from(ns.div_ceil(MILLISECOND_NS)).unwrap_or(ngx_msec_t::MAX);
        // SAFETY: the event is prepared, and lives in the configuration; an armed event's key is
        // the time when it is to run.
        unsafe {
            let left = (*event).timer.key.wrapping_sub(nginx::current_msec());
            // As nginx compares times: one that is over is far in the future.
            if bits::event::timer_set(event) == 0 || ms >= left || left > ngx_msec_t::MAX / 2 {
                return;
            }
            // nginx leaves a timer alone that is to be moved by less than 300 ms.
            bits::event::del_timer(event);
            bits::event::add_timer(event, ms);
        }
    }

    /// Whether nothing waits here.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    /// The request that waits longest in the list `cell`.
    pub(crate) fn oldest(&self, cell: u8) -> Option<*mut Waiter> {
        self.end(cell, |head| head.next)
    }

    /// The request that came last to the list `cell`, but for retries: those keep their places.
    pub(crate) fn newest_bounded(&self, cell: u8) -> Option<*mut Waiter> {
        let head = self.heads.get(usize::from(cell))?.get();
        let mut waiter = self.end(cell, |head| head.prev)?;
        // SAFETY: what a list links is live, and the list ends where it begins.
        unsafe {
            while (*waiter).is_retry {
                let before = (*waiter).link.prev;
                if std::ptr::eq(before, head) {
                    return None;
                }
                waiter = waiter_of(before);
            }
            Some(waiter)
        }
    }

    /// The numbers of the oldest and the newest request of the list `cell`.
    pub(crate) fn ends(&self, cell: u8) -> Option<(u64, u64)> {
        let (oldest, newest) = (self.end(cell, |head| head.next)?, self.end(cell, |head| head.prev)?);
        // SAFETY: what a list links is live.
        Some(unsafe { ((*oldest).sequence, (*newest).sequence) })
    }

    /// How long the oldest request of all lists has waited, ns.
    pub(crate) fn waited_ns(&self, now: MonoNs) -> u64 {
        let cells = (0..CELLS).filter_map(|cell| u8::try_from(cell).ok());
        let oldest = cells.filter_map(|cell| self.end(cell, |head| head.next));
        // SAFETY: what a list links is live.
        oldest.map(|waiter| now.since(unsafe { (*waiter).parked_at })).max().unwrap_or(0)
    }

    fn end(&self, cell: u8, side: impl Fn(&ngx_queue_t) -> *mut ngx_queue_t) -> Option<*mut Waiter> {
        let head = self.heads.get(usize::from(cell)).filter(|_| !self.is_empty())?.get();
        // SAFETY: something waits, so the lists are initialised; they hold `Waiter::link`s, which
        // leave before their memory goes.
        unsafe { (!nginx::queue_is_empty(head)).then(|| waiter_of(side(&*head))) }
    }

    /// Puts `waiter` behind all of its list. Its number must be greater than theirs.
    ///
    /// # Safety
    /// `waiter` is live, stays where it is, and is in no list; the queue is prepared.
    pub(crate) unsafe fn append(&self, waiter: *mut Waiter) {
        // SAFETY: as the caller vouches; `cell` comes from the zone, which has as many as there are
        // lists.
        unsafe {
            let Some(head) = self.heads.get(usize::from((*waiter).cell)).map(UnsafeCell::get) else { return };
            let (link, last) = (&raw mut (*waiter).link, (*head).prev);
            (*link).prev = last;
            (*link).next = head;
            (*last).next = link;
            (*head).prev = link;
        }
        self.len.set(self.len.get() + 1);
    }

    /// Takes `waiter` out of its list.
    ///
    /// # Safety
    /// `waiter` is live and in a list of this queue.
    pub(crate) unsafe fn remove(&self, waiter: *mut Waiter) {
        // SAFETY: as the caller vouches.
        unsafe { nginx_sys::ngx_queue_remove(&raw mut (*waiter).link) };
        self.len.set(self.len.get().saturating_sub(1));
    }
}

/// # Safety
/// `link` is the `link` field of a live record.
unsafe fn waiter_of(link: *mut ngx_queue_t) -> *mut Waiter {
    // SAFETY: as the caller vouches.
    unsafe { link.byte_sub(std::mem::offset_of!(Waiter, link)).cast() }
}
