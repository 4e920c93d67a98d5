//! Which worker writes what the control plane sends, and how that worker's link to it stands.
//!
//! One word names the writer: its worker slot and the configuration generation it runs. A newer
//! generation takes the lease from an older one even while that lives (an old worker may drain for
//! hours); within a generation it is free only after its holder left or was reclaimed. Holding the
//! lease does not lock: the holder checks it again under the caller's mutex before each overlay.
//!
//! The link belongs to the lease. What stands in [`Connection`] is signed with the lease of the
//! worker that wrote it and dated by a pulse; a reader believes it only while that lease is held
//! and the pulse is at most [`PULSE_NS_MAX`] old. So a worker that loses the lease, dies or hangs
//! leaves no link behind, and nobody has to clear it away. Never opens anything. Cost: a few
//! atomics. Bound: one holder, [`LINK_ERROR_BYTES_MAX`] of text.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::{Bytes, WorkerIdx, Zone};
use crate::time::{MILLISECOND_NS, MonoNs};
use crate::trust::Distrust;

/// A link whose holder has shown no sign of life for longer is not believed, in nanoseconds: three
/// pulses of half a second.
pub const PULSE_NS_MAX: u64 = 1_500 * MILLISECOND_NS;

/// Bytes of [`ConnectionState::error`] that the holder of the lease can leave.
pub const LINK_ERROR_BYTES_MAX: usize = ERROR_WORDS * 8;

const ERROR_WORDS: usize = 64;

/// How often a reader looks again while the text changes under its eyes.
const READS_MAX: usize = 4;

const NOBODY: &str = "no worker process holds the link";
const NO_PULSE: &str = "the worker process that holds the link does not respond";
const CONNECTING: &str = "the first attempt is under way";

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

/// What the holder of the lease says of its link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link<'a> {
    /// Whether the stream stands.
    pub connected: bool,
    /// The configured address of the stream or of the last attempt, counted from 0.
    pub address: u32,
    /// When this worker last heard the control plane; zero = never.
    pub message: MonoNs,
    /// When whoever keeps the link last showed a sign of life.
    pub pulse: MonoNs,
    /// Why the last stream or attempt ended, in one line; empty until one did. Cut to
    /// [`LINK_ERROR_BYTES_MAX`].
    pub error: &'a str,
}

/// The link to the control plane, as the holder of the lease last saw it. Only that worker writes
/// here.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Connection {
    /// The lease under which the rest was written.
    author: AtomicU64,
    /// The same while the stream stands, else 0.
    up: AtomicU64,
    pulse_ns: AtomicU64,
    message_ns: AtomicU64,
    connects: AtomicU64,
    refused: AtomicU64,
    applied: AtomicU64,
    address: AtomicU32,
    spare: AtomicU32,
    error: Bytes<ERROR_WORDS>,
}

/// A copy of [`Connection`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether the stream stands, and somebody keeps it.
    pub connected: bool,
    /// Which of the configured addresses was tried last, counted from 0; `None` when nobody tries
    /// any.
    pub address: Option<u32>,
    /// The configuration generation whose addresses these are; 0 when nobody holds the lease.
    pub generation: u32,
    /// When the control plane was last heard by this node; zero = never.
    pub message: MonoNs,
    /// Connections made; the first one is no reconnect.
    pub connects: u64,
    /// Revisions refused, in all.
    pub refused: u64,
    /// Revisions applied, in all.
    pub applied: u64,
    /// Why it is not connected; empty while it is.
    pub error: String,
}

impl ConnectionState {
    /// Connections after the first.
    pub fn reconnects(&self) -> u64 {
        self.connects.saturating_sub(1)
    }
}

impl Connection {
    /// Writes what the holder of `lease` says. The order keeps every moment in between true: down
    /// first, up last. A holder that is superseded while it writes leaves a mix, which reads as not
    /// connected until its successor's next report.
    fn store(&self, lease: u64, link: &Link<'_>) {
        if !link.connected || self.author.load(SeqCst) != lease {
            self.up.store(0, SeqCst);
        }
        self.address.store(link.address, SeqCst);
        self.error.store(link.error.as_bytes());
        self.message_ns.fetch_max(link.message.0, SeqCst);
        self.pulse_ns.store(link.pulse.0, SeqCst);
        self.author.store(lease, SeqCst);
        if link.connected && self.up.swap(lease, SeqCst) != lease {
            self.connects.fetch_add(1, SeqCst);
        }
    }

    /// What was written under `lease` is void.
    fn disown(&self, lease: u64) {
        let _ = self.up.compare_exchange(lease, 0, SeqCst, SeqCst);
        let _ = self.author.compare_exchange(lease, 0, SeqCst, SeqCst);
    }

    /// A revision was refused.
    pub fn refused(&self) {
        self.refused.fetch_add(1, SeqCst);
    }

    pub(super) fn applied(&self) {
        self.applied.fetch_add(1, SeqCst);
    }

    /// A copy, for readers at `now` who see that `held` is the lease; its fields may be of two
    /// neighbouring moments.
    fn load(&self, held: u64, now: MonoNs) -> ConnectionState {
        let owned = held != 0 && self.author.load(SeqCst) == held;
        let beats = now.since(MonoNs(self.pulse_ns.load(SeqCst))) <= PULSE_NS_MAX;
        let connected = owned && beats && self.up.load(SeqCst) == held;
        let error = match (connected, owned, beats) {
            (true, ..) => String::new(),
            (false, true, true) => self.error(),
            (false, true, false) => NO_PULSE.to_owned(),
            (false, false, _) => NOBODY.to_owned(),
        };
        ConnectionState {
            connected,
            address: owned.then(|| self.address.load(SeqCst)),
            generation: u32::try_from(held >> 32).unwrap_or(0),
            message: MonoNs(self.message_ns.load(SeqCst)),
            connects: self.connects.load(SeqCst),
            refused: self.refused.load(SeqCst),
            applied: self.applied.load(SeqCst),
            error,
        }
    }

    /// The text, read until it came out the same twice: it may change meanwhile.
    fn error(&self) -> String {
        let mut text = self.error.to_vec();
        for _ in 0..READS_MAX {
            let again = self.error.to_vec();
            if again == text {
                break;
            }
            text = again;
        }
        if text.is_empty() { CONNECTING.to_owned() } else { String::from_utf8_lossy(&text).into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::{HeapZone, ProcessId};

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

/// Whether the state file is refused, as whoever last read or wrote it found: the master at a start
/// and a reload, then the holder of the lease.
#[repr(C)]
#[derive(Debug, Default)]
pub struct StateFile(AtomicU64);

impl StateFile {
    /// What was found: why the file is refused, if it is.
    pub fn found(&self, refused: Option<Distrust>) {
        self.0.store(refused.map_or(0, Distrust::pack), SeqCst);
    }

    /// Why the file is refused, if it is.
    pub fn refused(&self) -> Option<Distrust> {
        Distrust::unpack(self.0.load(SeqCst))
    }
}
