//! Wakes another worker's event loop: one eventfd for each worker slot of the zone, made by the master and inherited by all workers.
//!
//! The set only grows, so workers of older configurations keep theirs; a worker that has no
//! descriptor for a slot (it was forked before) does not kick it, and that slot's owner looks by
//! itself ten times a second. A write takes 55 µs to reach the other loop. Never blocks: the
//! descriptors are non-blocking, and a full counter already means "woken". Bound: [`WORKERS_MAX`]
//! descriptors.

use crate::ffi::base::{bits, log, nginx};
use nginx_sys::{ngx_connection_t, ngx_event_t};
use pincer_core::zone::{WORKERS_MAX, WorkerIdx};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

/// Descriptor plus one; 0 = none. Written by the master only.
static DESCRIPTORS: [AtomicI32; WORKERS_MAX] = [const { AtomicI32::new(0) }; WORKERS_MAX];

/// Cycles that use the descriptors; the last one closes them, as nginx may unload the module after it.
static CYCLES: AtomicUsize = AtomicUsize::new(0);

/// Slots kept ready: those of this configuration's workers, of as many that still drain, and a few that were killed.
const SLOTS_SPARE: usize = 8;

/// Makes descriptors for `workers` processes and as many of an older generation. By the master, at each configuration.
pub(crate) fn prepare(workers: usize) {
    let wanted = (2 * workers + SLOTS_SPARE).min(WORKERS_MAX);
    CYCLES.fetch_add(1, Relaxed);
    for slot in DESCRIPTORS.iter().take(wanted) {
        if slot.load(Relaxed) == 0 {
            match eventfd() {
                Some(descriptor) => slot.store(descriptor + 1, Relaxed),
                None => {
                    log::write_cycle(
                        log::NGX_LOG_WARN,
                        "cannot make an eventfd, waiting requests will look for slots by timer",
                    );
                    return;
                }
            }
        }
    }
}

/// A configuration that called [`prepare`] is gone.
pub(crate) fn release() {
    if CYCLES.fetch_sub(1, Relaxed) == 1 {
        for slot in &DESCRIPTORS {
            let descriptor = slot.swap(0, Relaxed) - 1;
            if descriptor >= 0 {
                // SAFETY: ours, and nobody has it any more.
                unsafe { libc::close(descriptor) };
            }
        }
    }
}

/// A non-blocking eventfd that does not survive exec; `None` when descriptors are out.
pub(crate) fn eventfd() -> Option<i32> {
    // SAFETY: takes two numbers, answers a descriptor or -1.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    (descriptor >= 0).then_some(descriptor)
}

/// The descriptor of a worker's slot.
fn descriptor(worker: WorkerIdx) -> Option<i32> {
    DESCRIPTORS.get(usize::from(worker.0)).map(|slot| slot.load(Relaxed) - 1).filter(|&descriptor| descriptor >= 0)
}

/// Wakes the event loop of `worker`; `false` when it has no descriptor here.
pub(crate) fn kick(worker: WorkerIdx) -> bool {
    let Some(descriptor) = descriptor(worker) else { return false };
    signal(descriptor);
    true
}

/// Adds one to an eventfd. A full counter answers EAGAIN, which is as good.
fn signal(descriptor: i32) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: writes 8 bytes from this stack to a descriptor of ours.
    unsafe { libc::write(descriptor, one.as_ptr().cast(), one.len()) };
}

/// Empties an eventfd, so that a level-triggered event module does not spin. An edge-triggered one (epoll) is woken by every write and
/// needs no read, which could take another process's wake-up where two zones share a slot's descriptor for a while.
pub(crate) fn drain(descriptor: i32) {
    // SAFETY: a word that nginx sets when it chooses its event module.
    if unsafe { nginx_sys::ngx_event_flags } & nginx_sys::NGX_USE_CLEAR_EVENT as nginx_sys::ngx_uint_t != 0 {
        return;
    }
    let mut count = [0_u8; 8];
    // SAFETY: reads 8 bytes to this stack from a descriptor of ours.
    unsafe { libc::read(descriptor, count.as_mut_ptr().cast(), count.len()) };
}

/// How long a listening connection of ours lives once a graceful stop has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Kept until the process exits: waiting requests of a draining worker still need it.
    Process,
    /// nginx calls the handler with `close` set when the stop begins.
    UntilStop,
}

/// Listens on the eventfd of this worker's own slot.
pub(crate) fn listen_slot(worker: WorkerIdx, handler: unsafe extern "C" fn(*mut ngx_event_t)) -> bool {
    // The connection gets a duplicate: closing it must leave the slot's descriptor to the next worker of a single process.
    let Some(own) = descriptor(worker) else { return false };
    // SAFETY: duplicates a descriptor of ours.
    let copy = unsafe { libc::fcntl(own, libc::F_DUPFD_CLOEXEC, 0) };
    copy >= 0 && listen(copy, handler, Lifetime::Process).is_some()
}

/// Puts `descriptor` into the event loop; takes it over, and closes it on failure.
pub(crate) fn listen(
    descriptor: i32,
    handler: unsafe extern "C" fn(*mut ngx_event_t),
    lifetime: Lifetime,
) -> Option<*mut ngx_connection_t> {
    let log = log::cycle_log();
    // SAFETY: runs in a worker's event loop, where connections exist; `log` is the cycle's.
    let connection = unsafe { nginx_sys::ngx_get_connection(descriptor, log) };
    if connection.is_null() {
        // SAFETY: ours, and not taken over.
        unsafe { libc::close(descriptor) };
        return None;
    }
    // SAFETY: `connection` is fresh from nginx, its two events are in place; the handlers are functions of this module.
    unsafe {
        let (read, write) = ((*connection).read, (*connection).write);
        (*read).handler = Some(handler);
        (*read).log = log;
        (*write).log = log;
        (*connection).log = log;
        match lifetime {
            Lifetime::UntilStop => bits::connection::set_idle(connection, 1),
            Lifetime::Process => bits::event::set_channel(read, 1),
        }
        if nginx_sys::ngx_handle_read_event(read, 0) != nginx::OK {
            nginx_sys::ngx_close_connection(connection);
            return None;
        }
    }
    Some(connection)
}
