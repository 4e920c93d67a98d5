//! Watches the revision that a worker has in force, by a location that answers with
//! `$pincer_revision`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::pinned::Pinned;

/// The location to ask.
pub const LOCATION: &str = "location = /revision { return 200 $pincer_revision; }";

/// When a worker first showed each revision, and whether it ever showed a lower one.
pub struct Shown {
    /// Revisions with the moments, rising.
    pub first: Vec<(u64, Instant)>,
    /// It showed a lower one after a higher one.
    pub went_back: bool,
}

/// Asks one worker every 2 ms, until it shows the revision that `until` is set to.
///
/// # Panics
/// When it does not answer with a number.
pub async fn observe(mut worker: Pinned, until: Arc<AtomicU64>) -> Shown {
    let mut shown = Shown { first: Vec::new(), went_back: false };
    let mut last = 0;
    while last < until.load(SeqCst) {
        let (_, _, text) = worker.get("/revision").await.expect("an answer");
        let revision: u64 = text.parse().expect("a number");
        shown.went_back |= revision < last;
        if revision > last {
            shown.first.push((revision, Instant::now()));
        }
        last = last.max(revision);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shown
}
