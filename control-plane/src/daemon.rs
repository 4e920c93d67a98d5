//! pincerd's command line and main function: opens the store, listens, prints that it is ready, and
//! serves until a signal ends it.
//!
//! Prints one line to stdout when both sockets listen: `pincerd ready grpc=ADDRESS http=ADDRESS`.
//! Logs go to stderr. Mistakes in the command line are refused before pincerd listens. Bound: see
//! `serve`.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    task,
};

use crate::{
    dev::{self, DevError, Name},
    door::Places,
    pem::{self, PemError},
    plane::Plane,
    serve::{self, ServeError, Tls},
    store::{Store, StoreError},
};

/// How pincerd writes its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Pincer's control plane: keeps what operators set and feeds it to every nginx.
#[derive(Debug, Parser)]
#[command(name = "pincerd", version)]
pub struct Args {
    /// Where nodes and operators connect, by gRPC with mutual TLS; port 0 takes a free one
    #[arg(long, alias = "grpc-listen", value_name = "ADDRESS", default_value = "127.0.0.1:9443")]
    pub listen: SocketAddr,
    /// Where /healthz and /metrics are, by plain HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9444")]
    pub http_listen: SocketAddr,
    /// For trying out on one machine: makes certificates in DIR, keeps the store there, and writes
    /// the addresses to DIR/endpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["store", "certificate", "certificate_key", "client_ca"])]
    pub dev: Option<PathBuf>,
    /// Where settings are kept: embedded:PATH
    #[arg(long, value_name = "KIND:WHERE")]
    pub store: Option<String>,
    /// The server's certificate and chain, PEM
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub certificate_key: Option<PathBuf>,
    /// How the log on standard error is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Signs the certificates of nodes (OU=pincer-node) and operators (OU=pincer-operator), PEM
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

/// Why pincerd ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A flag is missing.
    #[error("{0} is needed, or --dev DIR to try things out")]
    Missing(&'static str),
    /// A kind of store that doesn't exist, or not in this version.
    #[error("--store {given}: {why}; use embedded:PATH")]
    StoreKind {
        /// The value of `--store`.
        given: String,
        /// The reason.
        why: &'static str,
    },
    /// With `--dev`, an address that other machines may reach.
    #[error(
        "{flag} {address} is no loopback address, 127.0.0.0/8 or [::1] is needed beside --dev, whose operator key lies in a \
         folder for trying out; to listen elsewhere give --store, --certificate, --certificate-key and --client-ca instead of --dev"
    )]
    NotLoopback {
        /// The flag.
        flag: &'static str,
        /// The address as given.
        address: SocketAddr,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of `--dev`.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// A certificate or key that can't be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// An address that can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Stdout is closed, or a signal handler cannot be installed.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// While serving.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl DaemonError {
    /// 2 for a wrong command line, 1 for all else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Missing(_) | Self::StoreKind { .. } | Self::NotLoopback { .. }) { 2 } else { 1 }
    }
}

/// Where the store is.
fn store_path(args: &Args) -> Result<PathBuf, DaemonError> {
    if let Some(folder) = &args.dev {
        return Ok(folder.join(dev::STORE_FILE));
    }
    let given = args.store.as_deref().ok_or(DaemonError::Missing("--store"))?;
    let refused = |why| DaemonError::StoreKind { given: given.to_owned(), why };
    match given.split_once(':') {
        Some(("embedded", path)) if !path.is_empty() => Ok(path.into()),
        Some(("etcd", _)) => Err(refused("the etcd store is not in this version")),
        _ => Err(refused("no such store")),
    }
}

fn read(certificate: &Path, key: &Path, client_ca: &Path) -> Result<Tls, DaemonError> {
    let (certificate, key) = pem::identity(certificate, key)?;
    Ok(Tls { certificate, key, client_ca: pem::authorities(client_ca)? })
}

fn tls(args: &Args) -> Result<Tls, DaemonError> {
    if let Some(folder) = &args.dev {
        if dev::ensure(folder, SystemTime::now())? {
            tracing::info!(folder = %folder.display(), "pincer: made certificates, not for production");
        }
        let name = Name::Server;
        return read(&name.certificate(folder), &name.key(folder), &folder.join(dev::CA_FILE));
    }
    fn given<'a>(flag: &'static str, path: &'a Option<PathBuf>) -> Result<&'a Path, DaemonError> {
        path.as_deref().ok_or(DaemonError::Missing(flag))
    }
    let certificate = given("--certificate", &args.certificate)?;
    let key = given("--certificate-key", &args.certificate_key)?;
    read(certificate, key, given("--client-ca", &args.client_ca)?)
}

/// The certificates of `--dev` are for this machine only, so pincerd refuses to serve other
/// machines with them.
fn check_addresses(args: &Args) -> Result<(), DaemonError> {
    let addresses = [("--listen", args.listen), ("--http-listen", args.http_listen)];
    let elsewhere = addresses.into_iter().find(|(_, address)| !address.ip().to_canonical().is_loopback());
    match elsewhere.filter(|_| args.dev.is_some()) {
        Some((flag, address)) => Err(DaemonError::NotLoopback { flag, address }),
        None => Ok(()),
    }
}

async fn bind(address: SocketAddr) -> Result<(tokio::net::TcpListener, SocketAddr), DaemonError> {
    serve::bind(address).await.map_err(|source| DaemonError::Listen { address, source })
}

/// Raises the limit of descriptors to what all connections need, as far as the system allows, and
/// returns it.
fn descriptors() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = Places::descriptors_max() as u64;
    if limit.current.is_some_and(|current| current < wanted) {
        let raised =
            rustix::process::Rlimit { current: Some(limit.maximum.map_or(wanted, |max| max.min(wanted))), ..limit };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "pincer: cannot raise the limit of open files"),
        }
    }
    let current = limit.current.unwrap_or(wanted);
    if current < wanted {
        tracing::warn!(
            limit = current,
            wanted,
            "pincer: the limit of open files (LimitNOFILE, ulimit -n) is low, fewer connections are taken"
        );
    }
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// Loads the store. This runs on a thread of its own, because redb panics where a page is damaged.
async fn open(path: &Path) -> Result<Arc<Plane>, StoreError> {
    let own = path.to_owned();
    let opened = task::spawn_blocking(move || Plane::open(Store::open(&own)?)).await;
    opened.map_err(|_| StoreError::Unreadable { path: path.to_owned() })?
}

/// Runs pincerd until it ends. `Ok`: a signal told it to end.
pub async fn run(args: Args) -> Result<(), DaemonError> {
    // The signal handlers come first, so that a signal does not end pincerd half way.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let path = store_path(&args)?;
    check_addresses(&args)?;
    if let Some(folder) = &args.dev {
        dev::make_folder(folder)?;
    }
    // The store's lock comes first: a second pincerd must not touch the certificates.
    let plane = open(&path).await?;
    let server = serve::server(tls(&args)?)?;
    let (grpc, grpc_address) = bind(args.listen).await?;
    let (http, http_address) = bind(args.http_listen).await?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("pincer: told to end");
    };
    let places = Places::within(descriptors());
    let served = serve::run(Arc::clone(&plane), server, grpc, http, places, stop);
    if let Some(folder) = &args.dev {
        dev::write(&folder.join(dev::ENDPOINT_FILE), &format!("grpc={grpc_address}\nhttp={http_address}\n"), 0o644)?;
    }
    tracing::info!(revision = plane.current().config.revision, store = %path.display(), "pincer: serving");
    print_ready(grpc_address, http_address)?;
    Ok(served.await?)
}

fn print_ready(grpc: SocketAddr, http: SocketAddr) -> io::Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    writeln!(out, "pincerd ready grpc={grpc} http={http}")?;
    out.flush()
}
