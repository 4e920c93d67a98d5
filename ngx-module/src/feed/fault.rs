//! Turns errors of the transport into one line for the log: the whole chain of causes, each once, no control characters, cut.
//!
//! What the other side says is not trusted with the shape of our log. Certificates and keys never occur in these errors. Bound: [`TEXT_BYTES_MAX`].

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
}

impl Fault {
    /// A fault that we found ourselves.
    pub(super) fn own(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ending: Ending::Failed }
    }

    /// What the transport says.
    pub(super) fn transport(error: &tonic::transport::Error) -> Self {
        Self { reason: describe(error), ending: ending(error) }
    }

    /// What the other side, or the transport in its name, says of a call.
    pub(super) fn status(status: &tonic::Status) -> Self {
        // With a cause the message only repeats its beginning.
        let message = status.source().map_or_else(|| status.message().to_owned(), describe);
        let reason = format!("{:?}: {message}", status.code());
        let ending = status.source().map_or(Ending::Failed, ending);
        Self { reason: clean(&reason, TEXT_BYTES_MAX), ending }
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

fn ending(error: &(dyn Error + 'static)) -> Ending {
    let absent = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    let kinds = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
    if absent.into_iter().any(|error| kinds.contains(&error.kind())) { Ending::Absent } else { Ending::Failed }
}
