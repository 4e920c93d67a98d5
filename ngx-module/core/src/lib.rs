//! Pincer's logic.
#![forbid(unsafe_code)]

pub mod address;
pub mod affinity;
pub mod backoff;
pub mod breaker;
pub mod digest;
pub mod drain;
pub mod estimate;
pub mod histogram;
pub mod journal;
pub mod limit;
pub mod lines;
pub mod looks;
pub mod metrics;
pub mod mutes;
pub mod pick;
pub mod slow_start;
pub mod status;
mod sync;
pub mod time;
pub mod trust;
pub mod turn;
pub mod zone;
