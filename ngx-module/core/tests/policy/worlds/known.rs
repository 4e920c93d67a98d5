//! What today's policy breaks: to be empty in the end.
//!
//! Who mends one takes its line out, or lowers its numbers; who breaks more than stands here, and
//! some, is told so by the test. What each line is about was found by `SEED=… SHRINK=…`.

use super::invariants::Invariant::{self, *};

/// In how many of the 200 ordinary worlds, and of the 10,000 of `make soak`, an invariant is
/// broken.
pub struct Known {
    pub invariant: Invariant,
    pub of_200: u64,
    pub of_10_000: u64,
}

const fn known(invariant: Invariant, of_200: u64, of_10_000: u64) -> Known {
    Known { invariant, of_200, of_10_000 }
}

/// The table.
pub const KNOWN_BROKEN: &[Known] = &[
    // Weights unlike the slots: the request waits for the full peer whose turn it is, up to a
    // whole stream. Also beside a peer that has healed and still counts as slow. And a peer that
    // becomes free by time, not by a release, is seen with the next tick only: 100 ms.
    known(Waits, 31, 1_282),
    // A gRPC status in the trailers counts as a success. The first token of an answer that then
    // breaks off ends a trial well. Hanging peers fill up before anything has timed out.
    known(Failing, 7, 378),
    // A peer that was never sampled is explored by each request that finds it idle; and a peer that
    // answers at once is always the one with the fewest in flight, sampled or not.
    known(Attractive, 18, 716),
    // A peer that is slow from its first request on has no usual self to come back to.
    known(HealsSlow, 2, 247),
    // `fail_timeout=10000s` outlives reloads. WebSockets that a peer held before its breaker opened
    // fill its ramp, so that nothing new comes that would raise it.
    known(HealsEjected, 7, 417),
    // Short requests and first tokens of unlike length make equal peers look unlike.
    known(Shares, 0, 10),
    // As with `Attractive`: each of these requests is a look.
    known(Looks, 14, 678),
    // A slow first answer keeps the others away for minutes.
    known(Stale, 12, 402),
    // A peer without a sample gets several requests at once while others are known.
    known(RampTooFast, 6, 267),
    // The end of a stream doubles, not its first token; a pool that is new as a whole ramps after a
    // reload.
    known(RampTooSlow, 4, 244),
];
