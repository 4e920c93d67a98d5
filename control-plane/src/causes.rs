//! Prints an error with all its causes in one line: a transport's error alone does not say what
//! failed.
//!
//! Pure. Cost: one text a cause.

use std::error::Error;

/// The error and its causes, outermost first. A text that repeats is printed once.
pub fn of(error: &(dyn Error + 'static)) -> String {
    let (mut told, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let text = cause.to_string();
        if !told.ends_with(&text) {
            told = told + ": " + &text;
        }
        next = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn every_cause_is_told_once() {
        let layer = |text, source| Layer(text, Some(Box::new(source)));
        let error = layer("transport error", layer("transport error", layer("cannot connect", Layer("refused", None))));
        assert_eq!(of(&error), "transport error: cannot connect: refused");
        assert_eq!(of(&Layer("alone", None)), "alone");
    }
}
