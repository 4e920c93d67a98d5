//! Picks the peer of one request, or says that it should wait: late binding with a wait rule.
//!
//! A request is bound to a peer only when that peer has a free slot, so the time a slot is held is
//! pure service time; and an idle slow peer is left idle while waiting for a busy fast one pays
//! ([`rule`]). Peers within 25 % are ties and share by weight ([`share`]). The simulation in
//! tests/policy holds it against an oracle that knows every backlog and every request's work: mean
//! 1.04 ×, p99 1.21 × at a load of 0.7 on two fast and six slow replicas.
//!
//! Order of the decision: one request tries a half-open peer; then the consistent hash, if the
//! request has a key; then a peer without a sample gets its share ([`unknown`]); then an idle peer
//! gets a look ([`look`]); then the rule. Primaries first; backups when no primary is eligible (or,
//! without a queue, when all are full); peers whose breaker is open only when nothing else is left,
//! because a wrong verdict of all breakers must not become an outage.
//!
//! Pure: no lock, no clock, no allocation. Cost: under 200 ns among 8 peers
//! (examples/pick_bench.rs), linear in the peers of one speed.
//! Bound: the first [`PEERS_MAX`] peers are looked at.

mod field;
mod look;
mod patience;
mod plan;
mod rule;
mod share;
mod unknown;

use crate::affinity;
use crate::time::SECOND_NS;
use field::{Field, bits};
pub use look::STALE_NS;
pub use patience::look_again_ns;
pub use plan::{GROUPS_MAX, plan};
pub use share::{Entrant, settle};

/// Peers of one upstream, at most: the width of [`PeerSet`].
pub const PEERS_MAX: usize = 128;
/// A set of peers of one upstream; bit `i` is peer `i`.
pub type PeerSet = u128;
/// The wait rule's θ: the part of the gain from waiting that the queue must eat up before a slower
/// peer is taken.
///
/// Against the oracle on two fast and six slow replicas whose speeds are learned, mean and p99 at
/// loads of 0.7, 0.8 and 0.9: 0.2 has 1.04/1.25, 0.97/1.6, 0.85/2.0; 0.3 has 1.03/1.2, 1.02/1.4,
/// 0.96/1.9; 0.5 has 1.05/1.1, 1.1/1.2, 1.25/1.8. 0.3 is the best of both up to 0.8.
pub const THETA: f64 = 0.3;
/// One request in so many may look at a peer whose speed is well known to be less than others'.
pub const EXPLORE_ONE_IN: u64 = 100;

/// Requests without their signal that a peer has at least if it is stalled.
pub const STALLED: u32 = 3;
/// In this time a stalled peer has shown no signal, at least, ns;
pub const STALLED_NS: u64 = SECOND_NS;
/// and for so many of its services, and so many divided by the requests that are without theirs.
pub const STALLED_SERVICES: (u64, u64) = (2, 18);
/// Where nobody is known: the requests of others are without theirs for such a part of the time.
const MUTE_PART: u64 = 8;

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
    /// Time since the last sample of the signal in ns, while no request is without its signal; 0 =
    /// one is, or there never was a sample.
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

/// Why a peer was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The rule's best.
    Fastest,
    /// To learn how fast it is now: a look.
    Explore,
    /// The one request of a half-open breaker. The caller must win `Breaker::begin_trial`.
    Trial,
    /// The consistent hash.
    Affinity,
    /// A backup, since no primary is eligible.
    Backup,
    /// Its breaker is open, as is everyone's.
    LastResort,
    /// Nothing is known of it: its share by weight.
    Unknown,
    /// The rule's best, for a request that waited in the queue. Like the next one it is no
    /// decision of [`pick`], but [`crate::zone`]'s word for one.
    Waited,
    /// The request takes no slot. The last one: what holds a slot stands before.
    NoSlot,
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

/// The eligible peers by rank.
#[derive(Default)]
struct Ranks {
    open: PeerSet,
    trial: PeerSet,
    backup: PeerSet,
    backup_trial: PeerSet,
    ejected: PeerSet,
}

impl Ranks {
    fn of(peers: &[PeerView], tried: PeerSet) -> Self {
        let mut ranks = Self::default();
        for (i, peer) in peers.iter().take(PEERS_MAX).enumerate() {
            let bit = 1 << i;
            if peer.weight == 0 || tried & bit != 0 {
                continue;
            }
            match (peer.admission, peer.backup) {
                (Admission::Open, _) if peer.stalled => ranks.ejected |= bit,
                (Admission::Open, false) => ranks.open |= bit,
                (Admission::Trial, false) => ranks.trial |= bit,
                (Admission::Open, true) => ranks.backup |= bit,
                (Admission::Trial, true) => ranks.backup_trial |= bit,
                (Admission::Ejected, _) => ranks.ejected |= bit,
                (Admission::Shut, _) => {}
            }
        }
        ranks.leave_out_mute(peers);
        ranks
    }

    /// Where nobody is known: a peer that has shown no signal for long, while another one's
    /// requests show theirs, is not idle but hangs.
    fn leave_out_mute(&mut self, peers: &[PeerView]) {
        let is_old = |i: &usize| {
            peers[*i].service_ns == 0 && peers[*i].pending >= STALLED && peers[*i].pending_age_ns >= STALLED_NS
        };
        for set in [&mut self.open, &mut self.backup] {
            let old = bits(*set).filter(is_old).fold(0, |old: PeerSet, i| old | 1 << i);
            if old == 0 {
                continue;
            }
            let oldest_ns = bits(*set & !old).map(|i| peers[i].pending_age_ns).max();
            let is_mute = |i: &usize| oldest_ns.is_some_and(|ns| peers[*i].pending_age_ns / MUTE_PART > ns);
            let mute = bits(old).filter(is_mute).fold(0, |mute: PeerSet, i| mute | 1 << i);
            *set &= !mute;
            self.ejected |= mute;
        }
    }
}

/// Picks a peer.
///
/// `theta` is usually [`THETA`]. A request that has failed before (`tried` not empty) is not used
/// for trials while others are open. Returns `Full` rather than `Wait` if the request cannot wait;
/// then a limit set by slow start alone, and backups, give way first.
#[must_use]
pub fn pick(peers: &[PeerView], demand: &Demand, theta: f64) -> Decision {
    let ranks = Ranks::of(peers, demand.tried);
    if ranks.open | ranks.trial != 0 {
        let decision = among(peers, demand, theta, ranks.open, ranks.trial, Why::Fastest);
        if decision != Decision::Full || ranks.backup == 0 {
            return decision;
        }
    }
    if ranks.backup | ranks.backup_trial != 0 {
        return among(peers, demand, theta, ranks.backup, ranks.backup_trial, Why::Backup);
    }
    if ranks.ejected != 0 {
        return among(peers, demand, theta, ranks.ejected, 0, Why::LastResort);
    }
    Decision::NoPeer
}

fn among(peers: &[PeerView], demand: &Demand, theta: f64, open: PeerSet, trial: PeerSet, why: Why) -> Decision {
    let may_try = demand.tried == 0 || open == 0;
    if let Some(peer) = bits(trial).find(|&i| may_try && has_slot(&peers[i])) {
        return Decision::Take { peer, ties: 0, why: Why::Trial };
    }
    if let Some(key) = demand.affinity {
        if let Some(peer) = affinity::choose(peers, open, key) {
            return Decision::Take { peer, ties: 0, why: Why::Affinity };
        }
    } else {
        let strangers = unknown::strangers(peers, open);
        // Where peers are unknown the round robin is that of all.
        let all = if strangers == 0 { 0 } else { open };
        if let Some(peer) = unknown::whose_turn(peers, open, strangers) {
            return Decision::Take { peer, ties: all, why: Why::Unknown };
        }
        let field = Field::new(peers, open & !strangers);
        if let Some(peer) = look::choose(&field, demand) {
            return Decision::Take { peer, ties: all, why: Why::Explore };
        }
        let is_free = match rule::choose(&field, demand, theta) {
            rule::Choice::Take { peer, ties } => return Decision::Take { peer, ties: ties | all, why },
            // Beside a known one that is free.
            rule::Choice::Wait => |i: &usize, peers: &[PeerView], open| unknown::is_owed(peers, open, *i),
            rule::Choice::AllFull => |i: &usize, peers: &[PeerView], _| has_slot(&peers[*i]),
        };
        // Better an unknown one than a long wait.
        let free = bits(strangers).filter(|i| is_free(i, peers, open)).min_by_key(|&i| peers[i].in_flight);
        if let Some(peer) = free.filter(|_| !demand.can_wait || patience::is_over(0, demand)) {
            return Decision::Take { peer, ties: all, why: Why::Unknown };
        }
    }
    if demand.can_wait {
        return Decision::Wait;
    }
    // only slow start stands in the way: better an early request on a young peer than a 502
    match bits(open).filter(|&i| has_room(&peers[i])).min_by_key(|&i| peers[i].in_flight) {
        Some(peer) => Decision::Take { peer, ties: 0, why },
        None => Decision::Full,
    }
}

const fn has_slot(peer: &PeerView) -> bool {
    peer.slots == 0 || peer.in_flight < peer.slots
}

const fn has_room(peer: &PeerView) -> bool {
    peer.max_conns == 0 || peer.in_flight < peer.max_conns
}
