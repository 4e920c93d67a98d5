//! Looks after the store: notices that its file was moved away, and opens it again after an error
//! of the disk, without a restart and without a change that asks for it.
//!
//! Cost: one `stat` each `LOOK_INTERVAL`; while the store takes no changes, the file is read and
//! written back each `RETRY_INTERVAL`.

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::plane::Plane;

/// How long a file that was moved away may stay unnoticed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a disk that has room again may stay unnoticed.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// Runs until the process ends.
pub async fn run(plane: Arc<Plane>) {
    let mut stopping = plane.stopping();
    loop {
        let pause = if plane.look_after_store().await { LOOK_INTERVAL } else { RETRY_INTERVAL };
        tokio::select! {
            () = time::sleep(pause) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}
