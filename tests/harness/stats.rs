//! Means, percentiles and shares of what the tests and the demo measure.

use std::collections::BTreeMap;
use std::time::Duration;

/// Mean in seconds; 0 of nothing.
#[must_use]
pub fn mean_s(times: &[Duration]) -> f64 {
    if times.is_empty() {
        return 0.0;
    }
    times.iter().map(Duration::as_secs_f64).sum::<f64>() / f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX))
}

/// The nearest-rank percentile in seconds, `percent` from 0 to 100; 0 of nothing.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn percentile_s(times: &[Duration], percent: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, Duration::as_secs_f64)
}

/// How often each name occurs.
#[must_use]
pub fn counts<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let times: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!(percentile_s(&times, 50.0), 50.0);
        assert_eq!(percentile_s(&times, 99.0), 99.0);
        assert_eq!(percentile_s(&times, 100.0), 100.0);
        assert_eq!(percentile_s(&[], 50.0), 0.0);
        assert_eq!(mean_s(&times), 50.5);
    }
}
