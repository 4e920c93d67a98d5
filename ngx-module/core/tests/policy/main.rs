//! The balancing policy, as sentences: the real code in a simulated upstream with a virtual clock.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "helpers of tests, with numbers that are known to be small"
)]

mod affinity;
mod breaker;
mod estimate;
mod faults;
mod histogram;
mod load;
mod looks;
mod mutes;
mod proof;
mod rules;
mod shares;
mod sim;
mod slow_start;
mod speed;
mod streams;
