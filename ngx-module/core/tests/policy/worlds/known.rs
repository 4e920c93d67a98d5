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
    // Beside a peer that has healed, or that chance makes look slow, for a faster one: by the wait
    // rule.
    known(Waits, 3, 220),
    // Hanging peers fill up before anything has timed out.
    known(Failing, 1, 60),
    // One that is known and then refuses is known for some more requests.
    known(Attractive, 0, 50),
    // Looks that found it slow by a queue of its own.
    known(HealsSlow, 0, 20),
    // `fail_timeout=10000s` outlives reloads.
    known(HealsEjected, 6, 330),
    // Short requests and first tokens of unlike length make equal peers look unlike.
    known(Shares, 0, 10),
    // At the edges of a minute.
    known(Looks, 0, 15),
    // Several cold peers at once share the looks of one upstream.
    known(Stale, 2, 180),
    // A peer that is forgotten in a pool where others are full.
    known(RampTooFast, 1, 50),
];
