//! Why a command failed, and its exit status.

use std::{io, path::PathBuf};

use rustls::AlertDescription;
use tonic::{Code, Status};

use super::{file::FileFault, show::table::plain};
use crate::{causes, client::ConnectError, names};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(&'static str),
    #[error("say who you are: {option} FILE or {variable}, or --dev DIR")]
    NoIdentity { option: &'static str, variable: &'static str },
    #[error(transparent)]
    Name(#[from] names::Fault),
    #[error(transparent)]
    File(#[from] FileFault),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", message_of(.0))]
    Call(#[from] Status),
    #[error(
        "pincerd at {endpoint} refuses the certificate in {}: {alert:?}; its --client-ca has to have signed it, for clients, and it must not have expired",
        certificate.display()
    )]
    Certificate { endpoint: String, certificate: PathBuf, alert: AlertDescription },
    #[error("revision {revision} is made, but {why}")]
    NotApplied { revision: u64, why: &'static str },
    #[error("the purge is not complete: {failed} nodes failed, {away} known nodes are not connected{}", advice(*.away))]
    NotPurged { failed: usize, away: usize },
    #[error("{key} is made, but its secret is lost: {why}; {outcome}")]
    SecretLost { key: String, why: String, outcome: String },
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
    #[error("cannot write the result: {0}")]
    Json(#[from] serde_json::Error),
}

fn advice(away: usize) -> &'static str {
    if away > 0 { " (node delete forgets those that are gone for good)" } else { "" }
}

/// The server's message, or a transport's error with all its causes.
fn message_of(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("pincerd is not reachable: {}", plain(&causes::of(source))),
        None => plain(status.message()),
    }
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::NoIdentity { .. } | Self::Name(_) | Self::File(_) => 2,
            Self::Connect(error) if error.is_usage() => 2,
            Self::Connect(_) | Self::Certificate { .. } => 4,
            Self::Call(status) => match status.code() {
                // pincerd says itself that it does not know the outcome.
                Code::Unknown if std::error::Error::source(status).is_none() => 1,
                Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => 3,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => 4,
                Code::Internal | Code::DataLoss | Code::Unimplemented => 1,
                _ => 2,
            },
            Self::NotApplied { .. } | Self::NotPurged { .. } => 5,
            // The reader has closed the pipe, as in `pincerctl watch | head`.
            Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Write(_) | Self::Json(_) | Self::SecretLost { .. } => 1,
        }
    }
}
