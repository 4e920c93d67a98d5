//! Turns errors of the transport into one line for the log: the whole chain of causes, each once,
//! no control characters, cut.
//!
//! What the other side says is not trusted with the shape of our log. Certificates and keys never
//! occur in these errors. Bound: [`TEXT_BYTES_MAX`].

use std::error::Error;
use std::io;

use pincer_core::backoff::Ending;

/// Bytes of one description.
pub(super) const TEXT_BYTES_MAX: usize = 300;

/// Causes followed; a longer chain is cut.
const CAUSES_MAX: usize = 8;

/// Why an attempt or a stream ended.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) ending: Ending,
    /// The other side closed the connection and did not say why. Which of several errors that makes
    /// here is a matter of microseconds.
    hung_up: bool,
}

/// What a connection that the other side closed is to the log, however the transport words it.
const HUNG_UP: &str = "hung up";

impl Fault {
    /// A fault that we found ourselves.
    pub(super) fn own(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ending: Ending::Failed, hung_up: false }
    }

    /// What the transport says.
    pub(super) fn transport(error: &tonic::transport::Error) -> Self {
        Self { reason: describe(error), ending: ending(error), hung_up: hung_up(error) }
    }

    /// What the other side, or the transport in its name, says of a call.
    pub(super) fn status(status: &tonic::Status) -> Self {
        // With a cause the message only repeats its beginning.
        let message = status.source().map_or_else(|| status.message().to_owned(), describe);
        let reason = format!("{:?}: {message}", status.code());
        let ending = status.source().map_or(Ending::Failed, ending);
        let hung_up = status.source().is_some_and(hung_up);
        Self { reason: clean(&reason, TEXT_BYTES_MAX), ending, hung_up }
    }

    /// The same, before anything was answered: with TLS 1.3 a client whose certificate is refused
    /// may see no more than a closed connection.
    pub(super) fn unanswered(mut self, tls: bool) -> Self {
        if self.hung_up && tls {
            let hint = "closed without an answer, as when this node's certificate is refused";
            self.reason = clean(&format!("{hint}: {}", self.reason), TEXT_BYTES_MAX);
        }
        self
    }

    /// What tells this fault from another one, for the log.
    pub(super) fn cause(&self) -> &str {
        if self.hung_up { HUNG_UP } else { &self.reason }
    }
}

/// `text` in one line of at most `bytes_max` bytes.
pub(super) fn clean(text: &str, bytes_max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if clean.len() + c.len_utf8() > bytes_max {
            break;
        }
        clean.push(c);
    }
    clean
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| error.source()).take(CAUSES_MAX)
}

fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        append(&mut text, &cause.to_string());
    }
    clean(&text, TEXT_BYTES_MAX)
}

/// Adds a cause, unless the text says it already: many errors repeat their source.
fn append(text: &mut String, cause: &str) {
    if !text.contains(cause) {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause);
    }
}

fn is_of_kind(error: &(dyn Error + 'static), kinds: &[io::ErrorKind]) -> bool {
    let mut errors = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| kinds.contains(&error.kind()))
}

fn ending(error: &(dyn Error + 'static)) -> Ending {
    let absent = is_of_kind(error, &[io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound]);
    if absent { Ending::Absent } else { Ending::Failed }
}

fn hung_up(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    // A call that waited for the connection has no error of the system for a cause.
    is_of_kind(error, &[BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof])
        || causes(error).last().is_some_and(|cause| cause.to_string().ends_with("connection closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(error: io::Error) -> Fault {
        Fault::status(&tonic::Status::from_error(Box::new(error)))
    }

    #[test]
    fn however_a_closed_connection_is_worded_it_is_one_cause_and_the_words_are_kept() {
        let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
        let mut faults: Vec<Fault> = kinds.into_iter().map(|kind| status(io::Error::new(kind, "gone"))).collect();
        faults.push(status(io::Error::other("operation was canceled: connection closed")));
        for fault in faults {
            assert_eq!(fault.cause(), HUNG_UP, "{fault:?}");
            let reason = fault.reason.clone();
            let told = fault.unanswered(true).reason;
            assert!(told.contains("certificate is refused") && told.ends_with(&reason), "{told}");
        }
    }

    #[test]
    fn what_the_other_side_says_is_the_cause() {
        let refused = status(io::Error::new(io::ErrorKind::InvalidData, "received fatal alert: UnknownCA"));
        assert!(refused.cause().ends_with("UnknownCA"), "{refused:?}");
        assert!(!refused.unanswered(true).reason.contains("closed without"));
        let plain = status(io::Error::new(io::ErrorKind::BrokenPipe, "gone")).unanswered(false);
        assert!(!plain.reason.contains("certificate"), "{plain:?}");
    }
}
