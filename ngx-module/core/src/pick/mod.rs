//! Picks the peer of one request, or says that it should wait (placeholder header, filled in below).

use crate::time::MonoNs;

/// Peers of one upstream, at most: the width of [`PeerSet`].
pub const PEERS_MAX: usize = 128;
/// A set of peers of one upstream; bit `i` is peer `i`.
pub type PeerSet = u128;
/// The wait rule's θ: the part of the gain from waiting that must be eaten up by the queue before a slower peer is taken.
pub const THETA: f64 = 0.2;

/// Whether a peer may take requests now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// May take requests.
    Open,
    /// Half open: exactly one request, and only when nothing else is in flight for the trial.
    Trial,
    /// Breaker open, down, draining, weight 0 or removed: nothing new.
    Shut,
}

/// What the rule knows of one peer at the moment of the pick.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    /// Stable hash of the peer's address: its place in the consistent hash, kept when others come and go.
    pub identity: u64,
    /// Requests that hold a slot now, over all workers.
    pub in_flight: u32,
    /// Of these, the ones whose signal (first byte, header, last byte) has not come yet.
    pub pending: u32,
    /// Requests it may have in flight now: `max_conns` as limited by slow start ([`crate::slow_start::SlowStart::slots`]); 0 = no limit.
    pub slots: u32,
    /// `max_conns` as configured; 0 = unlimited.
    pub max_conns: u32,
    /// Effective weight; 0 takes nothing (callers also pass `Shut`).
    pub weight: u32,
    /// S_eff in ns ([`crate::estimate::effective_ns`]); 0 = unknown.
    pub service_ns: u64,
    /// The last single sample of the signal in ns ([`crate::estimate::Estimate::last_ns`]); 0 = none.
    pub last_ns: u64,
    /// Mean time a slot is held in ns; 0 = unknown.
    pub hold_ns: u64,
    /// Smooth weighted round robin's credit.
    pub wrr_current: i64,
    /// Whether it may take requests.
    pub admission: Admission,
    /// A `backup` server: only when no primary is eligible.
    pub backup: bool,
    /// No sample for a while ([`crate::estimate::Estimate::explore_due`]).
    pub explore_due: bool,
}

/// What the rule knows of the request.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Requests of this upstream that wait, this one included if it waits or would wait.
    pub queued: u32,
    /// Whether it may wait (`pincer_queue` is on and has room).
    pub can_wait: bool,
    /// Hash of the affinity variable, if any.
    pub affinity: Option<u64>,
    /// Peers this request has already tried, and peers found full or lost to another worker in this claim.
    pub tried: PeerSet,
    /// 64 random bits.
    pub random: u64,
}

/// Why a peer was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The rule's best.
    Fastest,
    /// To learn how fast it is now.
    Explore,
    /// The one request of a half-open breaker. The caller must win `Breaker::begin_trial`.
    Trial,
    /// The consistent hash.
    Affinity,
    /// No primary is eligible.
    Backup,
}

/// The rule's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it to `peer`; then call [`settle`] with `ties`.
    Take {
        /// Index into the views.
        peer: usize,
        /// The peers that took part in the round robin; empty = no bookkeeping.
        ties: PeerSet,
        /// Why this one.
        why: Why,
    },
    /// A better peer is worth waiting for, or all eligible are full.
    Wait,
    /// All eligible peers are full and the request cannot wait.
    Full,
    /// No peer is eligible.
    NoPeer,
}

/// Applies smooth weighted round robin's bookkeeping after a pick: every peer of `ties` gains its weight, `chosen` pays the sum.
///
/// Additions commute, so workers may settle at once. Credits are bounded by twice the sum of weights.
pub fn settle<'a>(
    ties: PeerSet,
    chosen: usize,
    weight: impl Fn(usize) -> u32,
    credit: impl Fn(usize) -> &'a std::sync::atomic::AtomicI64,
) {
    let _ = (ties, chosen, &weight, &credit);
}

/// Picks a peer. Pure: no lock, no allocation, no clock.
#[must_use]
pub fn pick(peers: &[PeerView], demand: &Demand, theta: f64) -> Decision {
    let _ = (theta, MonoNs(0));
    for (peer, view) in peers.iter().enumerate() {
        if view.admission == Admission::Open && demand.tried & (1 << peer) == 0 {
            return Decision::Take { peer, ties: 0, why: Why::Fastest };
        }
    }
    Decision::NoPeer
}
