//! Summaries of latencies, and medians over rounds.
//!
//! Pure. Percentiles are the nearest rank, never interpolated. Ratios are taken within a round,
//! where both sides had the same arrivals and work, and only then is the median over rounds taken.
//! So what a round's trace adds to both sides cancels out.

use std::time::Duration;

/// The result of one contender in one round, times in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Mean latency.
    pub mean: f64,
    /// Median latency.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Responses other than 2xx, and broken connections. They have no latency.
    pub errors: usize,
    /// Requests that had not ended with the round. They count with the time that they had waited, a
    /// lower bound.
    pub unfinished: usize,
}

impl Summary {
    /// Summarises latencies; `errors` and `unfinished` are left at 0.
    pub fn of(latencies: impl IntoIterator<Item = Duration>) -> Self {
        let mut seconds: Vec<f64> = latencies.into_iter().map(|d| d.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        Summary {
            mean: mean(&seconds),
            p50: quantile(&seconds, 0.50),
            p90: quantile(&seconds, 0.90),
            p99: quantile(&seconds, 0.99),
            ..Summary::default()
        }
    }
}

/// Arithmetic mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Nearest-rank quantile of sorted values; 0 of nothing.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank between 0 and the length")]
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied().unwrap_or(0.0)
}

/// Least, median and greatest value of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Smallest of the rounds.
    pub low: f64,
    /// Median of the rounds: of an even number, the mean of the middle two.
    pub median: f64,
    /// Largest of the rounds.
    pub high: f64,
}

impl Spread {
    /// Spread of `values`; all zero of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Spread { low: sorted.first().copied().unwrap_or(0.0), median, high: sorted.last().copied().unwrap_or(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let summary = Summary::of((1..=100).map(Duration::from_secs));
        assert_eq!((summary.p50, summary.p90, summary.p99), (50.0, 90.0, 99.0));
        assert_eq!(Summary::of([Duration::from_secs(3)]).p99, 3.0);
    }

    #[test]
    fn nothing_measured_gives_zeros() {
        assert_eq!(Summary::of([]).p99, 0.0);
        assert_eq!(Spread::of([]).median, 0.0);
    }

    #[test]
    fn the_median_of_rounds_is_the_middle_one() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { low: 1.0, median: 2.0, high: 3.0 });
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
    }
}
