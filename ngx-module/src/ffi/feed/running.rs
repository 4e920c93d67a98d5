//! The event loop's side of the feed: starts the thread, publishes into the zone what it received,
//! and tells it what came of that.
//!
//! Only worker 0 runs a feed. During a reload the old and the new worker 0 both do; the lease in
//! the zone decides who writes. What arrives is checked as a whole before anything changes. Never
//! blocks: the thread hands over through a slot and an eventfd.

use super::conf::Main;
use super::hello::{core_conf, hello};
use super::part::Answer;
use super::restore::{publish, state_file};
use crate::conf::control::ControlPlaneArgs;
use crate::feed::PurgeCommand;
use crate::feed::{Config, Event, Feed, Level, Received, TlsMaterial, report as stats};
use crate::ffi::base::{bits, clock, event, eventfd, log};
use crate::ffi::zone::worker;
use nginx_sys::{ngx_connection_t, ngx_event_t};
use pincer_core::journal::Journal;
use pincer_core::time::MonoNs;
use pincer_core::zone::Link;
use pincer_proto::v1;
use std::cell::RefCell;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a stopping worker waits for the thread.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

struct Running {
    feed: Feed,
    main: &'static Main,
    connection: *mut ngx_connection_t,
    /// Received while another worker held the lease: a dead one's lease is free within a second.
    waiting: Option<Received>,
    /// What was said of revisions that this node cannot hold.
    refusals: Journal,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Starts the thread, in worker 0.
pub(crate) fn start(main: &'static Main) {
    let Some(plane) = &main.control_plane else { return };
    if worker::worker().is_none() {
        return;
    }
    stop();
    if let Err(error) = try_start(main, plane) {
        log::write_cycle(log::NGX_LOG_ERR, &format!("cannot start the feed, serves what the zone has, error={error}"));
    }
}

fn try_start(main: &'static Main, plane: &ControlPlaneArgs) -> std::io::Result<()> {
    let loop_end = eventfd::eventfd().ok_or_else(std::io::Error::last_os_error)?;
    // SAFETY: duplicates a descriptor of ours, for the thread alone.
    let thread_end = unsafe { libc::fcntl(loop_end, libc::F_DUPFD_CLOEXEC, 0) };
    if thread_end < 0 {
        let error = std::io::Error::last_os_error();
        // SAFETY: ours, and nobody else has it.
        unsafe { libc::close(loop_end) };
        return Err(error);
    }
    // SAFETY: just made, and nobody else owns it.
    let wake_fd = unsafe { OwnedFd::from_raw_fd(thread_end) };
    let connection = eventfd::listen(loop_end, event::handler::<Wake>, eventfd::Lifetime::UntilStop)
        .ok_or_else(|| std::io::Error::other("no free connection for the feed, raise worker_connections"))?;
    let config = Config {
        endpoints: plane.endpoints.clone(),
        tls: main.tls.get().map(copy_of),
        hello: hello(
            main,
            plane,
            main.memory.get().map(|memory| memory.instance_id.borrow().clone()).unwrap_or_default(),
        ),
        state: core_conf().and_then(|core| state_file(main, core.user)),
        wake: wake_fd,
        seed: clock::entropy(),
        applied_revision: main.zone().map_or(0, |zone| zone.header.revision()),
    };
    match with_signals_blocked(|| Feed::start(config)) {
        Ok(feed) => {
            RUNNING.replace(Some(Running { feed, main, connection, waiting: None, refusals: Journal::default() }));
            Ok(())
        }
        Err(error) => {
            // SAFETY: the connection made above, used by nobody else.
            unsafe { nginx_sys::ngx_close_connection(connection) };
            Err(error)
        }
    }
}

/// The thread gets a copy: the configuration may go before it.
fn copy_of(tls: &TlsMaterial) -> TlsMaterial {
    TlsMaterial {
        ca_pem: tls.ca_pem.clone(),
        certificate_pem: tls.certificate_pem.clone(),
        key_pem: tls.key_pem.clone(),
        server_name: tls.server_name.clone(),
    }
}

/// Threads inherit the mask of their maker, and nginx's signals belong to its loop.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: plain sets on this stack, filled by the calls; the old mask is restored in every
    // case.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        started
    }
}

/// The thread has something: events, a snapshot, or a change of its connection. Or a graceful stop
/// begins.
struct Wake;

impl event::Handler for Wake {
    const PLACE: &'static str = "feed wake";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: nginx calls with the read event of the feed's connection.
        let (descriptor, closing) = unsafe {
            let connection = (*event).data.cast::<ngx_connection_t>();
            ((*connection).fd, bits::connection::close(connection) != 0)
        };
        if closing {
            // Requests are still served: the thread is joined only when the process ends.
            RUNNING.with_borrow_mut(|running| {
                if let Some(running) = running {
                    running.retire();
                }
            });
            return;
        }
        eventfd::drain(descriptor);
        RUNNING.with_borrow_mut(|running| {
            if let Some(running) = running {
                running.serve();
            }
        });
    }
}

impl Running {
    /// Closes the loop's end, lets go of the lease and tells the thread to stop.
    fn retire(&mut self) {
        let connection = std::mem::replace(&mut self.connection, std::ptr::null_mut());
        if connection.is_null() {
            return;
        }
        // SAFETY: the feed's own connection; nginx does not touch it once it is closed.
        unsafe { nginx_sys::ngx_close_connection(connection) };
        if let (Some(zone), Some(worker)) = (self.main.zone(), worker::worker()) {
            zone.feed_release(worker);
        }
        for part in self.main.parts.borrow().iter() {
            part.abandon();
        }
        self.feed.begin_stop(STOP_DEADLINE);
    }

    fn serve(&mut self) {
        for event in self.feed.drain_events() {
            log_event(&event);
        }
        self.note_connection();
        if let Some(received) = self.feed.take() {
            self.publish(received);
        }
        while let Some(command) = self.feed.take_purge() {
            let stream = command.stream;
            if let Some(result) = self.command(command) {
                self.feed.purged(stream, result);
            }
        }
    }

    /// Hands a command to the features: the one whose it is takes it.
    fn command(&self, command: PurgeCommand) -> Option<v1::Purged> {
        let answer = Answer { stream: command.stream, deliver: purged };
        let part = self.main.parts.borrow().iter().copied().find(|part| part.takes_purges())?;
        part.command(command, answer)
    }

    /// Tries again what came while another worker held the lease.
    fn retry(&mut self) {
        if let Some(received) = self.waiting.take()
            && self.main.zone().is_some_and(|zone| zone.header.revision() <= received.snapshot.revision)
        {
            self.publish(received);
        }
    }

    /// Copies the state of the link, and of the state file, into the zone, for the status page, if
    /// this worker may.
    fn note_connection(&self) {
        let (Some(zone), Some(worker)) = (self.main.zone(), worker::worker()) else { return };
        let (status, now) = (self.feed.status(), clock::now());
        let moment = |at: Option<Instant>| at.map_or(MonoNs(0), |at| MonoNs(now.0.saturating_sub(age_ns(at))));
        let link = Link {
            connected: status.connected,
            address: u32::try_from(status.endpoint).unwrap_or(0),
            message: moment(status.last_message),
            pulse: moment(status.pulse),
            error: status.last_error.as_deref().unwrap_or_default(),
        };
        if !zone.feed_report(worker, self.main.generation(), &link) {
            return;
        }
        if let Some(refused) = status.state_file {
            zone.header.state_file.found(refused);
        }
    }

    /// Whether this worker is the one whose link counts.
    fn holds(&self) -> bool {
        let (Some(zone), Some(worker)) = (self.main.zone(), worker::worker()) else { return false };
        zone.feed_holds(worker, self.main.generation())
    }

    /// Puts a snapshot into the zone and says so, or says why not.
    fn publish(&mut self, received: Received) {
        let Some(zone) = self.main.zone() else { return };
        let Some(worker) = worker::worker() else { return };
        // A newer configuration's worker 0 writes from now on, and its own feed gets the same
        // snapshot; or the holder has just died.
        if !zone.feed_acquire(worker, self.main.generation()) {
            self.waiting = Some(received);
            return;
        }
        let revision = received.snapshot.revision;
        match publish(self.main, &received.snapshot) {
            Ok(()) => {
                let took = received.arrived.elapsed();
                log::write_cycle(
                    log::NGX_LOG_INFO,
                    &format!("applies a revision, revision={revision}, took_us={}", took.as_micros()),
                );
                self.refusals.stands(clock::now());
                self.feed.applied(revision, took);
                worker::slots_changed();
            }
            Err(error) => {
                let reason = error.to_string();
                zone.header.connection.refused();
                if self.refusals.failed(0, &reason, clock::now()) {
                    log::write_cycle(
                        log::NGX_LOG_ERR,
                        &format!("refuses a revision, revision={revision}, reason={reason}"),
                    );
                }
                self.feed.refused(revision, &reason);
            }
        }
    }
}

fn age_ns(at: Instant) -> u64 {
    u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn log_event(event: &Event) {
    let level = match event.level {
        Level::Error => log::NGX_LOG_ERR,
        Level::Warn => log::NGX_LOG_WARN,
        Level::Notice => log::NGX_LOG_NOTICE,
    };
    log::write_cycle(level, &event.text);
}

/// A purge that `stream` brought has ended.
fn purged(stream: u64, purged: v1::Purged) {
    RUNNING.with_borrow(|running| {
        if let Some(running) = running.as_ref().filter(|running| !running.connection.is_null()) {
            running.feed.purged(stream, purged);
        }
    });
}

/// Brings the state of the link up to date before it is shown: this loop may have been busy for
/// longer than a link is believed.
pub(crate) fn refresh() {
    RUNNING.with_borrow(|running| {
        if let Some(running) = running.as_ref().filter(|running| !running.connection.is_null() && running.holds()) {
            running.note_connection();
        }
    });
}

/// Once a second: gives the thread fresh counts for the control plane, and refreshes the link's
/// state.
pub(crate) fn report() {
    RUNNING.with_borrow_mut(|running| {
        if let Some(running) = running.as_mut().filter(|running| !running.connection.is_null())
            && let Some(zone) = running.main.zone()
        {
            running.note_connection();
            running.retry();
            running.feed.stats(stats::of(&zone.snapshot(clock::now())));
        }
    });
}

/// Stops the thread and waits for it, but not for long.
pub(crate) fn stop() {
    let Some(mut running) = RUNNING.take() else { return };
    running.retire();
    if !running.feed.stop(STOP_DEADLINE) {
        log::write_cycle(log::NGX_LOG_WARN, "left the feed's thread running, it did not stop in 500 ms");
    }
}
