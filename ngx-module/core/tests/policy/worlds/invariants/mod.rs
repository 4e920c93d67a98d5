//! What must hold in every world. Each invariant has a file or a function that says why.
//!
//! Those that speak of moments are watched while the world runs ([`Watch`]); those that speak of
//! shares are judged afterwards.

mod failing;
mod looks;
mod shares;
mod watch;

use super::truth::History;
use super::world::{S, World};
use std::fmt;
pub use watch::Watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Invariant 1: No request waits beside a free slot of a like peer: [`watch`].
    Waits,
    /// Invariant 2: A peer that fails gets at most 2 % of the requests: [`failing`].
    Failing,
    /// Invariant 2: A peer whose answers say nothing about its speed gets no more than its share:
    /// [`failing`].
    Attractive,
    /// Invariant 3: A slowed peer that is well again has its share back after 15 s: [`shares`].
    HealsSlow,
    /// Invariant 3: An ejected peer that is well again is tried in time, and has its share back 10
    /// s later: [`shares`].
    HealsEjected,
    /// Invariant 4: Shares by weight among like peers: [`shares`].
    Shares,
    /// Invariant 5: Looks are few: [`looks`].
    Looks,
    /// Invariant 5: A peer with four slow first answers carries like load 10 s later: [`shares`].
    Stale,
    /// Invariant 6: A new peer takes one request, then two, four: [`watch`].
    RampTooFast,
    /// Invariant 6: Each first token doubles what a new peer may take, and a pool that is new as a
    /// whole starts at full width: [`watch`].
    RampTooSlow,
    /// Invariant 7: Nothing leaks, nothing waits for ever: [`judge`].
    Leaks,
}

pub const INVARIANTS: [Invariant; 11] = {
    use Invariant::*;
    [Waits, Failing, Attractive, HealsSlow, HealsEjected, Shares, Looks, Stale, RampTooFast, RampTooSlow, Leaks]
};

impl Invariant {
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// An invariant that did not hold. One for each invariant and world is kept: the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.2} s: {}", self.invariant, self.at as f64 / S as f64, self.what)
    }
}

/// Judges a world that has ended; `left_over` is what its zone still counts.
pub fn judge(world: &World, history: &mut History, left_over: (u32, u32, u64)) {
    failing::judge(world, history);
    shares::judge(world, history);
    looks::judge(history);
    leaks(world, history, left_over);
    history.violations.sort_by_key(|violation| (violation.invariant, violation.at));
    history.violations.dedup_by_key(|violation| violation.invariant);
}

/// Invariant 7. A slot that is not given back is lost for ever, since in-flight counts are what
/// limits a peer; a request that waits for longer than the queue's timeout has been forgotten.
fn leaks(world: &World, history: &mut History, left_over: (u32, u32, u64)) {
    history.judged.insert(Invariant::Leaks);
    if left_over != (0, 0, 0) {
        let (in_flight, waiting, unbalanced) = left_over;
        let what = format!("{in_flight} in flight, {waiting} waiting, {unbalanced} unbalanced releases at the end");
        history.violate(Invariant::Leaks, world.span_ns, what);
    }
    if let Some(r) = history.requests.iter().position(|request| request.ended == 0) {
        history.violate(Invariant::Leaks, world.span_ns, format!("request {r} never ended"));
    }
}
