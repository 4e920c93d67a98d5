//! What today's policy breaks: to be empty in the end.

use super::invariants::Invariant;

/// Invariants that are broken today, and in how many of the 200 ordinary worlds. Who mends one takes its line out; who breaks more of
/// one than stands here, and some, is told so by the test.
pub const KNOWN_BROKEN: &[(Invariant, u64)] = &[
    // Weights unlike the slots: the request waits for the full peer whose turn it is, up to a whole stream.
    (Invariant::Waits, 33),
    // A gRPC status in the trailers counts as a success; an answer that breaks off after its first token counts as a fast one.
    (Invariant::Failing, 6),
    // A peer that was never sampled is explored by each request that finds it idle, and one that answers at once is always idle.
    (Invariant::Attractive, 13),
    // A peer that is slow from its first request on has no better self to come back to.
    (Invariant::HealsSlow, 2),
    // `fail_timeout=10000s` outlives reloads.
    (Invariant::HealsEjected, 10),
    // The same as with `Attractive`: each of these requests is a look.
    (Invariant::Looks, 13),
    // Four slow answers are held against a peer until an exploration in a hundred has told otherwise many times.
    (Invariant::Stale, 8),
    // A peer without a sample gets several requests at once while others are known.
    (Invariant::RampTooFast, 5),
    // The end of the stream doubles, not its first token; a pool that is new as a whole ramps after a reload.
    (Invariant::RampTooSlow, 4),
];
