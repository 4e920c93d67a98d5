//! A slot may be free: has the worker look whose turn it is.

use super::terms::terms_of;
use super::upstream::UpstreamConf;
use crate::ffi::base::{clock, nginx};
use crate::ffi::zone::{wake, worker};
use pincer_core::time::MILLISECOND_NS;
use pincer_core::zone::{UpstreamIdx, WorkerIdx, Zone};

/// A worker that has not answered a kick for so long is passed over, until it does. A healthy loop
/// answers in 0.1 ms.
const KICK_STALE_NS: u64 = 30 * MILLISECOND_NS;

/// A slot may be free: has the worker whose turn it is look. Two loads when nothing waits.
#[inline]
pub(crate) fn kick(conf: &'static UpstreamConf, zone: &Zone<'_>) {
    if let Some(index) = conf.index.get()
        && zone.any_waiting(index)
    {
        kick_next(conf, zone, index);
    }
}

#[cold]
fn kick_next(conf: &'static UpstreamConf, zone: &Zone<'_>, index: UpstreamIdx) {
    let now = clock::now();
    let me = worker::worker();
    let stale = |worker: WorkerIdx| Some(worker) != me && is_stale(zone, worker, now.0);
    match zone.queue_next(index, &|class| terms_of(zone, class), stale) {
        Some(turn) if Some(turn.worker) == me => drain_later(conf),
        Some(turn) => kick_worker(zone, turn.worker, now.0),
        None => {}
    }
}

pub(super) fn is_stale(zone: &Zone<'_>, worker: WorkerIdx, now_ns: u64) -> bool {
    zone.workers.get(usize::from(worker.0)).is_some_and(|slot| slot.kick_stale(now_ns, KICK_STALE_NS))
}

pub(super) fn kick_worker(zone: &Zone<'_>, worker: WorkerIdx, now_ns: u64) {
    if let Some(slot) = zone.workers.get(usize::from(worker.0)) {
        slot.kick_sent(now_ns);
    }
    if wake::kick(worker) {
        zone.header.counters.kicks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Looks for slots later in this turn of the event loop.
pub(crate) fn drain_later(conf: &'static UpstreamConf) {
    conf.local.prepare();
    // SAFETY: the event lives in the configuration.
    unsafe { nginx::post(conf.local.drain_event.get()) };
}
