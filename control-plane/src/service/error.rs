//! Errors as operators get them (AIP-193): a code, a sentence that says what to do, and a reason
//! that programs can tell apart.
//!
//! A fault of the disk is logged here, once; the caller's own faults are not.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    fleet::ForgetError,
    keys, names,
    plane::{ChangeError, ForgetNodeError},
    refusal::Refusal,
};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "pincer";

fn status(code: Code, reason: &str, message: String) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// INVALID_ARGUMENT that names the field.
pub fn invalid(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    let message = format!("{field}: {description}");
    let mut details = ErrorDetails::with_error_info("INVALID", DOMAIN, HashMap::new());
    details.add_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// INVALID_ARGUMENT for a malformed name.
pub fn bad_name(field: &str) -> impl Fn(names::Fault) -> Status + '_ {
    move |fault| invalid(field, fault.to_string())
}

/// NOT_FOUND.
pub fn not_found(what: &str) -> Status {
    status(Code::NotFound, "NOT_FOUND", format!("{what} is not known"))
}

fn refusal(refusal: &Refusal) -> Status {
    let (code, reason) = match refusal {
        Refusal::NoUpstream(_) => (Code::NotFound, "NO_UPSTREAM"),
        Refusal::NoPeer(_) | Refusal::NoPeerToRemove(_) => (Code::NotFound, "NO_PEER"),
        Refusal::Exists(_) => (Code::AlreadyExists, "EXISTS"),
        Refusal::Stale { .. } => (Code::Aborted, "ETAG_MISMATCH"),
        Refusal::Declared(_) => (Code::FailedPrecondition, "DECLARED"),
        Refusal::NoClass(_) | Refusal::NoClassToDelete(_) => (Code::NotFound, "NO_CLASS"),
        Refusal::NoRate { .. } => (Code::InvalidArgument, "NO_RATE"),
        Refusal::DeclaredClass(_) => (Code::FailedPrecondition, "DECLARED"),
        Refusal::Shares(_) => (Code::InvalidArgument, "SHARES"),
        Refusal::NoKey(_) => (Code::NotFound, "NO_KEY"),
        Refusal::KeyEnded(_) => (Code::FailedPrecondition, "KEY_ENDED"),
        Refusal::KeyValid(_) => (Code::FailedPrecondition, "KEY_VALID"),
        Refusal::Twice(_) => (Code::InvalidArgument, "TWICE"),
        Refusal::Full(_) => (Code::ResourceExhausted, "FULL"),
    };
    status(code, reason, refusal.to_string())
}

/// The status for a purge that wasn't begun.
pub fn purge(code: Code, reason: &str, message: String) -> Status {
    status(code, reason, message)
}

fn failed(error: &dyn std::error::Error) -> Status {
    tracing::error!(%error, "pincer: cannot store a change");
    status(Code::Internal, "STORE", error.to_string())
}

/// UNAVAILABLE: the system provides no random numbers.
pub fn no_randomness(error: &keys::secret::NoRandomness) -> Status {
    tracing::error!(%error, "pincer: cannot make a key");
    status(Code::Unavailable, "RANDOMNESS", error.to_string())
}

/// The status for a change that wasn't made.
pub fn change(error: ChangeError) -> Status {
    match error {
        ChangeError::Refused(refused) => refusal(&refused),
        ChangeError::Store(error) => failed(&error),
        ChangeError::Unknown(_) => {
            tracing::error!(%error, "pincer: cannot store a change");
            status(Code::Unknown, "OUTCOME_UNKNOWN", error.to_string())
        }
        ChangeError::Stopped(error) => status(Code::Unavailable, "STOPPED", error.to_string()),
    }
}

/// The status for a node that wasn't deleted.
pub fn forget(error: ForgetNodeError) -> Status {
    match error {
        ForgetNodeError::Refused(ForgetError::Unknown(node)) => not_found(&names::node_name(&node)),
        ForgetNodeError::Refused(refused) => status(Code::FailedPrecondition, "CONNECTED", refused.to_string()),
        ForgetNodeError::Store(error) => failed(&error),
        ForgetNodeError::Stopped(error) => status(Code::Unavailable, "STOPPED", error.to_string()),
    }
}
