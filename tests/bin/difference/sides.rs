//! The two nginx: one without the module, one with it and with everything that should change
//! nothing.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::nginx::log::{self, Expected};
use harness::pki::Pki;
use harness::{Nginx, ports};
use serde_json::Value;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::conf::{self, Ports};
use crate::faults::GONE;
use crate::origin::Origin;
use crate::{crash, documented};

/// Longest wait for counts to go to zero.
const SETTLE: Duration = Duration::from_secs(8);

/// One nginx and what it proxies to.
pub struct Side {
    /// For messages.
    pub name: &'static str,
    /// With the module.
    pub pincer: bool,
    /// Where it listens.
    pub ports: Ports,
    /// Behind it.
    pub origin: Origin,
    /// For clients that speak TLS.
    pub tls: ClientConfig,
    nginx: Nginx,
    worker: Mutex<Vec<i32>>,
    read: Mutex<u64>,
    died: AtomicBool,
    /// How often [`documented::OWN_RACE`] was logged.
    pub races: AtomicU64,
}

/// Both.
pub struct Sides {
    /// Stock nginx.
    pub plain: Side,
    /// With the module.
    pub pincer: Side,
    _pki: Pki,
    _files: tempfile::TempDir,
}

impl Sides {
    /// Starts both. `PINCER_NGINX_PLAIN` is the nginx of the plain side, if it is another one.
    pub async fn start() -> Self {
        let (pki, files) = (Pki::new(), files());
        let ports = Ports { http: ports::free_port(), http2: ports::free_port(), tls: ports::free_port() };
        let plain = start(false, ports, &pki, files.path()).await;
        let pincer = start(true, ports, &pki, files.path()).await;
        Self { plain, pincer, _pki: pki, _files: files }
    }

    /// Both sides.
    pub fn both(&self) -> [&Side; 2] {
        [&self.plain, &self.pincer]
    }
}

async fn start(pincer: bool, ports: Ports, pki: &Pki, files: &std::path::Path) -> Side {
    let origin = Origin::start().await.expect("an origin");
    let text = conf::text(&conf::Side {
        pincer,
        ports,
        origin: &origin,
        refusing: ports::free_port(),
        files,
        certificate: pki.server(),
    });
    let mut builder = Nginx::builder().module(pincer).whole(text);
    if let Some(program) = std::env::var("PINCER_NGINX_PLAIN").ok().filter(|_| !pincer) {
        builder = builder.program(program);
    }
    // The password of every user is "p".
    for (name, content) in [("conf/users", "u:{PLAIN}p\n"), ("conf/ssi.html", SSI)] {
        std::fs::write(builder.prefix().join(name), content).expect("a file");
    }
    let nginx = builder.start().await;
    let worker = Mutex::new(nginx.workers());
    let name = if pincer { "pincer" } else { "plain" };
    Side {
        name,
        pincer,
        ports,
        origin,
        tls: client(pki),
        nginx,
        worker,
        read: Mutex::default(),
        died: AtomicBool::new(false),
        races: AtomicU64::new(0),
    }
}

const SSI: &str = "static <!--# include virtual=\"/proxy/l40\" --> <!--# include virtual=\"/grpc/sse\" --> <!--# echo var=\"uri\" --> end\n";

/// What both sides serve as files.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open.clone()).expect("permissions");
    let inner = folder.path().join("static");
    std::fs::create_dir(&inner).expect("a folder");
    std::fs::set_permissions(&inner, open).expect("permissions");
    std::fs::write(inner.join("a.txt"), "a file\n").expect("a file");
    let lines: String = (0..3000).map(|line| format!("line {line} of a file\n")).collect();
    std::fs::write(inner.join("big.txt"), lines).expect("a file");
    folder
}

fn client(pki: &Pki) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let certificate = tokio_rustls::rustls::pki_types::CertificateDer::from_pem_file(pki.ca()).expect("the CA");
    roots.add(certificate).expect("a CA");
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()));
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    versions.expect("versions").with_root_certificates(roots).with_no_client_auth()
}

impl Side {
    /// The address of a place's server.
    pub fn address(&self, place: usize) -> Ipv4Addr {
        conf::address(self.pincer, place).parse().expect("an address")
    }

    /// What is new in the error log and must not be there, and a worker that is another than it
    /// was.
    pub fn faults(&self) -> Vec<String> {
        let mut allowed = documented::OWN_FAULTS.map(str::to_owned).to_vec();
        if self.died.load(Ordering::Relaxed) {
            // Entries that the dead worker had open.
            allowed.push("ignore long locked inactive cache entry".to_owned());
        }
        let expected = Expected { allowed, ..Expected::default() };
        let faults = log::faults(&self.new_log(), &expected);
        let (races, faults): (Vec<_>, Vec<_>) =
            faults.into_iter().partition(|line| line.contains(documented::OWN_RACE));
        self.races.fetch_add(races.len() as u64, Ordering::Relaxed);
        let mut faults: Vec<_> = faults.into_iter().map(crash::with_place).collect();
        let workers = self.nginx.workers();
        let mut known = self.worker.lock().expect("no holder panics");
        if !workers.is_empty() && *known != workers {
            faults.push(format!("{GONE}{known:?} is gone, there is {workers:?}"));
            *known = workers;
            self.died.store(true, Ordering::Relaxed);
        }
        faults
    }

    fn new_log(&self) -> String {
        let mut from = self.read.lock().expect("no holder panics");
        let mut text = Vec::new();
        let file = std::fs::File::open(self.nginx.path("logs/error.log"));
        if let Ok(mut file) = file
            && file.seek(SeekFrom::Start(*from)).is_ok()
            && file.read_to_end(&mut text).is_ok()
        {
            // Only whole lines; the rest is read when it has ended.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            text.truncate(whole);
            *from += text.len() as u64;
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until no more requests are counted than `known` says; what is counted all the same.
    pub async fn left_over(&self, known: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        if !self.pincer {
            return BTreeMap::new();
        }
        let began = Instant::now();
        loop {
            let left = left_over(&self.nginx.status().await.0);
            let new = left.iter().any(|(path, count)| count > known.get(path).unwrap_or(&0));
            if !new || began.elapsed() > harness::limit(SETTLE.as_secs_f64()) {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Faults that were reported are no reason for the harness to panic.
    pub fn forgive(&mut self) {
        self.nginx.allow("");
        self.nginx.leave_in_flight();
    }

    /// The counters that say how much of the module was exercised.
    pub async fn counters(&self) -> String {
        let status = self.nginx.status().await.0;
        let pick = |pointer: &str| status.pointer(pointer).cloned().unwrap_or_default();
        format!("counters {}; bodies {}", pick("/counters"), pick("/bodies/blake3"))
    }
}

/// Counts in `pincer_status` that are not 0 and should be, each with its path.
fn left_over(status: &Value) -> BTreeMap<String, u64> {
    let mut left = BTreeMap::new();
    walk(status, "", &mut left);
    left
}

fn walk(value: &Value, path: &str, left: &mut BTreeMap<String, u64>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}/{name}");
                let counts = ["in_flight", "waiting", "fail_open"].contains(&name.as_str());
                if let Some(count) = field.as_u64().filter(|count| counts && *count > 0) {
                    left.insert(path.clone(), count);
                }
                walk(field, &path, left);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = item["name"].as_str().map_or(index.to_string(), str::to_owned);
                walk(item, &format!("{path}/{name}"), left);
            }
        }
        _ => {}
    }
}
