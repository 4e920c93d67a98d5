//! What a replica does with a request: slots, speed and fault. Changed while it runs, by its owner
//! or over `/_control`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A replica's behaviour. Times are those of a request with work 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Requests in service at once, 0 = no limit.
    pub slots: usize,
    /// Service time of `/predict` and plain requests, milliseconds.
    pub service_ms: f64,
    /// Chat: from the start of service to the first token, milliseconds.
    pub ttft_ms: f64,
    /// Chat: between two tokens, milliseconds.
    pub token_interval_ms: f64,
    /// Chat: tokens, unless the request has `max_tokens`.
    pub tokens: u32,
    /// Everything takes this many times longer.
    pub slow_factor: f64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// This status at once, without a slot; 429 comes with `Retry-After`.
    Status(u16),
    /// gRPC: this status at once instead of a message, in the answer's trailers.
    Grpc(u16),
    /// gRPC: this status at once, in an answer that has no more than a header ("trailers-only").
    GrpcBare(u16),
    /// Takes requests and does not answer while the fault lasts.
    Hang,
    /// The listener is closed, connections end after the request they serve.
    Refuse,
    /// Closes the connection in the middle of the body.
    Cut,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: 0,
            service_ms: 0.0,
            ttft_ms: 0.0,
            token_interval_ms: 0.0,
            tokens: 5,
            slow_factor: 1.0,
            fault: Fault::None,
        }
    }
}

impl Settings {
    /// No limit of slots, this service time.
    #[must_use]
    pub fn served_in(service_ms: f64) -> Self {
        Self { service_ms, ..Self::default() }
    }

    /// Chat with this time to the first token and between tokens.
    #[must_use]
    pub fn chat(ttft_ms: f64, token_interval_ms: f64) -> Self {
        Self { ttft_ms, token_interval_ms, ..Self::default() }
    }

    /// How long something of `ms` takes for a request of this `work`.
    pub(super) fn time(&self, ms: f64, work: f64) -> Duration {
        Duration::try_from_secs_f64(ms * self.slow_factor * work / 1e3).unwrap_or_default()
    }
}
