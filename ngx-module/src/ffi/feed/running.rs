//! The event loop's side of the feed: starts the thread, publishes into the zone what it received, and tells it what came of that.
//!
//! Only worker 0 runs a feed. During a reload the old and the new worker 0 both do; the lease in the zone decides who writes.
//! What arrives is checked as a whole before anything changes. Never blocks: the thread hands over through a slot and an eventfd.

use crate::conf::control::ControlPlaneArgs;
use crate::feed::declared::class as declared_class;
use crate::feed::folder::Fault;
use crate::feed::state::{self, StateFile};
use crate::feed::{Config, Event, Feed, Level, Received, TlsMaterial, report as stats, translate};
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, clock, log, nginx};
use crate::ffi::cache::purge;
use crate::ffi::conf::{self, MainConf};
use crate::ffi::zone::{memory, wake, worker};
use nginx_sys::{ngx_connection_t, ngx_event_t};
use pincer_core::journal::Journal;
use pincer_core::time::MonoNs;
use pincer_core::trust::Trusted;
use pincer_core::zone::Link;
use pincer_proto::v1::{self, DeclaredPeer, DeclaredUpstream, Hello, Snapshot};
use std::cell::RefCell;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a stopping worker waits for the thread.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

struct Running {
    feed: Feed,
    main: &'static MainConf,
    connection: *mut ngx_connection_t,
    /// Received while another worker held the lease: a dead one's lease is free within a second.
    waiting: Option<Received>,
    /// What was said of revisions that this node cannot hold.
    refusals: Journal,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Puts the last good revision from disk into a zone that has none. In the master, as root; a
/// damaged file is set aside, and one that others can write is not read.
///
/// `owner` is the user and group that workers run as.
pub(crate) fn restore(main: &'static MainConf, owner: (u32, u32)) {
    let (Some(file), Some(zone)) = (state_file(main, owner.0), main.zone.get()) else { return };
    let prepared = file.prepare(is_root().then_some(owner));
    zone.header.state_file.found(prepared.as_ref().err().and_then(Fault::distrust));
    if let Err(fault) = prepared {
        log_unusable(&file, &fault, zone.header.revision());
        return;
    }
    if zone.header.revision() != 0 {
        return;
    }
    match file.load() {
        state::Loaded::Missing => {}
        state::Loaded::Good(snapshot) => match publish(main, &snapshot) {
            Ok(()) => log::write_cycle(
                log::NGX_LOG_NOTICE,
                &format!(
                    "restores the last good revision, revision={}, file={}",
                    snapshot.revision,
                    file.path.display()
                ),
            ),
            // Sound, but not for this configuration (a smaller zone, a peer no longer allowed): it may be again.
            Err(reason) => log::write_cycle(
                log::NGX_LOG_ERR,
                &format!(
                    "the last good revision does not fit the configuration, serves from nginx.conf, revision={}, file={}, reason={reason}",
                    snapshot.revision,
                    file.path.display()
                ),
            ),
        },
        state::Loaded::Damaged { reason } => set_aside(&file, &reason),
        state::Loaded::Unreadable(fault) => {
            zone.header.state_file.found(fault.distrust());
            log_unusable(&file, &fault, 0);
        }
    }
}

/// The state file that `main` names, if it names one, and whose it may be: root's and, as `user`,
/// the workers'.
fn state_file(main: &MainConf, user: u32) -> Option<StateFile> {
    // Only root becomes another user; all others' workers are what their master is.
    let user = if is_root() { user } else { effective_user() };
    main.state_path.clone().map(|path| StateFile { path, trusted: Trusted { user } })
}

fn effective_user() -> u32 {
    // SAFETY: reads this process's own user, and cannot fail.
    unsafe { libc::geteuid() }
}

fn is_root() -> bool {
    effective_user() == 0
}

/// `revision` is the one in force, 0 = none.
fn log_unusable(file: &StateFile, fault: &Fault, revision: u64) {
    let what = match fault.distrust() {
        Some(_) => "refuses the state file, reads and writes nothing there until it is mended",
        None => "cannot use the state file",
    };
    let serves = if revision == 0 { "serves from nginx.conf until the control plane is reached" } else { "serves on" };
    let message = format!("{what}, {serves}, file={}, reason={fault}", file.path.display());
    log::write_cycle(log::NGX_LOG_ERR, &message);
}

fn set_aside(file: &StateFile, reason: &str) {
    let outcome = match file.set_aside() {
        Ok(moved) => format!("moved to {}", moved.display()),
        Err(fault) => format!("cannot be moved: {fault}"),
    };
    let path = file.path.display();
    let message = format!("state file {path} is damaged ({reason}), {outcome}, serves from nginx.conf");
    log::write_cycle(log::NGX_LOG_ERR, &message);
}

/// Starts the thread, in worker 0.
pub(crate) fn start(main: &'static MainConf) {
    let Some(plane) = &main.control_plane else { return };
    if worker::worker().is_none() {
        return;
    }
    stop();
    if let Err(error) = try_start(main, plane) {
        log::write_cycle(log::NGX_LOG_ERR, &format!("cannot start the feed, serves what the zone has, error={error}"));
    }
}

fn try_start(main: &'static MainConf, plane: &ControlPlaneArgs) -> std::io::Result<()> {
    let loop_end = wake::eventfd().ok_or_else(std::io::Error::last_os_error)?;
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
    let connection = wake::listen(loop_end, on_wake, wake::Lifetime::UntilStop)
        .ok_or_else(|| std::io::Error::other("no free connection for the feed, raise worker_connections"))?;
    let config = Config {
        endpoints: plane.endpoints.clone(),
        tls: main.tls.as_ref().map(copy_of),
        hello: hello(main, plane),
        state: state_file(main, core_conf().user),
        wake: wake_fd,
        seed: clock::entropy(),
        applied_revision: main.zone.get().map_or(0, |zone| zone.header.revision()),
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
    // SAFETY: plain sets on this stack, filled by the calls; the old mask is restored in every case.
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The peers of nginx.conf, as the control plane hears of them.
fn declared(main: &MainConf) -> Vec<DeclaredUpstream> {
    let peer = |peer: &conf::DeclaredPeer| DeclaredPeer {
        address: text(&peer.name),
        server: text(&peer.server),
        weight: peer.weight,
        max_conns: peer.max_conns,
        backup: peer.backup,
        down: peer.down,
    };
    let upstream = |upstream: &&conf::UpstreamConf| DeclaredUpstream {
        name: text(&upstream.name.borrow()),
        peers: upstream.peers.borrow().iter().map(peer).collect(),
    };
    main.upstreams.borrow().iter().map(upstream).collect()
}

/// Who we are, and what nginx.conf declares.
fn hello(main: &MainConf, plane: &ControlPlaneArgs) -> Hello {
    Hello {
        node: plane.node.clone().unwrap_or_else(host_name),
        instance_id: main.instance_id.borrow().clone(),
        module_version: env!("CARGO_PKG_VERSION").to_owned(),
        nginx_version: text(nginx_sys::NGINX_VERSION.to_bytes()),
        worker_processes: worker_processes(),
        upstreams: declared(main),
        classes: main.classes.iter().map(|class| declared_class(&class.name, &class.settings)).collect(),
        ..Hello::default()
    }
}

fn core_conf() -> &'static nginx_sys::ngx_core_conf_t {
    // SAFETY: a worker's cycle is complete, and lives as long as the worker.
    unsafe { nginx::core_conf(nginx_sys::ngx_cycle) }
}

fn worker_processes() -> u32 {
    u32::try_from(core_conf().worker_processes).unwrap_or(1)
}

fn host_name() -> String {
    // SAFETY: the cycle holds the host's name since its start.
    let name = unsafe { nginx::bytes((*nginx_sys::ngx_cycle).hostname) };
    text(name)
}

/// The thread has something: events, a snapshot, or a change of its connection. Or a graceful stop begins.
unsafe extern "C" fn on_wake(event: *mut ngx_event_t) {
    guard("feed wake", (), || {
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
        wake::drain(descriptor);
        RUNNING.with_borrow_mut(|running| {
            if let Some(running) = running {
                running.serve();
            }
        });
    });
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
        if let (Some(zone), Some(worker)) = (self.main.zone.get(), worker::worker()) {
            zone.feed_release(worker);
        }
        purge::abandon();
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
            if let Some(refused) = purge::submit(self.main, command) {
                self.feed.purged(stream, refused);
            }
        }
    }

    /// Tries again what came while another worker held the lease.
    fn retry(&mut self) {
        if let Some(received) = self.waiting.take()
            && self.main.zone.get().is_some_and(|zone| zone.header.revision() <= received.snapshot.revision)
        {
            self.publish(received);
        }
    }

    /// Copies the state of the link, and of the state file, into the zone, for the status page, if
    /// this worker may.
    fn note_connection(&self) {
        let (Some(zone), Some(worker)) = (self.main.zone.get(), worker::worker()) else { return };
        let (status, now) = (self.feed.status(), clock::now());
        let moment = |at: Option<Instant>| at.map_or(MonoNs(0), |at| MonoNs(now.0.saturating_sub(age_ns(at))));
        let link = Link {
            connected: status.connected,
            address: u32::try_from(status.endpoint).unwrap_or(0),
            message: moment(status.last_message),
            pulse: moment(status.pulse),
            error: status.last_error.as_deref().unwrap_or_default(),
        };
        if !zone.feed_report(worker, self.main.generation.get(), &link) {
            return;
        }
        if let Some(refused) = status.state_file {
            zone.header.state_file.found(refused);
        }
    }

    /// Whether this worker is the one whose link counts.
    fn holds(&self) -> bool {
        let (Some(zone), Some(worker)) = (self.main.zone.get(), worker::worker()) else { return false };
        zone.feed_holds(worker, self.main.generation.get())
    }

    /// Puts a snapshot into the zone and says so, or says why not.
    fn publish(&mut self, received: Received) {
        let Some(zone) = self.main.zone.get() else { return };
        let Some(worker) = worker::worker() else { return };
        // A newer configuration's worker 0 writes from now on, and its own feed gets the same snapshot; or the holder has just died.
        if !zone.feed_acquire(worker, self.main.generation.get()) {
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
                worker::kick_all();
            }
            Err(reason) => {
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

/// Checks the snapshot and puts it into the zone, all or nothing.
fn publish(main: &MainConf, snapshot: &Snapshot) -> Result<(), String> {
    let Some(zone) = main.zone.get() else { return Err("there is no zone".to_owned()) };
    let rules = translate::Rules::new(&declared(main), main.allow_peers.clone());
    let checked = rules.check(snapshot).map_err(|fault| fault.to_string())?;
    // The wall clock says only how long keys have yet; from here on they are held to the monotonic one.
    let now = translate::Now { wall: std::time::SystemTime::now(), mono: clock::now() };
    checked.with_overlay(now, |overlay| {
        memory::locked(main, || zone.overlay_apply(overlay, clock::now())).map_err(|error| error.to_string())
    })
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
pub(crate) fn purged(stream: u64, purged: v1::Purged) {
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

/// Once a second: gives the thread fresh counts for the control plane, and refreshes the link's state.
pub(crate) fn report() {
    RUNNING.with_borrow_mut(|running| {
        if let Some(running) = running.as_mut().filter(|running| !running.connection.is_null())
            && let Some(zone) = running.main.zone.get()
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
