//! Writes the last applied snapshot to the state file, on a thread of its own, whenever there is a new one.
//!
//! Never delays an Ack, and a disk that hangs holds up nothing else. A failure is an event, said once until it works again, and is tried again.
//! At the end what is still to be written gets the time that the stop allows. Bound: one write at a time, one snapshot waiting.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pincer_proto::v1::Snapshot;
use tokio::time::{sleep, timeout_at};

use super::shared::{Level, Shared};
use super::state::{self, Stored};

/// Pause after a write that failed: a full disk does not empty by being asked.
const RETRY: Duration = Duration::from_secs(5);

/// Writes until told to stop. Without a path it does nothing.
pub(super) async fn run(shared: &Shared, path: Option<&Path>) {
    let Some(path) = path else { return };
    let mut writer = Writer { shared, path, failing: false };
    let stopped = shared.stopped();
    tokio::pin!(stopped);
    let until = loop {
        tokio::select! {
            until = &mut stopped => break until,
            () = writer.wait() => {}
        }
        // A write is not interrupted by a stop: it may have until the stop's deadline, which is not known before.
        let write = writer.write();
        tokio::pin!(write);
        tokio::select! {
            () = &mut write => {}
            until = &mut stopped => {
                let _ = timeout_at(until.into(), write).await;
                break until;
            }
        }
    };
    let _ = timeout_at(until.into(), writer.write()).await;
}

struct Writer<'w> {
    shared: &'w Shared,
    path: &'w Path,
    failing: bool,
}

impl Writer<'_> {
    async fn wait(&self) {
        if self.failing {
            sleep(RETRY).await;
        } else {
            self.shared.disk().await;
        }
    }

    async fn write(&mut self) {
        let Some(snapshot) = self.shared.to_write() else { return };
        let (path, ours) = (self.path.to_owned(), Arc::clone(&snapshot));
        let written = tokio::task::spawn_blocking(move || state::store(&path, &ours)).await;
        match written {
            Ok(Ok(Stored::Written | Stored::Same | Stored::Newer)) => self.worked(),
            Ok(Err(error)) => self.failed(&error.to_string(), snapshot),
            Err(_) => self.failed("the writer panicked", snapshot),
        }
    }

    fn worked(&mut self) {
        if std::mem::take(&mut self.failing) {
            let path = self.path.display();
            self.shared.event(Level::Notice, format!("wrote state file again, path={path}"));
        }
    }

    fn failed(&mut self, reason: &str, snapshot: Arc<Snapshot>) {
        if !std::mem::replace(&mut self.failing, true) {
            let path = self.path.display();
            let need = "the last good revision will not survive a restart";
            self.shared.event(Level::Error, format!("cannot write state file, {need}, path={path}, reason={reason}"));
        }
        self.shared.write_later(snapshot);
    }
}
