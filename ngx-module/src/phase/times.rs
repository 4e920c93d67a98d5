//! Writes the times of a request's attempts as nginx writes `$upstream_response_time`: seconds with
//! milliseconds, a comma between attempts, a colon where an internal redirect began new ones, a
//! dash where there is no time.

use std::fmt::Write;

/// One attempt: its time in milliseconds, and whether it is the first after an internal redirect.
pub(crate) type Entry = (Option<u32>, bool);

/// The text of `entries`; empty without any.
pub(crate) fn text(entries: impl Iterator<Item = Entry>) -> String {
    joined(entries, |text, time_ms| match time_ms {
        // Writing to a String cannot fail.
        Some(ms) => drop(write!(text, "{}.{:03}", ms / 1_000, ms % 1_000)),
        None => text.push('-'),
    })
}

/// What `show` makes of each attempt, in that form.
pub(crate) fn joined<T>(entries: impl Iterator<Item = (T, bool)>, show: impl Fn(&mut String, T)) -> String {
    let mut text = String::new();
    for (index, (attempt, redirected)) in entries.enumerate() {
        if index > 0 {
            text.push_str(if redirected { " : " } else { ", " });
        }
        show(&mut text, attempt);
    }
    text
}
