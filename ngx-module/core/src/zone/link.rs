//! What is known of the link to the control plane, and of the state file.
//!
//! The link is signed with the lease of the worker that wrote it and dated by a pulse: see
//! `feed.rs`. Cost: a few atomics. Bound: [`LINK_ERROR_BYTES_MAX`] of text.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::Bytes;
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

pub(super) const NOBODY: &str = "no worker process holds the link";
pub(super) const NO_PULSE: &str = "the worker process that holds the link does not respond";
pub(super) const CONNECTING: &str = "the first attempt is under way";

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
    pub(super) fn store(&self, lease: u64, link: &Link<'_>) {
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

    /// Forgets what was written under `lease`.
    pub(super) fn disown(&self, lease: u64) {
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
    pub(super) fn load(&self, held: u64, now: MonoNs) -> ConnectionState {
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
