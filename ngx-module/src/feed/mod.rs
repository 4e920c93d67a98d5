//! The feed: a thread that keeps one stream open to the control plane, hands the newest snapshot to
//! the event loop and brings back its word.
//!
//! Decides when and where to connect, what goes up, and when the state file is written. Never
//! touches nginx, shared memory or a request: the event loop is woken through an eventfd, takes the
//! newest [`Received`], publishes it and answers with [`Feed::applied`] or [`Feed::refused`]. What
//! crosses is a board of latest values under one mutex of this process, held for a few moves only
//! (see [`shared`]).
//! Cost: one thread of 512 KiB stack, and one or two more while a host name is resolved or the
//! state file is written.
//! Bound: three snapshots, [`shared::EVENTS_MAX`] events, one pending message of each kind,
//! `limits::PURGES_MAX` purges.

mod client;
mod connect;
pub(crate) mod declared;
mod fault;
pub(crate) mod folder;
mod persist;
pub(crate) mod report;
mod session;
mod shared;
pub(crate) mod state;
pub(crate) mod translate;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pincer_proto::v1;
use tokio::runtime::{Builder, Runtime};

pub(crate) use connect::TlsMaterial;
pub(crate) use shared::{Event, Level, PurgeCommand, Received, Status};

use crate::conf::control::Endpoint;
use shared::Shared;
use state::StateFile;

/// Stack of the feed's threads, in bytes: a TLS handshake and a snapshot of the largest size need a
/// tenth of it.
const STACK_BYTES: usize = 512 << 10;

/// Threads for what blocks: one resolves names, one writes the state file, so that neither waits
/// for the other. They end when idle.
const BLOCKING_THREADS_MAX: usize = 2;

/// How long a client that panicked stays down: long enough that a panic on every start costs
/// nothing.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// How often [`Feed::stop`] looks whether the thread has ended.
const STOP_POLL: Duration = Duration::from_micros(500);

/// What the thread needs to know; it keeps copies of everything.
pub(crate) struct Config {
    /// Replicas of the control plane, tried in random order. At least one.
    pub(crate) endpoints: Vec<Endpoint>,
    /// `None` = plaintext.
    pub(crate) tls: Option<TlsMaterial>,
    /// Says who this node is; its `applied_revision` is set by the thread at every connect.
    pub(crate) hello: v1::Hello,
    /// Where the last applied snapshot is kept; `None` = nowhere.
    pub(crate) state: Option<StateFile>,
    /// A non-blocking eventfd of this process alone: eight bytes are written to it when there is
    /// something to take or to log.
    pub(crate) wake: OwnedFd,
    /// Spreads reconnects of many nodes. Not for secrets.
    pub(crate) seed: u64,
    /// The revision in the zone now; 0 = none.
    pub(crate) applied_revision: u64,
}

/// The event loop's end of the feed. Dropping it tells the thread to stop and does not wait.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts the thread. The caller has blocked all signals, which threads inherit.
    ///
    /// Fails when an endpoint or the TLS material is unusable ([`io::ErrorKind::InvalidInput`]), or
    /// the system has no thread or descriptor left.
    pub(crate) fn start(config: Config) -> io::Result<Self> {
        let invalid = |fault| io::Error::new(io::ErrorKind::InvalidInput, fault);
        let targets = connect::targets(&config.endpoints, config.tls.as_ref()).map_err(invalid)?;
        let shared = Arc::new(Shared::new(File::from(config.wake), config.applied_revision, config.state.is_some()));
        let plan = client::Plan { targets, hello: config.hello, seed: config.seed };
        let runtime = runtime()?;
        let theirs = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("pincer-feed".to_owned()).stack_size(STACK_BYTES).spawn(move || {
                supervise(&runtime, &theirs, || {
                    let client = client::run(&theirs, &plan);
                    let writer = persist::run(&theirs, config.state.as_ref());
                    runtime.block_on(async { tokio::join!(client, writer) });
                });
                // Whatever still resolves or writes is left behind: it must not hold up nginx.
                runtime.shutdown_background();
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The newest snapshot, once; older ones that were not taken are gone, which is fine because
    /// each is the whole state.
    pub(crate) fn take(&self) -> Option<Received> {
        self.shared.take()
    }

    /// `revision` is in the zone, `took` after it arrived: sends an Ack, then keeps the snapshot on
    /// disk.
    pub(crate) fn applied(&self, revision: u64, took: Duration) {
        self.shared.applied(revision, took);
    }

    /// `revision` was refused as a whole: sends a Nack. `reason` is for operators; it is cut to
    /// what the protocol allows.
    pub(crate) fn refused(&self, revision: u64, reason: &str) {
        self.shared.refused(revision, reason);
    }

    /// Sends `stats`, now or as soon as the stream is up; only the latest is kept.
    pub(crate) fn stats(&self, stats: v1::Stats) {
        self.shared.stats(stats);
    }

    /// The oldest purge that waits, once.
    pub(crate) fn take_purge(&self) -> Option<PurgeCommand> {
        self.shared.take_purge()
    }

    /// Sends what came of a purge that `stream` brought, if that stream is still open.
    pub(crate) fn purged(&self, stream: u64, purged: v1::Purged) {
        self.shared.purged(stream, purged);
    }

    /// How the connection is, as of its `pulse`.
    pub(crate) fn status(&self) -> Status {
        self.shared.status()
    }

    /// What is worth a line in the error log since the last call.
    pub(crate) fn drain_events(&self) -> Vec<Event> {
        self.shared.drain_events()
    }

    /// Tells the thread to end within `deadline`, and does not wait for it.
    pub(crate) fn begin_stop(&self, deadline: Duration) {
        self.shared.stop(Instant::now() + deadline);
    }

    /// Ends the thread; `false` if it has not ended `deadline` from now, in which case it is left
    /// behind.
    pub(crate) fn stop(mut self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.shared.stop(until);
        let Some(thread) = self.thread.take() else { return true };
        while !thread.is_finished() {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(STOP_POLL);
        }
        thread.join().is_ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stop(Instant::now());
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("pincer-feed-io")
        .thread_stack_size(STACK_BYTES)
        .build()
}

/// Runs `client` until it returns, which it does when told to stop; starts it again when it panics.
fn supervise(runtime: &Runtime, shared: &Shared, mut client: impl FnMut()) {
    while catch_unwind(AssertUnwindSafe(&mut client)).is_err() {
        shared.panicked();
        let paused = async { tokio::time::timeout(PANIC_PAUSE, shared.stopped()).await };
        if runtime.block_on(paused).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        // Any writable file will do for a wake-up that nobody waits for.
        Shared::new(File::options().write(true).open("/dev/null").unwrap(), 0, false)
    }

    #[test]
    fn a_client_that_panics_is_started_again_and_said_so() {
        let (runtime, shared) = (runtime().unwrap(), shared());
        let mut starts = 0;
        supervise(&runtime, &shared, || {
            starts += 1;
            assert!(starts > 1, "the first start fails");
        });
        assert_eq!(starts, 2);
        let events = shared.drain_events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].level, Level::Error);
        assert!(!shared.status().connected);
    }

    #[test]
    fn a_stop_does_not_wait_for_a_client_that_panics_again_and_again() {
        let (runtime, shared) = (runtime().unwrap(), shared());
        shared.stop(Instant::now());
        supervise(&runtime, &shared, || panic!("always"));
    }

    #[test]
    fn an_endpoint_list_that_is_empty_is_a_mistake_of_the_configuration() {
        let wake = File::options().write(true).open("/dev/null").unwrap().into();
        let (hello, endpoints) = (v1::Hello::default(), Vec::new());
        let config = Config { endpoints, tls: None, hello, state: None, wake, seed: 1, applied_revision: 0 };
        let error = Feed::start(config).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
