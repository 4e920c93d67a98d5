//! A real control plane with a development CA in a folder of its own, and `pincerctl` for it.
//!
//! Its ports stay the same over [`Pincerd::kill`] and [`Pincerd::start_again`]. Dropping it kills
//! it. Every wait is bounded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Client, eventually, limit, paths, ports, process};

/// How long pincerd may take to be healthy, seconds.
const START_S: f64 = 20.0;
/// How long a pincerctl command may take, seconds.
const COMMAND_S: f64 = 60.0;

/// A control plane.
pub struct Pincerd {
    folder: TempDir,
    grpc_port: u16,
    http_port: u16,
    level: Option<String>,
    process: Option<Child>,
}

/// What a pincerctl command did.
#[derive(Debug)]
pub struct Told {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Pincerd {
    /// Starts one and waits until it is healthy.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let mut pincerd = Self::prepared();
        pincerd.start_again().await;
        pincerd
    }

    /// One that does not run yet, with ports of its own.
    ///
    /// # Panics
    /// When the temporary folder cannot be made.
    #[must_use]
    pub fn prepared() -> Self {
        let folder = tempfile::Builder::new().prefix("pincerd-").tempdir().expect("temporary folder");
        Self { folder, grpc_port: ports::free_port(), http_port: ports::free_port(), level: None, process: None }
    }

    /// Logs from this level on, `trace` for all there is.
    #[must_use]
    pub fn logging(mut self, level: &str) -> Self {
        self.level = Some(level.to_owned());
        self
    }

    /// Starts it (again) on the same ports, with the same store.
    ///
    /// # Panics
    /// When it is not healthy within 20 s.
    pub async fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("pincerd's log");
        let mut command = Command::new(paths::pincerd());
        command.arg("--dev").arg(self.dev());
        command.args(["--listen", &self.endpoint(), "--http-listen", &format!("127.0.0.1:{}", self.http_port)]);
        command.envs(self.level.iter().map(|level| ("PINCER_LOG", level)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("pincerd's log")).stderr(log);
        self.process = Some(command.spawn().expect("pincerd starts"));
        let http = self.http().within(limit(2.0));
        eventually(&format!("pincerd is healthy; its log: {}", self.log()), START_S, || async {
            http.call(hyper::Method::GET, "/healthz").send().await.is_ok_and(|reply| reply.status == 200)
        })
        .await;
    }

    /// The folder with the certificates.
    #[must_use]
    pub fn dev(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("pincerd.log")
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// `127.0.0.1:PORT` of gRPC.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    /// A client of `/healthz` and `/metrics`.
    #[must_use]
    pub fn http(&self) -> Client {
        Client::single(&format!("http://127.0.0.1:{}", self.http_port))
    }

    /// The directives that let an nginx named `node` be fed by it.
    #[must_use]
    pub fn directives(&self, node: &str) -> String {
        let dev = self.dev();
        let file = |name: &str| dev.join(name).display().to_string();
        format!(
            "pincer_control_plane {} node={node};\npincer_control_plane_certificate {};\n\
             pincer_control_plane_certificate_key {};\npincer_control_plane_trusted_certificate {};\n",
            self.endpoint(),
            file("node.pem"),
            file("node.key"),
            file("ca.pem"),
        )
    }

    /// Kills it (-9) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Its pid while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().and_then(|process| i32::try_from(process.id()).ok())
    }

    /// Runs `pincerctl ARGUMENTS` against it.
    ///
    /// # Panics
    /// When it cannot be run or takes over a minute.
    pub async fn ctl(&self, arguments: &[&str]) -> Told {
        process::run(
            tokio::process::Command::new(paths::pincerctl()).args(["--dev"]).arg(self.dev()).args(arguments),
            COMMAND_S,
        )
        .await
    }

    /// `pincerctl ARGUMENTS` that must succeed; its output.
    ///
    /// # Panics
    /// When it fails.
    pub async fn must(&self, arguments: &[&str]) -> String {
        let told = self.ctl(arguments).await;
        assert_eq!(told.code, 0, "pincerctl {arguments:?}: {}{}", told.output, told.errors);
        told.output
    }

    /// `pincerctl -o json ARGUMENTS` that must succeed.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.must(&[&["-o", "json"], arguments].concat()).await;
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("no JSON: {error}: {output}"))
    }

    /// A path in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}

impl Drop for Pincerd {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- pincerd's log\n{}", self.log());
        }
    }
}
