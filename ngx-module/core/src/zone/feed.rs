//! Which worker writes what the control plane sends, and how the link to it stands.
//!
//! One word names the writer: its worker slot and the configuration generation it runs. A newer generation takes the lease from an older
//! one even while that lives (an old worker may drain for hours); within a generation it is free only after its holder left or was
//! reclaimed. Holding the lease does not lock: the holder checks it again under the caller's mutex before each overlay.
//! Never opens anything. Cost: one or two atomics. Bound: one holder.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::{WorkerIdx, Zone};
use crate::time::MonoNs;
use crate::trust::Distrust;

fn lease(w: WorkerIdx, generation: u32) -> u64 {
    u64::from(generation) << 32 | (u64::from(w.0) + 1)
}

impl Zone<'_> {
    /// Takes the feed's lease for worker `w` of configuration `generation`; `true` also when it already holds it.
    pub fn feed_acquire(&self, w: WorkerIdx, generation: u32) -> bool {
        let mine = lease(w, generation);
        let take = |held: u64| (held == 0 || held >> 32 < u64::from(generation)).then_some(mine);
        self.header.feed.fetch_update(SeqCst, SeqCst, take).is_ok() || self.feed_holds(w, generation)
    }

    /// Whether worker `w` of `generation` holds the lease now.
    pub fn feed_holds(&self, w: WorkerIdx, generation: u32) -> bool {
        self.header.feed.load(SeqCst) == lease(w, generation)
    }

    /// Gives the lease back if worker `w` holds it, whatever its generation.
    pub fn feed_release(&self, w: WorkerIdx) {
        let mine = |held: u64| (held & u64::from(u32::MAX) == u64::from(w.0) + 1).then_some(0);
        let _ = self.header.feed.fetch_update(SeqCst, SeqCst, mine);
    }

    /// The worker that holds the lease; `None` when nobody feeds the zone.
    pub fn feed_holder(&self) -> Option<WorkerIdx> {
        let held = self.header.feed.load(SeqCst) & u64::from(u32::MAX);
        u16::try_from(held.checked_sub(1)?).ok().map(WorkerIdx)
    }
}

/// The link to the control plane, as the holder of the lease last saw it. Only that worker writes here.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Connection {
    connected: AtomicU32,
    address: AtomicU32,
    since_ns: AtomicU64,
    message_ns: AtomicU64,
    connects: AtomicU64,
    refused: AtomicU64,
    applied: AtomicU64,
}

/// A copy of [`Connection`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether the stream stands.
    pub connected: bool,
    /// Which of the configured addresses, counted from 0.
    pub address: u32,
    /// Since when it is as it is; zero = was never connected.
    pub since: MonoNs,
    /// When the control plane was last heard; zero = never.
    pub message: MonoNs,
    /// Connections made; the first one is no reconnect.
    pub connects: u64,
    /// Revisions refused, in all.
    pub refused: u64,
    /// Revisions applied, in all.
    pub applied: u64,
}

impl ConnectionState {
    /// Connections after the first.
    pub fn reconnects(&self) -> u64 {
        self.connects.saturating_sub(1)
    }
}

impl Connection {
    /// The stream to the configured address number `address` stands.
    pub fn opened(&self, address: u32, now: MonoNs) {
        self.address.store(address, SeqCst);
        self.since_ns.store(now.0, SeqCst);
        self.message_ns.store(now.0, SeqCst);
        self.connects.fetch_add(1, SeqCst);
        self.connected.store(1, SeqCst);
    }

    /// The control plane was heard.
    pub fn message(&self, now: MonoNs) {
        self.message_ns.store(now.0, SeqCst);
    }

    /// The stream is gone.
    pub fn closed(&self, now: MonoNs) {
        if self.connected.swap(0, SeqCst) != 0 {
            self.since_ns.store(now.0, SeqCst);
        }
    }

    /// A revision was refused.
    pub fn refused(&self) {
        self.refused.fetch_add(1, SeqCst);
    }

    pub(super) fn applied(&self) {
        self.applied.fetch_add(1, SeqCst);
    }

    /// A copy; its fields may be of two neighbouring moments.
    pub fn load(&self) -> ConnectionState {
        ConnectionState {
            connected: self.connected.load(SeqCst) != 0,
            address: self.address.load(SeqCst),
            since: MonoNs(self.since_ns.load(SeqCst)),
            message: MonoNs(self.message_ns.load(SeqCst)),
            connects: self.connects.load(SeqCst),
            refused: self.refused.load(SeqCst),
            applied: self.applied.load(SeqCst),
        }
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
