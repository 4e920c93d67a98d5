//! Makes the revisions that follow from the clock alone: an API key expires, or the previous secret
//! of a rotated key.
//!
//! Nodes check the expiry of secrets themselves, by a monotonic clock; these revisions remove
//! expired secrets from their tables. The task sleeps until the next expiry in the settings in
//! force. It wakes up every `LOOK_INTERVAL` at the latest, since the wall clock may be set. If the
//! disk refuses a revision, the task tries again. Cost: one pass over the keys.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::{
    keys::plan::{Kind, Op},
    plan,
    plane::{Plane, wall_s},
};

/// How long a step of the wall clock may stay unnoticed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest pause: expiry times have whole seconds, and a disk that refused needs time.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until the process ends.
pub async fn run(plane: Arc<Plane>) {
    let (mut stopping, mut revisions) = (plane.stopping(), plane.revisions());
    loop {
        let pause = look(&plane, &mut revisions).await;
        tokio::select! {
            () = time::sleep(pause) => {}
            changed = revisions.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Removes expired secrets. Returns the time until the next expiry.
async fn look(
    plane: &Arc<Plane>,
    revisions: &mut tokio::sync::watch::Receiver<Arc<crate::plane::Published>>,
) -> Duration {
    let next_s = revisions.borrow_and_update().config.keys.values().filter_map(|key| key.next_end_s()).min();
    let Some(next_s) = next_s else { return LOOK_INTERVAL };
    let now_s = wall_s();
    if now_s < next_s {
        let left = Duration::from_secs(u64::try_from(next_s - now_s).unwrap_or(1));
        // The clock's second may have begun long ago, so the task looks more often as the expiry
        // comes near.
        return if left > Duration::from_secs(1) { (left - Duration::from_secs(1)).min(LOOK_INTERVAL) } else { PAUSE };
    }
    let expire = plan::Op::Key(Op { now_s, kind: Kind::Expire });
    match plane.change(expire, false).await {
        Ok(changed) => {
            let ended = changed.changes.keys.iter().map(|change| change.id.as_str()).collect::<Vec<_>>().join(" ");
            tracing::info!(revision = changed.revision, keys = ended, "pincer: removed expired secrets");
            PAUSE
        }
        Err(error) => {
            tracing::error!(%error, "pincer: cannot remove expired secrets, trying again");
            LOOK_INTERVAL
        }
    }
}
