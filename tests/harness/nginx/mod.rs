//! A real nginx in a folder of its own, for one test.
//!
//! Dropping it stops it and checks that it was well: no `[alert]` or `[emerg]` in its log, no
//! worker that died unless the test killed it, no request still counted in flight or waiting. A
//! test that panics already is not made to panic again. Every wait is bounded.

mod builder;
mod cache;
pub mod log;
pub mod process;
mod status;
pub mod workers;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child as MasterProcess, Command};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

pub use builder::{Builder, Checked};
pub use cache::CACHE;
use log::Expected;
use process::{Child, Role};
pub use rustix::process::Signal;
pub use status::Status;

use crate::{Client, eventually, wait};

/// How long nginx may take to accept connections or to replace its workers, seconds.
const START_S: f64 = 15.0;
/// How long the feed may take to connect, seconds.
const CONNECTED_S: f64 = 10.0;
/// How long in-flight counts may take to return to zero after the last request, seconds.
const SETTLE_S: f64 = 5.0;
/// How long a finished request may take to be logged, seconds.
const LOGGED_S: f64 = 10.0;
/// How long a graceful stop may take when the harness ends it, seconds; then it is terminated.
const QUIT_S: f64 = 2.0;
/// How long a fast stop may take, seconds; then it is killed, which is a fault.
const STOP_S: f64 = 10.0;

/// The rest of the line that follows `label` in what [`binary`] prints for `-V`; empty when there
/// is none. Asked once a process, and not when the tests are built, so that one build of the tests
/// serves every nginx.
fn told(label: &str) -> &'static str {
    static TOLD: LazyLock<String> = LazyLock::new(|| {
        let output = Command::new(binary()).arg("-V").output();
        output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stderr).into_owned())
    });
    TOLD.split_once(label).and_then(|(_, rest)| rest.lines().next()).unwrap_or_default()
}

/// The arguments that the nginx of the tests was configured with.
pub(crate) fn arguments() -> &'static str {
    told("configure arguments: ")
}

/// True when nginx was configured with this argument, e.g. `--with-debug`.
#[must_use]
pub fn has_argument(argument: &str) -> bool {
    arguments().contains(argument)
}

/// The version of the nginx that the tests run, to compare: `version() >= (1, 29, 7)`.
#[must_use]
pub fn version() -> (u32, u32, u32) {
    let version = told("nginx version: nginx/").split_whitespace().next().unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

/// `listen` on a loopback port for HTTP/2 without TLS, with prior knowledge, as this version spells
/// it.
#[must_use]
pub fn http2_listen(port: u16) -> String {
    let http2 = if version() >= (1, 25, 1) { "; http2 on;" } else { " http2;" };
    format!("listen 127.0.0.1:{port}{http2}")
}

/// The nginx that the tests run: `PINCER_NGINX`, else `nginx` in the path. With its folder, as a
/// binary upgrade wants it.
#[must_use]
pub fn binary() -> String {
    let name = std::env::var("PINCER_NGINX").unwrap_or_else(|_| "nginx".into());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file());
    found.map_or(name, |file| file.display().to_string())
}

/// A running nginx.
pub struct Nginx {
    setup: Builder,
    process: MasterProcess,
    pid: i32,
    expected: Mutex<Expected>,
    leave_in_flight: bool,
}

impl Nginx {
    /// Begins an nginx with our module and one worker.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    async fn try_start(setup: Builder) -> Result<Self, String> {
        setup.write();
        let said = File::create(builder::inside(&setup.prefix, "logs/stderr.log")).map_err(|e| e.to_string())?;
        let mut command = setup.command();
        command.stdin(std::process::Stdio::null()).stdout(said.try_clone().map_err(|e| e.to_string())?).stderr(said);
        let process = command.spawn().map_err(|error| format!("{}: {error}", binary()))?;
        let pid = i32::try_from(process.id()).map_err(|e| e.to_string())?;
        let mut nginx = Self { setup, process, pid, expected: Mutex::default(), leave_in_flight: false };
        match nginx.accepts().await {
            Ok(()) => Ok(nginx),
            Err(error) => {
                nginx.allow("[emerg]");
                nginx.allow("[alert]");
                nginx.leave_in_flight = true;
                Err(format!("{error}\n{}", nginx.tail()))
            }
        }
    }

    /// Waits until the master has its pid file, all workers run, and the port accepts.
    async fn accepts(&mut self) -> Result<(), String> {
        let start = std::time::Instant::now();
        let pid_file = self.path("logs/nginx.pid");
        while start.elapsed() < crate::limit(START_S) {
            if let Ok(Some(status)) = self.process.try_wait()
                && !(self.setup.detached && status.success())
            {
                return Err(format!("exited with {status}"));
            }
            if let Some(pid) = process::pid_in(&pid_file) {
                self.pid = pid;
                let listens = TcpStream::connect(self.address()).await.is_ok();
                if listens && self.workers().len() >= self.setup.workers {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(format!("does not accept connections within {START_S} s"))
    }

    /// `127.0.0.1:PORT` of the test's server.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.setup.port)
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A client with a keepalive pool.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::pooled(&self.url())
    }

    /// A path inside the prefix.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        builder::inside(&self.setup.prefix, path)
    }

    /// The folder that relative paths of the configuration start from.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        self.setup.prefix()
    }

    /// The error log and what nginx wrote before it had one.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name| std::fs::read(self.path(name)).unwrap_or_default();
        let bytes = [read("logs/stderr.log"), read("logs/error.log")].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of the log.
    #[must_use]
    pub fn tail(&self) -> String {
        log::tail(&self.log(), 60)
    }

    /// Waits until the error log contains `text`.
    ///
    /// # Panics
    /// When it does not within `seconds`.
    pub async fn logs(&self, text: &str, seconds: f64) {
        eventually(&format!("the error log says {text:?}"), seconds, || async { self.log().contains(text) }).await;
    }

    /// The lines of [`Builder::logging`], when there are at least `count`.
    ///
    /// # Panics
    /// When there are fewer after 10 s.
    pub async fn logged(&self, count: usize) -> Vec<String> {
        let path = self.path("logs/access.log");
        crate::eventually_some(&format!("{count} requests are logged"), LOGGED_S, || async {
            let lines: Vec<_> = std::fs::read_to_string(&path).ok()?.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }

    /// From now on a line with `text` is no fault.
    pub fn allow(&self, text: &str) {
        self.expect(|expected| expected.allowed.push(text.to_owned()));
    }

    /// The test ends with requests in flight on purpose.
    pub fn leave_in_flight(&mut self) {
        self.leave_in_flight = true;
    }

    fn expect(&self, change: impl FnOnce(&mut Expected)) {
        change(&mut self.expected.lock().expect("no holder panics"));
    }

    /// The master's pid.
    #[must_use]
    pub fn master(&self) -> i32 {
        self.pid
    }

    /// The workers that take new requests, by pid.
    #[must_use]
    pub fn workers(&self) -> Vec<i32> {
        self.children(Role::Worker)
    }

    /// The workers of older configurations that still finish their requests.
    #[must_use]
    pub fn draining(&self) -> Vec<i32> {
        self.children(Role::Draining)
    }

    fn children(&self, role: Role) -> Vec<i32> {
        let of_role = |child: &Child| child.role == role;
        process::children(self.pid).into_iter().filter(of_role).map(|child| child.pid).collect()
    }

    /// Kills a worker (-9); the trace of that in the log is no fault.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn kill_worker(&self, pid: i32) {
        self.expect(|expected| expected.killed.push(pid));
        assert!(process::signal(pid, Signal::KILL), "no worker {pid}");
    }

    /// Sends any signal to the master.
    pub fn signal(&self, signal: Signal) {
        let _ = process::signal(self.pid, signal);
    }

    /// Reloads, and returns when new workers serve and the old ones take no new requests.
    ///
    /// # Panics
    /// When the configuration is refused or that takes over 15 s.
    pub async fn reload(&self) {
        self.try_reload().await.unwrap_or_else(|error| panic!("reload: {error}"));
    }

    /// [`Nginx::reload`] for a configuration that may be refused.
    ///
    /// # Errors
    /// The `[emerg]` lines; nginx goes on with the old configuration.
    pub async fn try_reload(&self) -> Result<(), String> {
        let (old, said) = (self.workers(), self.log().len());
        self.signal(Signal::HUP);
        let refused = || {
            let log = self.log();
            let new = log.get(said..).unwrap_or_default();
            new.lines().find(|line| line.contains("[emerg]")).map(str::to_owned)
        };
        let replaced = || {
            let now = self.workers();
            now.len() >= self.setup.workers && now.iter().all(|pid| !old.contains(pid))
        };
        let ended = crate::eventually_some("new workers serve", START_S, || async {
            if let Some(line) = refused() {
                return Some(Err(line));
            }
            replaced().then_some(Ok(()))
        });
        let result = ended.await;
        if let Err(line) = &result {
            self.allow(line);
        }
        result
    }

    /// Changes the configuration, then reloads.
    pub async fn reconfigure(&mut self, change: impl FnOnce(Builder) -> Builder) {
        let setup = std::mem::replace(&mut self.setup, Builder::new());
        self.setup = change(setup);
        self.setup.write();
        self.reload().await;
    }

    /// Replaces the binary (USR2): a new master with new workers takes over, the old one finishes
    /// its requests and ends. Needs [`Builder::detached`].
    ///
    /// # Panics
    /// When either takes over 15 s.
    pub async fn upgrade(&mut self) {
        let (old, pid_file) = (self.pid, self.path("logs/nginx.pid"));
        self.signal(Signal::USR2);
        self.pid = crate::eventually_some("the new master has its workers", START_S, || async {
            let pid = process::pid_in(&pid_file).filter(|pid| *pid != old)?;
            let workers = process::children(pid).into_iter().filter(|child| child.role == Role::Worker).count();
            (workers >= self.setup.workers).then_some(pid)
        })
        .await;
        let _ = process::signal(old, Signal::QUIT);
        let ended = || async { !process::runs(old) };
        eventually("the old master ends", START_S, ended).await;
    }

    /// `/pincer_status` of the zone.
    pub async fn status(&self) -> Status {
        let reply = self.status_client().get("/pincer_status").await;
        assert_eq!(reply.status, 200, "pincer_status: {}", reply.text());
        let json: Value = serde_json::from_slice(&reply.body)
            .unwrap_or_else(|error| panic!("pincer_status is no JSON: {error}: {}", reply.text()));
        Status(json)
    }

    /// Waits until the feed is connected to the control plane.
    ///
    /// # Panics
    /// When it is not within 10 s.
    pub async fn connected(&self) {
        let connected = || async { self.status().await.0["control_plane"]["connected"] == true };
        eventually("the control plane is connected", CONNECTED_S, connected).await;
    }

    /// `/pincer_metrics` of the zone.
    pub async fn metrics(&self) -> String {
        let reply = self.status_client().get("/pincer_metrics").await;
        assert_eq!(reply.status, 200, "pincer_metrics: {}", reply.text());
        reply.text()
    }

    /// A client of the server with `pincer_status` and `pincer_metrics`.
    #[must_use]
    pub fn status_client(&self) -> Client {
        Client::single(&format!("http://127.0.0.1:{}", self.setup.status_port))
    }

    /// Stops gracefully and waits for the end. A client that is still there may hold a connection
    /// that it has opened to be prepared and never used: nginx waits a minute for its first
    /// request.
    ///
    /// # Panics
    /// When it has not ended within 10 s, or on a fault in the log.
    pub fn quit(mut self) {
        self.signal(Signal::QUIT);
        assert!(self.ended(STOP_S), "nginx does not quit:\n{}", self.tail());
    }

    fn ended(&mut self, seconds: f64) -> bool {
        wait::blocking(seconds, || !self.runs())
    }

    fn runs(&mut self) -> bool {
        if self.setup.detached { process::runs(self.pid) } else { matches!(self.process.try_wait(), Ok(None)) }
    }

    /// Stops it whatever it takes; the text is what went wrong.
    fn stop(&mut self) -> Result<(), String> {
        if self.ended(0.0) {
            return Ok(());
        }
        self.signal(Signal::QUIT);
        if self.ended(QUIT_S) {
            return Ok(());
        }
        // Cut off in the middle of draining, workers report the sockets that are open.
        self.allow("open socket #");
        self.signal(Signal::TERM);
        if self.ended(STOP_S) {
            return Ok(());
        }
        for child in process::children(self.pid) {
            let _ = process::signal(child.pid, Signal::KILL);
        }
        self.signal(Signal::KILL);
        let _ = self.ended(STOP_S);
        Err(format!("did not stop within {STOP_S} s"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let running = self.runs();
        let in_flight = if running && self.setup.has_status() && !self.leave_in_flight && !std::thread::panicking() {
            status::settled(self.setup.status_port, SETTLE_S)
        } else {
            Ok(())
        };
        let stopped = self.stop();
        let expected = self.expected.lock().map(|expected| expected.clone()).unwrap_or_default();
        let faults = log::faults(&self.log(), &expected);
        if std::thread::panicking() {
            eprintln!("--- nginx's log ends with\n{}", self.tail());
            return;
        }
        // The faults last: who reads only the end of a long output needs them.
        assert!(
            faults.is_empty(),
            "nginx logged faults\n--- log\n{}\n{}",
            self.tail(),
            log::report(&self.log(), &faults)
        );
        for result in [in_flight, stopped] {
            result.unwrap_or_else(|error| panic!("nginx {error}\n{}", self.tail()));
        }
    }
}
