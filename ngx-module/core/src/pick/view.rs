//! What the rule knows of the peers and of the request.

use crate::time::SECOND_NS;

/// Peers of one upstream, at most: the width of [`PeerSet`].
pub const PEERS_MAX: usize = 128;
/// A set of peers of one upstream; bit `i` is peer `i`.
pub type PeerSet = u128;
/// One request in so many may look at a peer whose speed is well known to be less than others'.
pub const EXPLORE_ONE_IN: u64 = 100;

/// Requests without their signal that a peer has at least if it is stalled.
pub const STALLED: u32 = 3;
/// In this time a stalled peer has shown no signal, at least, ns;
pub const STALLED_NS: u64 = SECOND_NS;
/// and for so many of its services, and so many divided by the requests that are without theirs.
pub const STALLED_SERVICES: (u64, u64) = (2, 18);
/// Whether a peer may take requests now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// May take requests.
    Open,
    /// Half open: exactly one request, which must win `Breaker::begin_trial`.
    Trial,
    /// Its breaker is open: nothing new, unless every other peer is out as well.
    Ejected,
    /// Down, draining, weight 0 or removed: nothing new, ever.
    Shut,
}

/// What the rule knows of one peer at the moment of the pick.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    /// Stable hash of the peer's address: its place in the consistent hash, kept when others come
    /// and go.
    pub identity: u64,
    /// Requests that hold a slot now, over all workers.
    pub in_flight: u32,
    /// Of these, the ones whose signal (first byte, header, last byte) has not come yet.
    pub pending: u32,
    /// Mean age of the pending ones in ns; 0 = none pending.
    pub pending_age_ns: u64,
    /// Requests it may have in flight now: `max_conns` as limited by slow start
    /// ([`crate::slow_start::SlowStart::slots`]); 0 = no limit.
    pub slots: u32,
    /// `max_conns` as configured; 0 = unlimited.
    pub max_conns: u32,
    /// Effective weight; 0 takes nothing.
    pub weight: u32,
    /// Learned mean of the signal in ns ([`crate::estimate::Estimate::mean_ns`]); 0 = unknown.
    pub service_ns: u64,
    /// The lesser of the last two samples of the signal in ns
    /// ([`crate::estimate::Estimate::recent_ns`]); 0 = none.
    pub recent_ns: u64,
    /// The greater of them ([`crate::estimate::Estimate::recent_most_ns`]), while no request is
    /// without its signal.
    pub recent_most_ns: u64,
    /// Standard error of `service_ns` in ns ([`crate::estimate::Estimate::error_ns`]).
    pub error_ns: u64,
    /// What the mean usually is, ns ([`crate::estimate::Estimate::usual_ns`]); 0 = unknown.
    pub usual_ns: u64,
    /// Learned mean time a slot is held in ns; 0 = unknown.
    pub hold_ns: u64,
    /// Smooth weighted round robin's credit.
    pub wrr_current: i64,
    /// Whether it may take requests.
    pub admission: Admission,
    /// A `backup` server: only when no primary is eligible.
    pub backup: bool,
    /// Time since the last sample of the signal in ns, while no request is without its signal but
    /// one or two that hang; 0 = there are others, or there never was a sample.
    pub silent_ns: u64,
    /// Some requests are without their signal, and for much longer than is usual none has come.
    pub stalled: bool,
    /// For how long its samples have said what they say, ns
    /// ([`crate::estimate::Estimate::span_ns`]).
    pub span_ns: u64,
    /// Samples in its usual mean ([`crate::estimate::Estimate::usual_samples`]).
    pub samples: u32,
}

/// What the rule knows of the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Requests of this upstream that wait, this one included if it waits or would wait.
    pub queued: u32,
    /// Whether it may wait (`pincer_queue` is on and has room).
    pub can_wait: bool,
    /// Hash of the affinity variable, if any.
    pub affinity: Option<u64>,
    /// Peers this request has already tried and failed on. (A peer that was found full belongs in
    /// the views as full, not here.)
    pub tried: PeerSet,
    /// The request's number in its upstream (every hundredth may look at a well-known slower peer),
    /// or 64 random bits. One value for all attempts to place a request: one that waits is not to
    /// explore the likelier the oftener it is looked at.
    pub random: u64,
    /// How long the request, or one that waits behind it, has waited for a slot, ns.
    pub waited_ns: u64,
    /// Whether the upstream may spend a look ([`crate::looks`]) on a peer of which what is known is
    /// old. [`crate::zone::Zone::claim`] finds it out by itself, like the next one.
    pub may_look: bool,
    /// Whether it may spend one on a peer that the last look has found well.
    pub may_look_again: bool,
    /// Whether it stands in the queue.
    pub waits: bool,
}

pub(super) const fn has_slot(peer: &PeerView) -> bool {
    peer.slots == 0 || peer.in_flight < peer.slots
}

pub(super) const fn has_room(peer: &PeerView) -> bool {
    peer.max_conns == 0 || peer.in_flight < peer.max_conns
}
