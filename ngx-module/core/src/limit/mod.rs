//! Limits of a class: arithmetic of rates and bandwidths, and the texts that clients read of them.
//!
//! Pure: no atomics, no clock, no allocation on the request path. What is shared between workers is
//! in [`crate::zone`].

mod bandwidth;
mod gcra;
mod headers;
mod key;
mod rate;
mod settings;

pub use bandwidth::{Flow, Grant, Pace};
pub use gcra::{Admitted, Gcra, Refused};
pub use headers::{Quota, go_duration, retry_after_s, write_policy, write_state};
pub use key::KeyHash;
pub use rate::{Per, RATE_MAX, Rate, TICKS_PER_NS, Ticks, span_ns, ticks};
pub(crate) use settings::FIELDS;
pub use settings::{
    BANDWIDTH_MAX, COUNT_MAX, ClassSettings, DELAY_NONE, Effective, PRIORITY_DEFAULT, QUEUE_TIMEOUT_MS_MAX,
    SHARE_DEFAULT, SHARE_MAX,
};
