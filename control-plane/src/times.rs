//! Spans and moments of the wire, held to what protobuf says of them. The conversions of
//! `prost_types` make something of every value.

use std::time::Duration;

/// A span that is not negative; `None` if it is malformed.
pub fn span(given: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(given.seconds).ok()?, nanos))
}

/// A moment in whole seconds since 1970, rounded up; `None` if it is malformed.
pub fn moment_s(given: prost_types::Timestamp) -> Option<i64> {
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    given.seconds.checked_add((nanos > 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanos_past_their_range_are_refused() {
        for (seconds, nanos) in [(1, -1), (1, 1_000_000_000), (-1, 0), (0, -5), (i64::MIN, i32::MIN)] {
            assert_eq!(span(prost_types::Duration { seconds, nanos }), None, "{seconds} {nanos}");
        }
        assert_eq!(span(prost_types::Duration { seconds: 1, nanos: 500 }), Some(Duration::new(1, 500)));
        for (seconds, nanos) in [(1, -1), (1, 1_000_000_000), (i64::MAX, 1)] {
            assert_eq!(moment_s(prost_types::Timestamp { seconds, nanos }), None, "{seconds} {nanos}");
        }
        assert_eq!(moment_s(prost_types::Timestamp { seconds: 7, nanos: 1 }), Some(8));
    }
}
