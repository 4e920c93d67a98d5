//! What an error repeats of a wrong name.

/// Characters of a wrong name that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// The beginning of `text`, for an error.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}
