//! Somebody who follows README.md in a shell, on a machine of their own: a temporary folder with
//! Debian's layout of nginx.
//!
//! The shell is one bash for all steps, so variables and jobs live on as in a terminal. `sudo`,
//! `service`, `make` and `cargo` are small scripts in front of the search path: the build is done
//! already, and there is no service manager. Everything ends when this is dropped.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::nginx::{self, process};
use harness::{Client, eventually, limit, paths, ports, wait};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use crate::markdown::Block;

/// How long one block may take, seconds.
const BLOCK_S: f64 = 60.0;

/// Debian 12's nginx.conf, but for what needs root.
const NGINX_CONF: &str = "worker_processes auto;
pid ROOT/run/nginx.pid;
error_log ROOT/var/log/nginx/error.log;
include ROOT/etc/nginx/modules-enabled/*.conf;
events { worker_connections 768; }
http {
    sendfile on;
    default_type application/octet-stream;
    access_log ROOT/var/log/nginx/access.log;
    client_body_temp_path ROOT/var/lib/nginx/body;
    proxy_temp_path ROOT/var/lib/nginx/proxy;
    fastcgi_temp_path ROOT/var/lib/nginx/fastcgi;
    scgi_temp_path ROOT/var/lib/nginx/scgi;
    uwsgi_temp_path ROOT/var/lib/nginx/uwsgi;
    gzip on;
    include ROOT/etc/nginx/conf.d/*.conf;
    include ROOT/etc/nginx/sites-enabled/*;
}
";

/// Debian's default site.
const DEFAULT_SITE: &str =
    "server { listen 127.0.0.1:PORT default_server; server_name _; location / { return 404; } }\n";

const FOLDERS: [&str; 10] = [
    "bin",
    "checkout/target/release",
    "etc/nginx/conf.d",
    "etc/nginx/modules-enabled",
    "etc/nginx/sites-enabled",
    "run",
    "usr/lib/nginx",
    "usr/share/nginx",
    "var/lib/nginx",
    "var/log/nginx",
];

/// The commands that cannot be the machine's own.
const PROGRAMS: [(&str, &str); 5] = [
    ("sudo", "exec \"$@\""),
    ("nginx", "exec NGINX -p ROOT/usr/share/nginx -e ROOT/var/log/nginx/error.log -c ROOT/etc/nginx/nginx.conf \"$@\""),
    (
        "service",
        "[ \"$1\" = nginx ] || exit 3
case $2 in
restart) [ ! -s ROOT/run/nginx.pid ] || nginx -s quit; exec nginx ;;
reload) exec nginx -s reload ;;
*) exit 3 ;;
esac",
    ),
    // What they would build is built already. They only check the target, and the program's name.
    ("make", "exec /usr/bin/make -n -C REPOSITORY \"$@\" >/dev/null"),
    ("cargo", "[ \"$*\" = \"build --release --bin replica\" ]"),
];

/// A shell, and the machine around it.
pub struct Newcomer {
    root: TempDir,
    shell: Child,
    blocks: usize,
    read: usize,
    /// Each text of README.md, and what stands in its place here.
    places: Vec<(String, String)>,
    http: String,
    grpc: u16,
    replicas: Vec<u16>,
}

impl Newcomer {
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("newcomer-").tempdir().expect("temporary folder");
        let at = |path: &str| root.path().join(path);
        for folder in FOLDERS {
            fs::create_dir_all(at(folder)).expect("a folder");
        }
        // Workers that have dropped root write here.
        for folder in ["", "var/lib/nginx", "var/log/nginx"] {
            fs::set_permissions(at(folder), fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        symlink("../../lib/nginx/modules", at("usr/share/nginx/modules")).expect("Debian's link to its modules");
        write_programs(root.path());
        let text = NGINX_CONF.replace("ROOT", &root.path().display().to_string());
        fs::write(at("etc/nginx/nginx.conf"), text).expect("nginx.conf");
        let site = DEFAULT_SITE.replace("PORT", &ports::free_port().to_string());
        fs::write(at("etc/nginx/sites-enabled/default"), site).expect("the default site");

        let replicas: Vec<u16> = (0..3).map(|_| ports::free_port()).collect();
        let (http, grpc) = (ports::free_port(), ports::free_port());
        write_control_plane(root.path(), grpc);
        let inside = |path: &str| at(path).display().to_string();
        let mut places = vec![
            ("/etc/nginx".to_owned(), inside("etc/nginx")),
            ("/usr/lib/nginx".to_owned(), inside("usr/lib/nginx")),
            ("/tmp/pincer".to_owned(), inside("dev")),
            ("127.0.0.1:8080".to_owned(), format!("127.0.0.1:{http}")),
            ("127.0.0.1:9443".to_owned(), format!("127.0.0.1:{grpc}")),
        ];
        let ports = (9001..).zip(&replicas);
        places.extend(ports.map(|(printed, port)| (format!("127.0.0.1:{printed}"), format!("127.0.0.1:{port}"))));

        let shell = shell(root.path());
        Self { root, shell, blocks: 0, read: 0, places, http: format!("http://127.0.0.1:{http}"), grpc, replicas }
    }

    /// Pastes a block into the shell, and returns what is printed until its end. All of its
    /// commands must succeed.
    pub fn run(&mut self, block: &Block) -> String {
        self.blocks += 1;
        let end = format!("<<end of block {}: ", self.blocks);
        let text = self.placed(block.text.trim_end());
        let input = self.shell.stdin.as_mut().expect("the shell's input");
        writeln!(input, "{text}\nprintf '{end}%s>>\\n' \"$?\"").expect("a shell");
        assert!(wait::blocking(BLOCK_S, || self.seen().contains(&end)), "{} does not end: {}", block.text, self.seen());
        let seen = self.seen();
        let (printed, rest) = seen[self.read..].split_once(&end).expect("the block's end");
        let printed = printed.replace(&self.root.path().display().to_string(), "ROOT");
        self.read = seen.len();
        assert!(rest.starts_with("0>>"), "status {rest} of: {}\n{printed}", block.text);
        assert!(!printed.contains("<<failed: "), "{}\n{printed}", block.text);
        printed
    }

    /// All that the shell and its jobs have printed.
    fn seen(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.root.path().join("output")).unwrap_or_default()).into_owned()
    }

    /// Waits until a job of the shell has printed this.
    pub async fn prints(&self, text: &str) {
        eventually(text, 20.0, || async { self.seen().contains(text) }).await;
    }

    /// README's text, with the paths and ports of this machine.
    fn placed(&self, text: &str) -> String {
        let port = self.places.iter().find(|(printed, _)| printed == "127.0.0.1:9443");
        assert!(port.is_some() && !text.contains("localhost"), "an address that is not replaced: {text}");
        self.places.iter().fold(text.to_owned(), |text, (printed, placed)| text.replace(printed, placed))
    }

    pub async fn replicas_listen(&self) {
        for port in &self.replicas {
            eventually("a replica listens", 10.0, || async {
                tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_ok()
            })
            .await;
        }
    }

    /// The list of nodes in `block` says yes, at once or when it is asked again, as README.md says.
    pub async fn node_is_connected(&mut self, block: &Block) {
        let list = block.text.lines().last().expect("a command").to_owned();
        assert!(list.ends_with("pincerctl node list"), "{list}");
        let list = Block { text: list, ..block.clone() };
        let connected = |text: &str| text.lines().any(|line| line.split_whitespace().nth(1) == Some("yes"));
        assert!(wait::blocking(10.0, || connected(&self.run(&list))), "no node is connected");
    }

    /// No worker of the configuration before is left, whose requests have no class.
    pub async fn classes_are_in_force(&self) {
        eventually("the workers of the configuration before have ended", 10.0, || async {
            let status = self.status().await;
            let workers = status["workers"].as_array().cloned().unwrap_or_default();
            let is_new = |worker: &Value| worker["generation"] == status["generation"];
            status["classes"].as_array().is_some_and(|all| all.len() == 2) && workers.iter().all(is_new)
        })
        .await;
    }

    /// What README.md calls the status page.
    pub async fn status(&self) -> Value {
        let reply = Client::single(&self.http).within(limit(5.0)).get("/pincer_status").await;
        serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {:?}", reply.body))
    }

    /// The replicas and pincerd.
    pub async fn everything_has_ended(&self) {
        for port in self.replicas.iter().chain([&self.grpc]) {
            eventually("a replica or pincerd has ended", 10.0, || async {
                tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_err()
            })
            .await;
        }
        let log = fs::read_to_string(self.root.path().join("var/log/nginx/error.log")).unwrap_or_default();
        let alert = log.lines().find(|line| line.contains("[alert]") || line.contains("[emerg]"));
        assert_eq!(alert, None);
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if let Some(master) = process::pid_in(&self.root.path().join("run/nginx.pid")) {
            let _ = process::signal(master, Signal::TERM);
            if !wait::blocking(10.0, || !process::runs(master)) {
                let _ = process::signal(master, Signal::KILL);
            }
        }
        if let Some(group) = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}

/// A bash that says which command failed. Its jobs are in its process group.
fn shell(root: &Path) -> Child {
    let output = File::create(root.join("output")).expect("the shell's output");
    let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.arg("--norc").current_dir(root.join("checkout")).env("PATH", path).process_group(0);
    for variable in ["PINCER_DEV_DIR", "PINCER_ENDPOINT", "PINCER_CA", "PINCER_CERT", "PINCER_KEY"] {
        shell.env_remove(variable);
    }
    let errors = output.try_clone().expect("the shell's output");
    let mut shell = shell.stdin(Stdio::piped()).stdout(output).stderr(errors).spawn().expect("bash starts");
    let input = shell.stdin.as_mut().expect("the shell's input");
    writeln!(input, "trap 'printf \"<<failed: %s>>\\n\" \"$BASH_COMMAND\"' ERR").expect("a shell");
    shell
}

fn executable(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

fn write_programs(root: &Path) {
    for (name, text) in PROGRAMS {
        let text = text
            .replace("ROOT", &root.display().to_string())
            .replace("NGINX", &nginx::binary())
            .replace("REPOSITORY", &paths::repository().display().to_string());
        executable(&root.join("bin").join(name), &text);
    }
    let release = root.join("checkout/target/release");
    symlink(paths::module(), release.join(paths::MODULE)).expect("the module");
    symlink(paths::pincerctl(), release.join("pincerctl")).expect("pincerctl");
    symlink(env!("CARGO_BIN_EXE_replica"), release.join("replica")).expect("the replica");
}

/// pincerd listens elsewhere than by default, since another may run on this machine.
fn write_control_plane(root: &Path, port: u16) {
    let listen = format!("--listen 127.0.0.1:{port} --http-listen 127.0.0.1:{}", ports::free_port());
    let text = format!("exec {} \"$@\" {listen}", paths::pincerd().display());
    executable(&root.join("checkout/target/release/pincerd"), &text);
}

/// A control plane with certificates of one's own.
pub struct Pincerd {
    process: Child,
    port: u16,
}

impl Pincerd {
    /// `server.pem`, `server.key` and `ca.pem` of this folder.
    pub async fn with_certificates(folder: &Path) -> Self {
        let (port, http) = (ports::free_port(), ports::free_port());
        let file = |name: &str| -> PathBuf { folder.join(name) };
        let mut command = Command::new(paths::pincerd());
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--http-listen", &format!("127.0.0.1:{http}")]);
        command.arg("--store").arg(format!("embedded:{}", file("store.redb").display()));
        command.arg("--certificate").arg(file("server.pem")).arg("--certificate-key").arg(file("server.key"));
        command.arg("--client-ca").arg(file("ca.pem")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("pincerd starts");
        let client = Client::single(&format!("http://127.0.0.1:{http}")).within(limit(2.0));
        let pincerd = Self { process, port };
        eventually("pincerd is healthy", 20.0, || async {
            client.call(hyper::Method::GET, "/healthz").send().await.is_ok_and(|reply| reply.status == 200)
        })
        .await;
        pincerd
    }

    /// Where nodes and operators connect.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Pincerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
