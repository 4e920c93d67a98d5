//! Which worker writes what the control plane sends, and how that worker's link to it stands.
//!
//! One word names the writer: its worker slot and the configuration generation it runs. A newer
//! generation takes the lease from an older one even while that lives (an old worker may drain for
//! hours); within a generation it is free only after its holder left or was reclaimed. Holding the
//! lease does not lock: the holder checks it again under the caller's mutex before each overlay.
//!
//! The link belongs to the lease. What stands in [`super::Connection`] is signed with the lease of
//! the worker that wrote it and dated by a pulse; a reader believes it only while that lease is
//! held and the pulse is at most [`super::PULSE_NS_MAX`] old. So a worker that loses the lease,
//! dies or hangs leaves no link behind, and nobody has to clear it away. Never opens anything.
//! Cost: a few atomics. Bound: one holder, [`super::LINK_ERROR_BYTES_MAX`] of text.

use core::sync::atomic::Ordering::SeqCst;

use super::link::{ConnectionState, Link};
use super::{WorkerIdx, Zone};
use crate::time::MonoNs;

fn lease(w: WorkerIdx, generation: u32) -> u64 {
    u64::from(generation) << 32 | (u64::from(w.0) + 1)
}

impl Zone<'_> {
    /// Takes the feed's lease for worker `w` of configuration `generation`; `true` also when it
    /// already holds it.
    pub fn feed_acquire(&self, w: WorkerIdx, generation: u32) -> bool {
        let mine = lease(w, generation);
        let take = |held: u64| (held == 0 || held >> 32 < u64::from(generation)).then_some(mine);
        self.header.feed.fetch_update(SeqCst, SeqCst, take).is_ok() || self.feed_holds(w, generation)
    }

    /// Whether worker `w` of `generation` holds the lease now.
    pub fn feed_holds(&self, w: WorkerIdx, generation: u32) -> bool {
        self.header.feed.load(SeqCst) == lease(w, generation)
    }

    /// Gives the lease back if worker `w` holds it, whatever its generation. Its link goes with it.
    pub fn feed_release(&self, w: WorkerIdx) {
        let held = self.header.feed.load(SeqCst);
        if held & u64::from(u32::MAX) == u64::from(w.0) + 1 {
            // First: the next process in this slot of this generation has the same lease, and not
            // this link.
            self.header.connection.disown(held);
            let _ = self.header.feed.compare_exchange(held, 0, SeqCst, SeqCst);
        }
    }

    /// The worker that holds the lease; `None` when nobody feeds the zone.
    pub fn feed_holder(&self) -> Option<WorkerIdx> {
        let held = self.header.feed.load(SeqCst) & u64::from(u32::MAX);
        u16::try_from(held.checked_sub(1)?).ok().map(WorkerIdx)
    }

    /// Worker `w` of `generation` takes or keeps the lease and says how its link stands; `false`
    /// when another worker holds it.
    pub fn feed_report(&self, w: WorkerIdx, generation: u32, link: &Link<'_>) -> bool {
        let held = self.feed_acquire(w, generation);
        if held {
            self.header.connection.store(lease(w, generation), link);
        }
        held
    }

    /// How the link stands at `now`.
    pub fn feed_link(&self, now: MonoNs) -> ConnectionState {
        self.header.connection.load(self.header.feed.load(SeqCst), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::link::{CONNECTING, NO_PULSE, NOBODY};
    use crate::zone::{HeapZone, LINK_ERROR_BYTES_MAX, PULSE_NS_MAX, ProcessId};

    const NOW: MonoNs = MonoNs(1_000_000_000_000);
    const UP: Link<'_> = Link { connected: true, address: 1, message: NOW, pulse: NOW, error: "" };

    fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start: 1 }
    }

    fn join(zone: &Zone<'_>, pid: u32, generation: u32) -> WorkerIdx {
        zone.worker_join(process(pid), generation).unwrap()
    }

    #[test]
    fn a_link_is_believed_only_as_long_as_somebody_keeps_it() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        assert_eq!((zone.feed_link(NOW).connected, zone.feed_link(NOW).error.as_str()), (false, NOBODY));
        let w = join(&zone, 1, 1);
        assert!(zone.feed_report(w, 1, &UP));
        let at_the_limit = zone.feed_link(NOW.plus(PULSE_NS_MAX));
        assert_eq!((at_the_limit.connected, at_the_limit.error.as_str()), (true, ""));
        let beyond = zone.feed_link(NOW.plus(PULSE_NS_MAX + 1));
        assert_eq!((beyond.connected, beyond.error.as_str()), (false, NO_PULSE));
        assert!(zone.feed_report(w, 1, &Link { pulse: NOW.plus(PULSE_NS_MAX + 1), ..UP }));
        let again = zone.feed_link(NOW.plus(PULSE_NS_MAX + 1));
        assert_eq!((again.connected, again.connects), (true, 1), "it was the same stream all along");
    }

    #[test]
    fn a_newer_generation_that_cannot_connect_is_the_truth_whatever_the_old_one_says() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let (old, new) = (join(&zone, 1, 1), join(&zone, 2, 2));
        assert!(zone.feed_report(old, 1, &UP));
        let refused = Link { connected: false, address: 0, message: MonoNs(0), error: "a:1: refused", ..UP };
        assert!(zone.feed_report(new, 2, &refused));
        assert!(!zone.feed_report(old, 1, &UP), "the old one still has its stream");
        let link = zone.feed_link(NOW);
        assert_eq!((link.connected, link.error.as_str(), link.address), (false, "a:1: refused", Some(0)));
        assert_eq!((link.generation, link.message), (2, NOW), "the node has heard nothing since");
        zone.feed_release(old);
        assert!(zone.feed_report(new, 2, &UP));
        assert_eq!((zone.feed_link(NOW).connected, zone.feed_link(NOW).reconnects()), (true, 1));
    }

    #[test]
    fn a_newer_generation_that_only_takes_the_lease_has_no_link_yet() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let (old, new) = (join(&zone, 1, 1), join(&zone, 2, 2));
        assert!(zone.feed_report(old, 1, &UP));
        assert!(zone.feed_acquire(new, 2));
        assert_eq!((zone.feed_link(NOW).connected, zone.feed_link(NOW).address), (false, None));
    }

    #[test]
    fn the_link_of_a_worker_that_died_is_not_that_of_the_next_one_in_its_place() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let dead = join(&zone, 1, 1);
        assert!(zone.feed_report(dead, 1, &UP));
        zone.reclaim_dead(process(2), |process| process.pid == 2);
        assert_eq!((zone.feed_link(NOW).connected, zone.feed_link(NOW).error.as_str()), (false, NOBODY));
        assert_eq!(join(&zone, 2, 1), dead, "the same place, so the same lease");
        assert!(zone.feed_acquire(dead, 1));
        assert!(!zone.feed_link(NOW).connected);
        assert!(zone.feed_report(dead, 1, &Link { connected: false, ..UP }));
        assert_eq!(zone.feed_link(NOW).error, CONNECTING);
        assert!(zone.feed_report(dead, 1, &UP));
        assert_eq!(zone.feed_link(NOW).connects, 2);
    }

    #[test]
    fn a_reason_is_cut_to_what_fits_and_stays_text() {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let w = join(&zone, 1, 1);
        let long = "ä".repeat(LINK_ERROR_BYTES_MAX);
        assert!(zone.feed_report(w, 1, &Link { connected: false, error: &long, ..UP }));
        assert_eq!(zone.feed_link(NOW).error, "ä".repeat(LINK_ERROR_BYTES_MAX / 2));
    }
}
