//! Makes the revisions that follow from the clock alone: an API key expires, or the previous secret
//! of a rotated key.
//!
//! Nodes check the expiry of secrets themselves, by a monotonic clock; these revisions remove
//! expired secrets from their tables. No record changes: if the clock was wrong, the next revision
//! has the secrets again. The task sleeps until the next expiry in the settings in force. It wakes
//! up every `LOOK_INTERVAL` at the latest, since the wall clock may be set. If the disk refuses a
//! revision, the task tries again. Cost: one pass over the keys.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::plane::Plane;

/// How long a step of the wall clock may stay unnoticed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest pause: expiry times have whole seconds.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until the process ends.
pub async fn run(plane: Arc<Plane>) {
    let (mut stopping, mut revisions) = (plane.stopping(), plane.revisions());
    loop {
        revisions.mark_unchanged();
        let pause = look(&plane).await;
        tokio::select! {
            () = time::sleep(pause) => {}
            changed = revisions.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Follows the clock. Returns the time until the next expiry.
async fn look(plane: &Arc<Plane>) -> Duration {
    match plane.follow_clock().await {
        Ok(Some(revision)) => tracing::info!(revision, "pincer: the valid secrets of keys changed with the time"),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "pincer: cannot make a revision without expired secrets, trying again");
            return LOOK_INTERVAL;
        }
    }
    let now_s = plane.now_s();
    let next_s = plane.current().config.keys.values().filter_map(|key| key.next_end_s(now_s)).min();
    let left = next_s.and_then(|next_s| u64::try_from(next_s - now_s).ok()).map_or(LOOK_INTERVAL, Duration::from_secs);
    // The clock's second may have begun long ago, so the task looks more often as the expiry comes
    // near.
    left.saturating_sub(Duration::from_secs(1)).clamp(PAUSE, LOOK_INTERVAL)
}
