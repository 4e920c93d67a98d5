//! Decides what an attempt at a peer says about that peer: a sample, a failure, or nothing.
//!
//! A peer that fails or refuses fast must not look fast, a client that leaves must not make its
//! peer look slow, and a connection that the peer had closed while idle is nobody's fault. A peer
//! that hangs, or resets what it was asked, fails on a kept connection as on a new one.

use pincer_core::zone::Outcome;

/// What nginx knows when it frees a peer. Times run from the claim's start, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// nginx says the peer failed and tries the next.
    pub(crate) failed: bool,
    /// nginx tries the next although the peer answered (403, 404).
    pub(crate) passed_on: bool,
    /// The connection came from the keepalive cache.
    pub(crate) cached: bool,
    /// Any byte came over it since the request was sent; told of a failed attempt only.
    pub(crate) heard: bool,
    /// The request was sent, or a part of it: what failed may be its own fault.
    pub(crate) sent: bool,
    /// The time limit of sending or reading passed; told of a failed attempt only.
    pub(crate) timed_out: bool,
    /// The peer had closed the connection while it was kept, and is excused: see [`looks_stale`].
    pub(crate) stale: bool,
    /// The peer's status; 0 = no header came.
    pub(crate) status: usize,
    /// gRPC's status of the call, if it has come.
    pub(crate) grpc_status: Option<u16>,
    /// The client is gone, or could not be written to.
    pub(crate) client_gone: bool,
    /// The response's body came to its end, or the connection was upgraded.
    pub(crate) complete: bool,
    /// The fault lies on this side: no descriptor, no memory.
    pub(crate) local_fault: bool,
    /// To the header.
    pub(crate) header_ns: Option<u64>,
    /// To the first byte of the body.
    pub(crate) first_byte_ns: Option<u64>,
    /// Until now.
    pub(crate) held_ns: u64,
}

/// A WebSocket's status.
pub(crate) const SWITCHING_PROTOCOLS: usize = 101;
const GOOD: std::ops::RangeInclusive<usize> = 200..=299;
const TOO_MANY_REQUESTS: usize = 429;
const SERVER_ERRORS: std::ops::RangeInclusive<usize> = 500..=599;
/// gRPC's UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL and UNAVAILABLE: what a replica
/// says that does not work. The others are about the call.
const GRPC_FAILURES: [u16; 5] = [2, 4, 8, 13, 14];

/// Whether a response of this status says how fast the peer is: only work that was done does. A
/// replica that says 404 at once, because its model is not loaded, must not look like the fastest.
pub(crate) fn is_good(status: usize) -> bool {
    status == SWITCHING_PROTOCOLS || GOOD.contains(&status)
}

/// Whether the peer may have closed the connection before the request came: it was kept, and it was
/// closed or reset before any byte of a response. Who excuses it asks besides whether it is the
/// first such attempt of the request, and not the second in a row of the peer.
pub(crate) fn looks_stale(facts: &Facts) -> bool {
    facts.failed && facts.cached && facts.status == 0 && !facts.heard && !facts.timed_out && !facts.local_fault
}

/// What the failure was, for the error log: nothing that the peer or the client wrote but numbers.
#[cold]
pub(crate) fn cause(facts: &Facts) -> String {
    match facts {
        Facts { status, .. } if SERVER_ERRORS.contains(status) => format!("status {status}"),
        Facts { grpc_status: Some(status), .. } if GRPC_FAILURES.contains(status) => format!("gRPC status {status}"),
        Facts { timed_out: true, sent: false, .. } => "timed out while connecting or sending".to_owned(),
        Facts { timed_out: true, .. } => "timed out".to_owned(),
        Facts { status: 0, sent: false, .. } => "no connection".to_owned(),
        Facts { status: 0, heard: true, .. } => "no valid response header".to_owned(),
        Facts { status: 0, .. } => "connection closed without a response".to_owned(),
        Facts { .. } => "response broke off".to_owned(),
    }
}

/// The outcome of the attempt.
pub(crate) fn outcome(facts: &Facts) -> Outcome {
    if facts.local_fault || facts.stale {
        return Outcome::Neutral;
    }
    if facts.passed_on || facts.status == TOO_MANY_REQUESTS {
        return Outcome::Declined;
    }
    let grpc_fails = facts.grpc_status.is_some_and(|status| GRPC_FAILURES.contains(&status));
    if facts.failed || SERVER_ERRORS.contains(&facts.status) || grpc_fails {
        return Outcome::Failure;
    }
    let grpc_refuses = facts.grpc_status.is_some_and(|status| status != 0);
    if (facts.status != 0 && !is_good(facts.status)) || grpc_refuses {
        return Outcome::Answered;
    }
    if facts.complete && facts.status != 0 {
        return complete(facts);
    }
    // No header and no failure: nginx was told to stop, by the client. A header and no end: whose
    // fault it is decides.
    if facts.client_gone || facts.status == 0 { Outcome::Neutral } else { Outcome::Failure }
}

/// The outcome of a good response that came to its end.
fn complete(facts: &Facts) -> Outcome {
    match (facts.status, facts.first_byte_ns) {
        // How long a session is says nothing of speed.
        (SWITCHING_PROTOCOLS, _) => {
            Outcome::Success { first_byte_ns: None, header_ns: None, last_byte_ns: None, held_ns: facts.held_ns }
        }
        // Without a body no work was shown.
        (_, None) => Outcome::Answered,
        (_, first_byte_ns) => Outcome::Success {
            first_byte_ns,
            header_ns: facts.header_ns,
            last_byte_ns: Some(facts.held_ns),
            held_ns: facts.held_ns,
        },
    }
}
