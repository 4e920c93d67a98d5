//! Wakes another worker's event loop: one eventfd for each worker slot of the zone, made by the
//! master and inherited by all workers.
//!
//! The set only grows, so workers of older configurations keep theirs; a worker that has no
//! descriptor for a slot (it was forked before) does not kick it, and that slot's owner looks by
//! itself ten times a second. A write takes 55 µs to reach the other loop. Never blocks: the
//! descriptors are non-blocking, and a full counter already means "woken". Bound: [`WORKERS_MAX`]
//! descriptors.

use crate::ffi::base::eventfd::{Lifetime, eventfd, listen, signal};
use crate::ffi::base::log;
use nginx_sys::ngx_event_t;
use pincer_core::zone::{WORKERS_MAX, WorkerIdx};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

/// Descriptor plus one; 0 = none. Written by the master only.
static DESCRIPTORS: [AtomicI32; WORKERS_MAX] = [const { AtomicI32::new(0) }; WORKERS_MAX];

/// Cycles that use the descriptors; the last one closes them, as nginx may unload the module after
/// it.
static CYCLES: AtomicUsize = AtomicUsize::new(0);

/// Slots kept ready: those of this configuration's workers, of as many that still drain, and a few
/// that were killed.
const SLOTS_SPARE: usize = 8;

/// Makes descriptors for `workers` processes and as many of an older generation. By the master, at
/// each configuration.
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

/// Listens on the eventfd of this worker's own slot.
pub(crate) fn listen_slot(worker: WorkerIdx, handler: unsafe extern "C" fn(*mut ngx_event_t)) -> bool {
    // The connection gets a duplicate: closing it must leave the slot's descriptor to the next
    // worker of a single process.
    let Some(own) = descriptor(worker) else { return false };
    // SAFETY: duplicates a descriptor of ours.
    let copy = unsafe { libc::fcntl(own, libc::F_DUPFD_CLOEXEC, 0) };
    copy >= 0 && listen(copy, handler, Lifetime::Process).is_some()
}
