//! Makes the revisions that only the clock asks for: an API key whose time is over, or the secret
//! before a rotation whose overlap is.
//!
//! Nodes hold the ends of secrets themselves, by a clock that is not set; this takes what has ended
//! out of their tables. Sleeps until the next end that the settings in force know, but looks again
//! every `LOOK_INTERVAL`, since the wall clock may be set. Cost: a look over the keys. Never fails
//! for good: what the disk refuses is tried again.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::{
    keys::plan::{Kind, Op},
    plan,
    plane::{Plane, wall_s},
};

/// How long a step of the wall clock may stay unseen.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The least pause: ends have whole seconds, and a disk that refuses is not helped by haste.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until the process is told to end.
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

/// Takes out what has ended; how long nothing more will.
async fn look(
    plane: &Arc<Plane>,
    revisions: &mut tokio::sync::watch::Receiver<Arc<crate::plane::Published>>,
) -> Duration {
    let next_s = revisions.borrow_and_update().config.keys.values().filter_map(|key| key.next_end_s()).min();
    let Some(next_s) = next_s else { return LOOK_INTERVAL };
    let now_s = wall_s();
    if now_s < next_s {
        let left = Duration::from_secs(u64::try_from(next_s - now_s).unwrap_or(1));
        // The clock's second may have begun long ago: closer to the end it is looked at more often.
        return if left > Duration::from_secs(1) { (left - Duration::from_secs(1)).min(LOOK_INTERVAL) } else { PAUSE };
    }
    let expire = plan::Op::Key(Op { now_s, kind: Kind::Expire });
    match plane.change(expire, false).await {
        Ok(changed) => {
            let ended = changed.changes.keys.iter().map(|change| change.id.as_str()).collect::<Vec<_>>().join(" ");
            tracing::info!(revision = changed.revision, keys = ended, "pincer: took out secrets that have ended");
            PAUSE
        }
        Err(error) => {
            tracing::error!(%error, "pincer: cannot take out secrets that have ended, trying again");
            LOOK_INTERVAL
        }
    }
}
