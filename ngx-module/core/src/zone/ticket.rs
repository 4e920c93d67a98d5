//! What a request holds while it runs on a peer, how it ended, and what its service time is.

use super::PeerIdx;
use crate::pick::Why;
use crate::time::MonoNs;

/// The moment whose distance from the start of a request is its service time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// The first non-empty bytes of the response's body.
    #[default]
    FirstByte,
    /// The response's header.
    Header,
    /// The response's end.
    LastByte,
}

/// The parameters of `pincer_balance`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalanceParams {
    /// What service time means here.
    pub signal: Signal,
    /// Time after which a sample counts half, ns.
    pub half_life_ns: u64,
    /// Time over which a peer that returns is brought to its full slots, ns; 0 = by successes only.
    pub slow_start_ns: u64,
    /// The wait rule's θ: [`crate::pick::THETA`].
    pub theta: f64,
}

/// A slot of a peer, held from [`super::Zone::claim`] to [`super::Zone::release`]. While it is held
/// the peer's record keeps its identity.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is not released holds its slot until the worker dies"]
pub struct Ticket {
    /// The peer.
    pub peer: PeerIdx,
    /// Generation of its record: with `peer`, the key of a cache of addresses.
    pub generation: u32,
    /// Its index in the upstream: its bit in [`crate::pick::Demand::tried`].
    pub index: u8,
    /// When it was claimed.
    pub start: MonoNs,
    /// Why this peer.
    pub why: Why,
    /// Whether it is the one request of a half-open breaker.
    pub trial: bool,
    pub(super) pending: bool,
    /// Its first token closed the breaker.
    pub(super) closed: bool,
    pub(super) early: Early,
}

/// What was learned of a request before its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    Nothing,
    /// Its first byte, or that there will be no sample of it.
    Sampled,
    /// Its first byte, which ended a run that replaced the mean.
    Renewed,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered. Times run from the claim's start; `None` = did not occur (no body, no
    /// header seen).
    Success {
        /// To the first bytes of the body, ns.
        first_byte_ns: Option<u64>,
        /// To the header, ns.
        header_ns: Option<u64>,
        /// To the end, ns.
        last_byte_ns: Option<u64>,
        /// The slot was held for so long, ns.
        held_ns: u64,
    },
    /// The peer failed: counts against it, gives no sample.
    Failure,
    /// The peer works, but its response (a redirect, a 404, one without a body) is none of the work
    /// that its speed is measured by: gives no sample, and is mute ([`crate::mutes`]).
    Answered,
    /// The peer failed as another one did: the request's fault, or the world's. Counted, but not by
    /// the breaker.
    Excused,
    /// The peer did not take the request (a 429, a 404 after which another is asked): mute, and
    /// says nothing else.
    Declined,
    /// Says nothing about the peer: a client that left, a stale keepalive connection.
    Neutral,
}
