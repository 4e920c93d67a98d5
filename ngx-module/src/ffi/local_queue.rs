//! A worker's private queue of one upstream: its waiting requests, ordered by key, and the two events that serve them.
//!
//! The list runs through the requests' own records, so nothing is allocated. Bound: that of `pincer_queue`.

use super::conf::UpstreamConf;
use super::request::{Parking, RequestState};
use super::{log, nginx, queue};
use nginx_sys::{ngx_event_t, ngx_queue_t};
use pincer_core::zone::{NO_KEY, UpstreamIdx, WorkerIdx, Zone};
use std::cell::{Cell, UnsafeCell};

/// A worker's queue of one upstream. Touched by the event loop only.
pub(crate) struct LocalQueue {
    head: UnsafeCell<ngx_queue_t>,
    /// Posted: hands out slots later in this turn of the loop.
    pub(crate) drain_event: UnsafeCell<ngx_event_t>,
    /// Armed while anything waits.
    pub(crate) tick_event: UnsafeCell<ngx_event_t>,
    ready: Cell<bool>,
}

impl Default for LocalQueue {
    fn default() -> Self {
        // SAFETY: plain C structs, for which zeroes are a value; `prepare` fills them before use.
        unsafe {
            Self {
                head: UnsafeCell::new(std::mem::zeroed()),
                drain_event: UnsafeCell::new(std::mem::zeroed()),
                tick_event: UnsafeCell::new(std::mem::zeroed()),
                ready: Cell::new(false),
            }
        }
    }
}

impl LocalQueue {
    /// Links the queue's parts to `conf`; after that they never move, as configurations live in a box.
    pub(crate) fn prepare(&self, conf: &'static UpstreamConf) {
        if self.ready.replace(true) {
            return;
        }
        let data = std::ptr::from_ref(conf).cast_mut().cast();
        // SAFETY: the cells are ours, and this is the event loop's thread.
        unsafe {
            let head = self.head.get();
            (*head).next = head;
            (*head).prev = head;
            for (event, handler) in [
                (self.drain_event.get(), queue::on_drain as unsafe extern "C" fn(_)),
                (self.tick_event.get(), queue::on_tick),
            ] {
                (*event).data = data;
                (*event).handler = Some(handler);
                (*event).log = log::cycle_log();
                (*event).set_cancelable(1);
            }
        }
    }

    /// The request that waits longest, among those of the best priority.
    pub(crate) fn first(&self) -> Option<*mut RequestState> {
        if !self.ready.get() {
            return None;
        }
        let head = self.head.get();
        // SAFETY: an initialised list of `Parking::link`s, which leave it before their memory goes.
        unsafe { (!nginx::queue_is_empty(head)).then(|| (*parking_of((*head).next)).state) }
    }

    /// Puts `parking` behind all keys that are not greater.
    ///
    /// # Safety
    /// `parking` is live, stays where it is, and is in no list.
    pub(crate) unsafe fn insert(&self, parking: *mut Parking) {
        let head = self.head.get();
        // SAFETY: as the caller vouches; the list as in `first`.
        unsafe {
            let mut after = (*head).prev;
            while after != head && (*parking_of(after)).key > (*parking).key {
                after = (*after).prev;
            }
            let link = &raw mut (*parking).link;
            (*link).prev = after;
            (*link).next = (*after).next;
            (*(*after).next).prev = link;
            (*after).next = link;
        }
    }

    /// Publishes the key of the first request that waits here.
    pub(crate) fn publish(&self, zone: &Zone<'_>, index: UpstreamIdx, worker: WorkerIdx) {
        // SAFETY: what `first` gives is live.
        let key = self.first().map_or(NO_KEY, |state| unsafe { (*(*state).parking).key });
        zone.head_publish(index, worker, key);
    }
}

/// # Safety
/// `link` is the `link` field of a live record.
unsafe fn parking_of(link: *mut ngx_queue_t) -> *mut Parking {
    // SAFETY: as the caller vouches.
    unsafe { link.byte_sub(std::mem::offset_of!(Parking, link)).cast() }
}
