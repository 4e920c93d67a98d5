//! Writes the last applied snapshot to the state file, on a thread of its own, whenever there is a
//! new one.
//!
//! Never delays an Ack, and a disk that hangs holds up nothing else. A failure is an event, said
//! once for each reason until it works again, and is tried again: so a folder that others could
//! write is used from its mending on. At the end what is still to be written gets the time that the
//! stop allows. Bound: one write at a time, one snapshot waiting.

use std::sync::Arc;
use std::time::Duration;

use pincer_proto::v1::Snapshot;
use tokio::time::{sleep, timeout_at};

use super::folder::Fault;
use super::shared::{Level, Shared};
use super::state::{StateFile, Stored};

/// Pause after a write that failed: a full disk does not empty by being asked.
const RETRY: Duration = Duration::from_secs(5);

/// Writes until told to stop. Without a state file it does nothing.
pub(super) async fn run(shared: &Shared, file: Option<&StateFile>) {
    let Some(file) = file else { return };
    let mut writer = Writer { shared, file, failing: None };
    let stopped = shared.stopped();
    tokio::pin!(stopped);
    let until = loop {
        tokio::select! {
            until = &mut stopped => break until,
            () = writer.wait() => {}
        }
        // A write is not interrupted by a stop: it may have until the stop's deadline, which is not
        // known before.
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
    file: &'w StateFile,
    /// Why the last write failed, as logged.
    failing: Option<String>,
}

impl Writer<'_> {
    async fn wait(&self) {
        if self.failing.is_some() {
            sleep(RETRY).await;
        } else {
            self.shared.disk().await;
        }
    }

    async fn write(&mut self) {
        let Some(snapshot) = self.shared.to_write() else { return };
        let (file, ours) = (self.file.clone(), Arc::clone(&snapshot));
        let written = tokio::task::spawn_blocking(move || file.store(&ours)).await;
        match written {
            Ok(Ok(Stored::Written | Stored::Same | Stored::Newer)) => self.worked(),
            Ok(Err(fault)) => self.failed(&fault, snapshot),
            Err(_) => self.failed(&std::io::Error::other("the writer panicked").into(), snapshot),
        }
    }

    fn worked(&mut self) {
        self.shared.state_file(None);
        if self.failing.take().is_some() {
            let path = self.file.path.display();
            self.shared.event(Level::Notice, format!("wrote state file again, path={path}"));
        }
    }

    fn failed(&mut self, fault: &Fault, snapshot: Arc<Snapshot>) {
        let (reason, path) = (fault.to_string(), self.file.path.display());
        self.shared.state_file(fault.distrust());
        if self.failing.as_ref() != Some(&reason) {
            let what = if fault.distrust().is_some() { "refuses the" } else { "cannot write" };
            let need = "the last good revision will not survive a restart";
            self.shared.event(Level::Error, format!("{what} state file, {need}, path={path}, reason={reason}"));
            self.failing = Some(reason);
        }
        self.shared.write_later(snapshot);
    }
}
