//! Waiting for conditions, never for time: polls until true, or panics with what was awaited.
//!
//! Cost: one probe every few milliseconds, at most every 50. Bound: the time limit given, times
//! `PINCER_TEST_SLOW`.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// First pause between two probes; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between two probes.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Factor on every time limit of the harness, from `PINCER_TEST_SLOW`; 1 when unset or not a
/// number.
#[must_use]
pub fn slowness() -> f64 {
    static FACTOR: OnceLock<f64> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        std::env::var("PINCER_TEST_SLOW").ok().and_then(|text| text.parse().ok()).filter(|f| *f > 0.0).unwrap_or(1.0)
    })
}

/// A time limit of `seconds`, stretched by [`slowness`].
#[must_use]
pub fn limit(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds * slowness())
}

/// Polls `probe` until it is true.
///
/// # Panics
/// After `seconds` (times [`slowness`]), with `what`.
pub async fn eventually<F, Fut>(what: &str, seconds: f64, mut probe: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    eventually_some(what, seconds, || {
        let answer = probe();
        async { answer.await.then_some(()) }
    })
    .await;
}

/// Polls `probe` until it gives a value.
///
/// # Panics
/// After `seconds` (times [`slowness`]), with `what`.
pub async fn eventually_some<T, F, Fut>(what: &str, seconds: f64, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < limit(seconds), "not within {seconds} s: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// [`eventually`] for code that cannot be async, such as `Drop`. False when the time is over.
#[must_use]
pub fn blocking(seconds: f64, mut probe: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    while !probe() {
        if start.elapsed() >= limit(seconds) {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
    true
}
