//! JSON bodies.

/// The canonical text of a string, with its quotes.
pub(super) fn canonical_string(text: &str) -> Vec<u8> {
    format!("\"{text}\"").into_bytes()
}
