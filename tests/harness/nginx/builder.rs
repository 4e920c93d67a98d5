//! How an nginx is set up: its folder, and its configuration from the parts a test gives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Nginx, workers};
use crate::{conf, limit, paths, ports};

/// The frame around a test's own directives. Workers drop root as in production, so they may not
/// rely on root's files.
const TEMPLATE: &str = r#"daemon {{daemon}};
master_process on;
{{load_module}}
worker_processes {{workers}};
error_log logs/error.log {{level}};
pid logs/nginx.pid;
{{main}}
events { worker_connections 4096; {{events}} }
http {
    access_log off;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    scgi_temp_path temp/scgi;
    uwsgi_temp_path temp/uwsgi;
    {{http}}
    {{status}}
    server {
        listen 127.0.0.1:{{port}}{{listen}};
        {{server}}
    }
}
"#;

/// Where `pincer_status` and `pincer_metrics` are served, apart from the test's own server.
const STATUS: &str = "server {
        listen 127.0.0.1:{{status_port}};
        location = /pincer_status { pincer_status; }
        location = /pincer_metrics { pincer_metrics; }
    }";

/// Folders inside the prefix.
const FOLDERS: [&str; 5] = ["conf", "logs", "temp", "state", "cache"];

/// An nginx to be.
pub struct Builder {
    pub(super) prefix: TempDir,
    pub(super) port: u16,
    pub(super) status_port: u16,
    pub(super) workers: usize,
    module: bool,
    main: String,
    events: String,
    http: String,
    server: String,
    listen: String,
    whole: Option<String>,
    env: Vec<(String, String)>,
    umask: Option<&'static str>,
    pub(super) detached: bool,
    program: Option<String>,
}

/// What `nginx -t` said.
#[derive(Debug)]
pub struct Checked {
    /// Exit status 0.
    pub ok: bool,
    /// Standard output and error.
    pub output: String,
}

impl Builder {
    /// One worker, our module loaded, nothing to serve yet.
    ///
    /// # Panics
    /// When the temporary folder cannot be made.
    #[must_use]
    pub(super) fn new() -> Self {
        let prefix = tempfile::Builder::new().prefix("pincer-").tempdir().expect("temporary folder");
        // The folders are open to the user the workers become.
        for folder in FOLDERS {
            let path = prefix.path().join(folder);
            fs::create_dir(&path).expect("folder in the prefix");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("permissions");
        }
        // A state file is refused where others than the workers can write.
        workers::give(&prefix.path().join("state"), 0o700);
        fs::set_permissions(prefix.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        Self {
            prefix,
            port: ports::free_port(),
            status_port: ports::free_port(),
            workers: 1,
            module: true,
            main: String::new(),
            events: String::new(),
            http: String::new(),
            server: String::new(),
            listen: String::new(),
            whole: None,
            env: Vec::new(),
            umask: None,
            detached: false,
            program: None,
        }
    }

    /// Stock nginx: without our module.
    #[must_use]
    pub fn stock(self) -> Self {
        self.module(false)
    }

    /// Loads our module, or not.
    #[must_use]
    pub fn module(mut self, loaded: bool) -> Self {
        self.module = loaded;
        self
    }

    /// Runs this nginx instead of the one that the tests run.
    #[must_use]
    pub fn program(mut self, path: impl Into<String>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// So many workers.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Adds directives at the top level.
    #[must_use]
    pub fn main(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.main, text.as_ref());
        self
    }

    /// Adds directives to `events`.
    #[must_use]
    pub fn events(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.events, text.as_ref());
        self
    }

    /// Adds directives to `http`.
    #[must_use]
    pub fn http(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.http, text.as_ref());
        self
    }

    /// Adds directives to the test's `server`.
    #[must_use]
    pub fn server(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.server, text.as_ref());
        self
    }

    /// Adds parameters to the server's `listen`, such as `ssl`.
    #[must_use]
    pub fn listen(mut self, parameters: &str) -> Self {
        self.listen = format!(" {parameters}");
        self
    }

    /// Adds an upstream `name` and a location `/` for it.
    #[must_use]
    pub fn upstream(self, name: &str, body: impl AsRef<str>) -> Self {
        let body = body.as_ref();
        self.http(format!("upstream {name} {{ {body} }}")).server(format!("location / {{ proxy_pass http://{name}; }}"))
    }

    /// Adds a zone of 1 MB and an upstream `u` of these servers, balanced by us, with a location
    /// `/` for it.
    #[must_use]
    pub fn balanced<'a>(self, directives: &str, servers: impl IntoIterator<Item = &'a str>, parameters: &str) -> Self {
        self.http("pincer_zone pincer:1m;")
            .upstream("u", format!("{directives} {}", conf::servers(servers, parameters)))
    }

    /// Writes `format` of each request to a log that [`Nginx::logged`] reads.
    #[must_use]
    pub fn logging(self, format: &str) -> Self {
        self.http(format!("log_format test '{format}';")).server("access_log logs/access.log test;")
    }

    /// A daemon, no child of the test: nginx takes USR2 only then. A sanitizer's environment goes
    /// on to the new binary.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self.main("env LD_PRELOAD; env ASAN_OPTIONS;")
    }

    /// Sets a variable of nginx's environment; the workers keep it.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self.main(format!("env {name};"))
    }

    /// Starts nginx with this umask, in octal. A daemon has none.
    #[must_use]
    pub fn umask(mut self, umask: &'static str) -> Self {
        self.umask = Some(umask);
        self
    }

    /// Uses this text as the whole nginx.conf. `{{port}}`, `{{status_port}}`, `{{prefix}}` and
    /// `{{load_module}}` are filled in. It must not set `daemon` or `pid`.
    #[must_use]
    pub fn whole(mut self, text: impl Into<String>) -> Self {
        self.whole = Some(text.into());
        self
    }

    /// Uses a file of `nginx-conf/` with the replacements every one of them needs, and these.
    ///
    /// # Panics
    /// When the file is not there or a replacement matches nothing.
    #[must_use]
    pub fn example(self, name: &str, replacements: &[(&str, &str)]) -> Self {
        let path = paths::repository().join("nginx-conf").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let ours = [
            ("load_module modules/libngx_http_pincer_module.so;", "{{load_module}}"),
            ("127.0.0.1:8080", "127.0.0.1:{{port}}"),
            ("127.0.0.1:8081", "127.0.0.1:{{status_port}}"),
            ("/var/log/nginx/", "logs/"),
        ];
        self.whole(conf::replace(&text, &[&ours, replacements].concat()))
    }

    /// Forgets all directives, so that others can take their place; for [`Nginx::reconfigure`].
    #[must_use]
    pub fn clear(mut self) -> Self {
        for part in [&mut self.main, &mut self.events, &mut self.http, &mut self.server] {
            part.clear();
        }
        self
    }

    /// The folder that relative paths of the configuration start from.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    /// The port of the test's server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The configuration as nginx will read it.
    #[must_use]
    pub fn text(&self) -> String {
        let (port, status_port) = (self.port.to_string(), self.status_port.to_string());
        let load_module =
            if self.module { format!("load_module {};", paths::module().display()) } else { String::new() };
        let level = std::env::var("PINCER_NGINX_LOG").unwrap_or_else(|_| "info".into());
        let workers = self.workers.to_string();
        let prefix = self.prefix.path().display().to_string();
        let status = if self.has_status() { STATUS } else { "" };
        let template = match &self.whole {
            Some(whole) => whole.clone(),
            None => TEMPLATE.replace("{{status}}", status),
        };
        let parts = [
            ("main", self.main.as_str()),
            ("events", &self.events),
            ("http", &self.http),
            ("server", &self.server),
            ("listen", &self.listen),
        ];
        let text = parts.iter().fold(template, |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
        let values = [
            ("daemon", if self.detached { "on" } else { "off" }),
            ("load_module", load_module.as_str()),
            ("workers", &workers),
            ("level", &level),
            ("port", &port),
            ("status_port", &status_port),
            ("prefix", &prefix),
        ];
        conf::fill(&text, &values)
    }

    /// True when the harness serves the status of a zone at a port of its own.
    pub(super) fn has_status(&self) -> bool {
        let own = |text: &String| text.contains("{{status_port}}");
        self.module && self.whole.as_ref().map_or(self.http.contains("pincer_zone"), own)
    }

    /// Writes nginx.conf.
    pub(super) fn write(&self) {
        fs::write(self.prefix.path().join("conf/nginx.conf"), self.text()).expect("write nginx.conf");
    }

    /// A command that runs nginx with this folder and configuration.
    pub(super) fn command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(super::binary);
        let mut command = match self.umask {
            None => Command::new(program),
            Some(umask) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "umask $0; exec \"$@\"", umask]).arg(program);
                shell
            }
        };
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let error_log = self.prefix.path().join("logs/error.log");
        command.arg("-p").arg(self.prefix.path()).args(["-c", "conf/nginx.conf", "-e"]).arg(error_log);
        if self.whole.is_some() {
            command.args(["-g", "daemon off; pid logs/nginx.pid;"]);
        }
        command
    }

    /// Writes the configuration and runs `nginx -t`.
    ///
    /// # Panics
    /// When it cannot be run or takes over 20 s.
    pub async fn check(&self) -> Checked {
        self.write();
        let mut command = tokio::process::Command::from(self.command());
        command.arg("-t").kill_on_drop(true);
        let output = tokio::time::timeout(limit(20.0), command.output()).await;
        let output = output.expect("nginx -t within 20 s").expect("nginx runs");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Checked { ok: output.status.success(), output: text.into_owned() }
    }

    /// Starts nginx and waits until it accepts connections.
    ///
    /// # Panics
    /// When it does not start; with what it said.
    pub async fn start(self) -> Nginx {
        Nginx::try_start(self).await.unwrap_or_else(|error| panic!("nginx does not start: {error}"))
    }

    /// Starts nginx, or returns what it said.
    ///
    /// # Errors
    /// When it exits or does not accept connections within 15 s.
    pub async fn try_start(self) -> Result<Nginx, String> {
        Nginx::try_start(self).await
    }
}

impl Checked {
    /// The lines with `[emerg]`, which stop nginx.
    #[must_use]
    pub fn error(&self) -> String {
        self.output.lines().filter(|line| line.contains("[emerg]")).collect::<Vec<_>>().join("\n")
    }
}

fn add(part: &mut String, text: &str) {
    part.push_str(text);
    part.push('\n');
}

/// A path inside the prefix.
pub(super) fn inside(prefix: &TempDir, path: &str) -> PathBuf {
    prefix.path().join(path)
}
