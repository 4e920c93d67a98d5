//! One peer's record: what is in force, what was learned, what is counted, and the in-flight column
//! of every worker.
//!
//! All that a claim needs to know of the configuration is one word, `live`: effective weight and
//! `max_conns`, flags, and the record's generation. A claim counts itself in, then reads the word
//! again; so a changed, draining or reused record is noticed. The generation rises whenever the
//! record begins another life, and that happens only while nothing is in flight. Only worker `w`
//! writes `workers[w]`. Bounds: the constants below.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::array::Array;
use super::counters::Record;
use super::ticket::Signal;
use super::{Bytes, WORKERS_MAX};
use crate::breaker::{Breaker, Rule};
use crate::estimate::Estimate;
use crate::histogram::Histogram;
use crate::lines::Lines;
use crate::mutes::Mutes;
use crate::pick::WHY_NAMES;
use crate::slow_start::SlowStart;
use crate::time::{MILLISECOND_NS, MonoNs};

/// The greatest weight, from nginx.conf or the control plane.
pub const WEIGHT_MAX: u32 = 65_535;
/// The greatest `max_conns`: also the bound of the pending count's 16 bits.
pub const MAX_CONNS_MAX: u32 = 65_535;
/// The longest name of an upstream, peer or server, in bytes: `unix:` and the longest path fit.
pub const NAME_MAX: usize = 128;
/// The longest socket address, in bytes: `sockaddr_un` has 110.
pub const SOCKADDR_MAX: usize = 112;

/// Reasons of a pick: the variants of [`crate::pick::Why`].
pub const WHYS: usize = WHY_NAMES.len();
/// Samples after which the means are published anew.
const PUBLISH_SAMPLES: u64 = 8;
/// Time after which any sample publishes them, ns.
const PUBLISH_NS: u64 = 20 * MILLISECOND_NS;

/// A peer's state as operators set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Takes requests.
    Active,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// Out of service.
    Down,
}

/// The effective configuration of a peer: `weight:16 | max_conns:16 | generation:24 | flags:8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live(pub u64);

impl Live {
    const LINKED: u64 = 1;
    const BUSY: u64 = 2;
    pub const BACKUP: u64 = 4;
    pub const DRAINING: u64 = 8;
    pub const DOWN: u64 = 16;
    const GENERATION_MASK: u64 = 0xff_ffff;

    pub fn weight(self) -> u32 {
        (self.0 >> 48) as u32
    }

    pub fn max_conns(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    pub fn generation(self) -> u32 {
        (self.0 >> 8 & Self::GENERATION_MASK) as u32
    }

    /// Whether it is part of an upstream and whole.
    pub fn linked(self) -> bool {
        self.0 & (Self::LINKED | Self::BUSY) == Self::LINKED
    }

    /// Whether new requests may go there, as far as configuration decides.
    pub fn takes(self) -> bool {
        self.0 & (Self::LINKED | Self::BUSY | Self::DRAINING | Self::DOWN) == Self::LINKED && self.0 >> 48 != 0
    }

    pub fn is(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    pub fn state(self) -> PeerState {
        match (self.is(Self::DOWN), self.is(Self::DRAINING)) {
            (true, _) => PeerState::Down,
            (false, true) => PeerState::Draining,
            (false, false) => PeerState::Active,
        }
    }

    /// The next generation of an unlinked record, being written.
    pub fn reused(self) -> Self {
        let generation = u64::from(self.generation()).wrapping_add(1) & Self::GENERATION_MASK;
        Self(generation << 8 | Self::BUSY)
    }

    /// The same generation, part of no upstream.
    pub fn unlinked(self) -> Self {
        Self(self.0 & Self::GENERATION_MASK << 8)
    }
}

/// One worker's requests on one peer. Written by that worker alone, or by its reclaimer after its
/// death.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct PeerWorker {
    /// `sum of start times in µs (48 bits, wrapping) << 16 | count` of requests that have not shown
    /// the signal.
    pub pending: AtomicU64,
    /// Requests that hold a slot.
    pub in_flight: AtomicU32,
    /// Requests that hold none: `pincer_slot off`.
    pub beside: AtomicU32,
}

/// What nginx.conf says of a peer.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Configured {
    pub weight: AtomicU32,
    pub max_conns: AtomicU32,
    pub max_fails: AtomicU32,
    pub fail_timeout_ms: AtomicU32,
    /// `server` lines that name it.
    pub lines: AtomicU32,
    pub flags: AtomicU32,
}

impl Configured {
    pub const DECLARED: u32 = 1;
    pub const BACKUP: u32 = 2;
    pub const DOWN: u32 = 4;
    pub const FAILS_EXPLICIT: u32 = 8;

    pub fn is(&self, flag: u32) -> bool {
        self.flags.load(SeqCst) & flag != 0
    }
}

/// What the control plane says of a peer; 0 = nothing.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// Weight + 1.
    pub weight: AtomicU32,
    /// `max_conns` + 1.
    pub max_conns: AtomicU32,
    /// 1 active, 2 draining, 3 down.
    pub state: AtomicU32,
    /// 1 = the control plane added it.
    pub added: AtomicU32,
    /// The revision in which an operator last set something of it.
    pub set_in: AtomicU64,
}

/// What a peer's requests came to; only rises while the peer exists.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct PeerCounters {
    /// By [`crate::pick::Why`]; their sum is the number of requests.
    pub picks: [AtomicU64; WHYS],
    pub failures: AtomicU64,
    pub neutral: AtomicU64,
    pub breaker_openings: AtomicU64,
}

/// What claims read of the estimates, as of one of the last samples: saves each of them the
/// divisions and conversions.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Means {
    /// Of the upstream's signal, ns; 0 = none yet.
    pub service_ns: AtomicU64,
    pub error_ns: AtomicU64,
    pub usual_ns: AtomicU64,
    pub recent_ns: AtomicU64,
    /// Of the time a slot is held, ns; 0 = none yet.
    pub hold_ns: AtomicU64,
    /// When they were published.
    pub at: AtomicU64,
    /// Samples since then.
    pub unpublished: AtomicU64,
}

/// A peer's record. The first two cache lines are all that a claim reads of a peer besides the
/// workers' columns.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Peer {
    pub(super) live: AtomicU64,
    pub(super) identity: AtomicU64,
    pub(super) means: Means,
    pub(super) credit: AtomicI64,
    pub(super) slow_start: SlowStart,
    pub(super) breaker: Breaker,
    pub(super) first_byte: Estimate,
    pub(super) header: Estimate,
    pub(super) hold: Estimate,
    pub(super) counters: PeerCounters,
    pub(super) mutes: Mutes,
    /// What the error log was told of its breaker.
    pub(super) lines: Lines,
    /// `(upstream + 1) << 16 | index` of the table entry that leads here.
    pub(super) home: AtomicU32,
    /// 1 = its last word was to close a kept connection without a response.
    pub(super) stale: AtomicU32,
    /// 1 = another peer answered what this one failed, and it has answered nothing since.
    pub(super) contradicted: AtomicU32,
    /// Failures of its upstream when it answered last while there were some; 0 = has not.
    pub(super) answered: AtomicU32,
    pub(super) configured: Configured,
    pub(super) overrides: Overrides,
    pub(super) name: Bytes<16>,
    pub(super) server: Bytes<16>,
    pub(super) sockaddr: Bytes<14>,
    pub(super) first_byte_times: Histogram,
    pub(super) service_times: Histogram,
    pub(super) workers: Array<PeerWorker, WORKERS_MAX>,
}

impl Record for Peer {}

impl Peer {
    pub(super) fn live(&self) -> Live {
        Live(self.live.load(SeqCst))
    }

    /// Which life of the record this is; equal to a ticket's for as long as the ticket is held.
    pub fn generation(&self) -> u32 {
        self.live().generation()
    }

    /// The socket address, copied into `out`. Stable while a ticket on this peer is held, or
    /// between two equal generations.
    pub fn sockaddr<'o>(&self, out: &'o mut [u8; SOCKADDR_MAX]) -> &'o [u8] {
        self.sockaddr.load(out)
    }

    /// nginx's name of the peer (`10.0.0.1:8080`), copied into `out`. As stable as
    /// [`Peer::sockaddr`].
    pub fn name<'o>(&self, out: &'o mut [u8; NAME_MAX]) -> &'o [u8] {
        self.name.load(out)
    }

    /// The `server` parameter it came from, as written, copied into `out`. As stable as
    /// [`Peer::sockaddr`].
    pub fn server<'o>(&self, out: &'o mut [u8; NAME_MAX]) -> &'o [u8] {
        self.server.load(out)
    }

    /// Requests that hold a slot, over the first `high` workers.
    pub(super) fn in_flight(&self, high: usize) -> u32 {
        let mut sum = 0_u32;
        for worker in self.workers.get(..high).unwrap_or_default() {
            sum = sum.wrapping_add(worker.in_flight.load(SeqCst));
        }
        sum
    }

    /// Requests that are under way without a slot, over the first `high` workers.
    pub(super) fn beside(&self, high: usize) -> u32 {
        let columns = self.workers.get(..high).unwrap_or_default();
        columns.iter().map(|worker| worker.beside.load(SeqCst)).fold(0, u32::wrapping_add)
    }

    /// All requests that are under way, with a slot or without: the record is theirs until they
    /// end.
    pub(super) fn under_way(&self, high: usize) -> u32 {
        self.in_flight(high).wrapping_add(self.beside(high))
    }

    /// Requests of worker `w` on this peer, with a slot or without.
    pub(super) fn under_way_of(&self, w: usize) -> u32 {
        self.workers.get(w).map_or(0, |worker| worker.in_flight.load(SeqCst).wrapping_add(worker.beside.load(SeqCst)))
    }

    /// Zeroes worker `w`'s column and returns the requests it held.
    pub(super) fn clear_worker(&self, w: usize) -> u32 {
        let Some(worker) = self.workers.get(w) else { return 0 };
        worker.pending.store(0, SeqCst);
        worker.in_flight.swap(0, SeqCst).wrapping_add(worker.beside.swap(0, SeqCst))
    }

    pub(super) fn estimate(&self, signal: Signal) -> &Estimate {
        match signal {
            Signal::FirstByte => &self.first_byte,
            Signal::Header => &self.header,
            Signal::LastByte => &self.hold,
        }
    }

    /// Publishes the means that claims read.
    pub(super) fn publish_means(&self, signal: Signal) {
        let estimate = self.estimate(signal);
        self.means.service_ns.store(estimate.mean_ns(), Relaxed);
        self.means.error_ns.store(estimate.error_ns(), Relaxed);
        self.means.usual_ns.store(estimate.usual_ns(), Relaxed);
        self.means.recent_ns.store(estimate.recent_ns(), Relaxed);
        self.means.hold_ns.store(self.hold.mean_ns(), Relaxed);
    }

    /// [`Self::publish_means`] after a sample; while samples come fast only on every
    /// [`PUBLISH_SAMPLES`]th, as each moves the means by a hundredth.
    pub(super) fn publish_soon(&self, signal: Signal, now: MonoNs) {
        let means = &self.means;
        let unpublished = means.unpublished.load(Relaxed) + 1;
        let settled = means.recent_ns.load(Relaxed) != 0 && means.hold_ns.load(Relaxed) != 0;
        if settled && unpublished < PUBLISH_SAMPLES && now.since(MonoNs(means.at.load(Relaxed))) < PUBLISH_NS {
            means.unpublished.store(unpublished, Relaxed);
            return;
        }
        means.unpublished.store(0, Relaxed);
        means.at.store(now.0, Relaxed);
        self.publish_means(signal);
    }

    pub(super) fn is_backup(&self) -> bool {
        self.live().is(Live::BACKUP)
    }

    /// The rule by which failures take this peer out.
    pub(super) fn rule(&self) -> Rule {
        let conf = &self.configured;
        let explicit = conf.is(Configured::FAILS_EXPLICIT);
        Rule::of_server(explicit, conf.max_fails.load(Relaxed), conf.fail_timeout_ms.load(Relaxed))
    }

    /// Puts configuration and overrides into force, in one store; links the record if it was not.
    pub(super) fn publish_live(&self) {
        let or = |value: &AtomicU32, fallback: u32| value.load(SeqCst).checked_sub(1).unwrap_or(fallback);
        let conf = &self.configured;
        let weight = or(&self.overrides.weight, conf.weight.load(SeqCst)).min(WEIGHT_MAX);
        let max_conns = or(&self.overrides.max_conns, conf.max_conns.load(SeqCst)).min(MAX_CONNS_MAX);
        let state = match self.overrides.state.load(SeqCst) {
            0 if conf.is(Configured::DOWN) => Live::DOWN,
            2 => Live::DRAINING,
            3 => Live::DOWN,
            _ => 0,
        };
        let backup = if conf.is(Configured::BACKUP) { Live::BACKUP } else { 0 };
        let kept = self.live().unlinked().0;
        let word = u64::from(weight) << 48 | u64::from(max_conns) << 32 | kept | state | backup | Live::LINKED;
        self.live.store(word, SeqCst);
    }

    /// Takes it out of service for good: new claims see it at once, what is in flight finishes.
    pub(super) fn unlink(&self) {
        self.live.store(self.live().unlinked().0, SeqCst);
    }

    /// Begins another life if nothing is in flight; otherwise the old one goes on, with its
    /// generation.
    ///
    /// The record is unlinked before the columns are read: a claim that counts itself in afterwards
    /// sees that and takes itself out again, and one that came before is seen here.
    pub(super) fn try_reuse(&self) -> bool {
        self.unlink();
        if self.under_way(WORKERS_MAX) != 0 {
            return false;
        }
        self.live.store(self.live().reused().0, SeqCst);
        self.forget();
        true
    }

    /// Makes the peer unknown: what was learned of its speed no longer holds.
    pub(super) fn forget_speed(&self) {
        for estimate in [&self.first_byte, &self.header, &self.hold] {
            estimate.reset();
        }
        let means = &self.means;
        for mean in [&means.service_ns, &means.error_ns, &means.usual_ns, &means.recent_ns, &means.hold_ns] {
            mean.store(0, SeqCst);
        }
    }

    /// Forgets all that an earlier life left behind.
    fn forget(&self) {
        self.forget_speed();
        self.credit.store(0, SeqCst);
        self.slow_start.reset();
        self.breaker.reset();
        self.stale.store(0, SeqCst);
        self.contradicted.store(0, SeqCst);
        self.answered.store(0, SeqCst);
        self.mutes.reset();
        self.lines.reset();
        let counters = &self.counters;
        for count in counters.picks.iter().chain([&counters.failures, &counters.neutral, &counters.breaker_openings]) {
            count.store(0, SeqCst);
        }
        for field in [&self.overrides.weight, &self.overrides.max_conns, &self.overrides.state, &self.overrides.added] {
            field.store(0, SeqCst);
        }
        self.overrides.set_in.store(0, SeqCst);
        self.configured.flags.store(0, SeqCst);
        self.first_byte_times.reset();
        self.service_times.reset();
    }
}
