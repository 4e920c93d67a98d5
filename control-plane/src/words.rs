//! The settings of a class, and times, as people and nginx.conf write them: `100r/s`, `512k`,
//! `nodelay`, `10s`, `90d`.
//!
//! Pure. Every printed word is read back as the same value. Cost: one pass over the text.
//! Bound: the ranges in `pincer_proto::limits`.

use std::time::Duration;

use pincer_proto::limits;

use crate::classes::{FIELDS, Period, Rate, Settings};

/// The word for a value without a bound.
const UNLIMITED: &str = "unlimited";
/// The word for a burst without delay.
const NODELAY: &str = "nodelay";

/// The fault of a word, and of whoever wrote it. The message follows the word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no rate, or the rate is out of range.
    #[error("is not a rate as 100r/s, 30r/m or {UNLIMITED}, 1 to {} requests", limits::RATE_MAX)]
    Rate,
    /// It is no number, or the number is out of range.
    #[error("is not 0 to {max}")]
    Count {
        /// The largest number.
        max: u32,
    },
    /// It is neither such a number nor `nodelay`.
    #[error("is not 0 to {max} or {NODELAY}")]
    Delay {
        /// The largest number.
        max: u32,
    },
    /// It is no number of bytes, or there are too many.
    #[error("is not a size as 512k, 10m, at most {} bytes", limits::BANDWIDTH_MAX)]
    Size,
    /// A size in a unit that does not exist.
    #[error("has another unit than k, m, g")]
    SizeUnit,
    /// It is no time.
    #[error("is not a time as 500ms, 10s, 1m, 1h, 90d")]
    Span,
    /// A time in a unit that does not exist.
    #[error("has another unit than ms, s, m, h, d")]
    SpanUnit,
    /// The time is too long.
    #[error("is more than {}", span(max.as_millis()))]
    TooLong {
        /// The longest time.
        max: Duration,
    },
    /// No field has the name that the word was given for.
    #[error("is not one of {}", FIELDS.join(", "))]
    Field,
}

/// Reads `100r/s`, `30r/m` or `unlimited`.
pub fn parse_rate(text: &str) -> Result<Rate, Fault> {
    if text == UNLIMITED {
        return Ok(Rate::UNLIMITED);
    }
    let (number, per) = match (text.strip_suffix("r/s"), text.strip_suffix("r/m")) {
        (Some(number), _) => (number, Period::Second),
        (None, Some(number)) => (number, Period::Minute),
        (None, None) => return Err(Fault::Rate),
    };
    match parse_number(number) {
        Some(requests) if requests > 0 && requests <= limits::RATE_MAX.into() => {
            Ok(Rate { requests: u32::try_from(requests).map_err(|_| Fault::Rate)?, per })
        }
        _ => Err(Fault::Rate),
    }
}

/// Digits only: no sign, no space.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Reads a number of 0 to `max`, or `unlimited` for 0.
pub fn parse_count(text: &str, max: u32) -> Result<u32, Fault> {
    let number = if text == UNLIMITED { Some(0) } else { parse_number(text) };
    let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= max);
    number.ok_or(Fault::Count { max })
}

/// Reads `nodelay` or how many requests of the burst do not wait.
pub fn parse_delay(text: &str) -> Result<u32, Fault> {
    if text == NODELAY {
        return Ok(limits::DELAY_NONE);
    }
    let max = limits::CLASS_COUNT_MAX;
    parse_count(text, max).map_err(|_| Fault::Delay { max })
}

/// Reads bytes: `512k`, `10m`, `1g`, a plain number, or `unlimited` for 0.
pub fn parse_size(text: &str) -> Result<u64, Fault> {
    if text == UNLIMITED {
        return Ok(0);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        _ if digits.is_empty() => return Err(Fault::Size),
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err(Fault::SizeUnit),
    };
    let bytes = parse_number(digits).and_then(|number| number.checked_mul(unit));
    let bytes = bytes.filter(|bytes| *bytes <= limits::BANDWIDTH_MAX);
    bytes.ok_or(Fault::Size)
}

/// Reads a time of one unit: `500ms`, `10s`, `1m`, `1h`, `90d`; without a unit seconds.
pub fn parse_span(text: &str, max: Duration) -> Result<Duration, Fault> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        _ if digits.is_empty() => return Err(Fault::Span),
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(Fault::SpanUnit),
    };
    let time = parse_number(digits).and_then(|number| number.checked_mul(unit_ms)).map(Duration::from_millis);
    let Some(time) = time else { return Err(Fault::Span) };
    if time > max { Err(Fault::TooLong { max }) } else { Ok(time) }
}

/// A rate.
pub fn rate(rate: Rate) -> String {
    match rate {
        Rate { requests: 0, .. } => UNLIMITED.to_owned(),
        Rate { requests, per: Period::Second } => format!("{requests}r/s"),
        Rate { requests, per: Period::Minute } => format!("{requests}r/m"),
    }
}

fn unlimited(number: u64, word: impl FnOnce(u64) -> String) -> String {
    if number == 0 { UNLIMITED.to_owned() } else { word(number) }
}

/// Bytes, by the largest unit that leaves nothing over.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 30) => format!("{}g", bytes >> 30),
        bytes if bytes.is_multiple_of(1 << 20) => format!("{}m", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{}k", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

/// Milliseconds, by the largest unit that leaves nothing over.
pub fn span(ms: u128) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit_ms, _)| ms > 0 && ms.is_multiple_of(*unit_ms)) {
        Some((unit_ms, unit)) => format!("{}{unit}", ms / unit_ms),
        None => format!("{ms}ms"),
    }
}

/// The settings as words, in the order of [`FIELDS`]; `None` = unset.
pub fn settings(settings: &Settings) -> [Option<String>; FIELDS.len()] {
    let delay = |delay: u32| if delay == limits::DELAY_NONE { NODELAY.to_owned() } else { delay.to_string() };
    let count = |count: u32| unlimited(count.into(), |count| count.to_string());
    [
        settings.rate.map(rate),
        settings.burst.map(|burst| burst.to_string()),
        settings.delay.map(delay),
        settings.concurrency.map(count),
        settings.bandwidth.map(|bandwidth| unlimited(bandwidth, size)),
        settings.priority.map(|priority| priority.to_string()),
        settings.share.map(|share| share.to_string()),
        settings.queue.map(count),
        settings.queue_timeout_ms.map(|ms| unlimited(ms.into(), |ms| span(ms.into()))),
    ]
}

/// Sets a field by its name and word; `Err` says what is wrong with the word. Unknown names are
/// refused.
pub fn set(settings: &mut Settings, field: &str, word: &str) -> Result<(), Fault> {
    let byte = |max| parse_count(word, max).map(|number| u8::try_from(number).unwrap_or(u8::MAX));
    match field {
        "rate" => settings.rate = Some(parse_rate(word)?),
        "burst" => settings.burst = Some(parse_count(word, limits::CLASS_COUNT_MAX)?),
        "delay" => settings.delay = Some(parse_delay(word)?),
        "concurrency" => settings.concurrency = Some(parse_count(word, limits::CLASS_COUNT_MAX)?),
        "bandwidth" => settings.bandwidth = Some(parse_size(word)?),
        "priority" => settings.priority = Some(byte(limits::PRIORITY_MAX)?),
        "share" => settings.share = Some(byte(limits::SHARE_MAX)?),
        "queue" => settings.queue = Some(parse_count(word, limits::CLASS_COUNT_MAX)?),
        "queue_timeout" => settings.queue_timeout_ms = Some(parse_timeout(word)?),
        _ => return Err(Fault::Field),
    }
    Ok(())
}

fn parse_timeout(word: &str) -> Result<u32, Fault> {
    if word == UNLIMITED {
        return Ok(0);
    }
    let max = Duration::from_millis(limits::QUEUE_TIMEOUT_MS_MAX);
    let time = parse_span(word, max)?;
    u32::try_from(time.as_millis()).map_err(|_| Fault::TooLong { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for words in [
            ["100r/s", "20", "0", "5", "512k", "0", "50", "10", "10s"],
            ["30r/m", "0", "nodelay", "unlimited", "1g", "255", "100", "unlimited", "1500ms"],
            ["unlimited", "1000000", "7", "1", "unlimited", "9", "0", "1", "1d"],
            ["1r/s", "1", "1", "1", "1025", "1", "1", "1", "unlimited"],
        ] {
            let mut read = Settings::default();
            for (field, word) in FIELDS.into_iter().zip(words) {
                set(&mut read, field, word).unwrap();
            }
            assert_eq!(settings(&read), words.map(|word| Some(word.to_owned())));
        }
        assert_eq!(settings(&Settings::default()), [const { None }; 9]);
    }

    #[test]
    fn words_that_are_no_values_are_refused() {
        for (field, words) in [
            ("rate", &["", "100", "r/s", "0r/s", "-1r/s", "+1r/s", "1.5r/s", "100r/h", "1000000001r/s", "1 r/s"][..]),
            ("burst", &["", "-1", "1000001", "a", "99999999999999999999"]),
            ("delay", &["-1", "4294967295", "delay"]),
            ("bandwidth", &["1t", "k", "-1k", "1.5m", "2000g", "18446744073709551615g", "é"]),
            ("priority", &["256", "-1"]),
            ("share", &["101", "5%"]),
            ("queue_timeout", &["25h", "-1s", "1w", "1.5s", "99999999999999999999s"]),
            ("other", &["1"]),
        ] {
            for word in words {
                assert!(set(&mut Settings::default(), field, word).is_err(), "{field} {word:?} was taken");
            }
        }
    }
}
