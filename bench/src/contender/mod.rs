//! The contenders: what each is called, which program it needs, and how one is started in front of a pool's replicas.
//!
//! Every contender gets the same replicas (of its own), the same number of workers and the same generous limits: nothing but its choice of
//! replica and its queue may differ. One that is not installed is left out with a line that says so. Bound: `START_WAIT` per start.

mod envoy;
mod haproxy;
pub mod nginx;
mod programs;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tempfile::TempDir;

use crate::process::{Process, free_address};
use crate::trace::{Arrival, Class};
pub use programs::{Programs, on_path, root_folder};

/// Workers (threads, for HAProxy and Envoy) of every contender.
pub const WORKERS: usize = 2;

/// Connections a worker of nginx, or the whole of HAProxy, may hold: well over `client::OUTSTANDING_MAX`, and within 20,000 descriptors.
pub const CONNECTIONS_MAX: usize = 8_192;

/// A start is tried so often.
const STARTS_MAX: usize = 3;

/// One way of balancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contender {
    /// Pincer with `max_conns` and `pincer_queue`: late binding.
    Pincer,
    /// Pincer that does not know the replicas' slots.
    PincerNoSlots,
    /// Debian's nginx.
    NginxRoundRobin,
    /// Debian's nginx, `least_conn`.
    NginxLeastConn,
    /// Debian's nginx, `random two least_conn`.
    NginxRandomTwo,
    /// nginx 1.31, `least_time header`.
    LeastTimeHeader,
    /// nginx 1.31, `least_time last_byte`.
    LeastTimeLastByte,
    /// nginx 1.31, `least_time last_byte inflight`.
    LeastTimeInflight,
    /// HAProxy `leastconn`.
    Haproxy,
    /// HAProxy `leastconn` with each server's `maxconn` at its slots: the rest waits in HAProxy's queue.
    HaproxyQueue,
    /// The same, and each server's weight set by hand to its true capacity.
    HaproxyQueueWeighted,
    /// Envoy `LEAST_REQUEST`.
    Envoy,
    /// Pincer with a class for VIPs, which go first, and one for the rest.
    PincerClasses,
    /// The same, sent nothing but the VIPs' requests: what these take while nobody is in their way.
    PincerVipsAlone,
    /// Pincer with a bounded queue that knows no classes.
    PincerOneQueue,
    /// Debian's nginx, `least_conn` with `max_conns`: what finds no slot gets 502.
    NginxMaxConns,
    /// HAProxy with `maxconn` at the slots and `set-priority-class` for VIPs.
    HaproxyPriority,
}

/// How long a request waits at most with the contenders of an overload that have a queue.
const OVERLOAD_WAIT: &str = "2s";

/// Places in the queue of an overload, of nginx.
const OVERLOAD_PLACES: usize = 400;

/// A server as a contender's configuration lists it.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where the replica listens.
    pub address: SocketAddr,
    /// What it serves at once: `max_conns` or `maxconn` of those contenders that take one.
    pub slots: usize,
    /// Its share of the pool's capacity, 1 to 256, for the one contender that is told.
    pub weight: usize,
}

/// What a scenario asks of every contender's configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Try a second replica after a 500.
    pub retry: bool,
    /// Pass a stream on as it comes.
    pub unbuffered: bool,
}

/// A contender that runs; dropping it stops it and removes its files.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process: nginx's master, or the only one.
    pub process: Process,
    _folder: TempDir,
}

impl Contender {
    /// Every contender of the pools, Pincer first.
    pub const ALL: [Contender; 12] = [
        Contender::Pincer,
        Contender::PincerNoSlots,
        Contender::NginxRoundRobin,
        Contender::NginxLeastConn,
        Contender::NginxRandomTwo,
        Contender::LeastTimeHeader,
        Contender::LeastTimeLastByte,
        Contender::LeastTimeInflight,
        Contender::Haproxy,
        Contender::HaproxyQueue,
        Contender::HaproxyQueueWeighted,
        Contender::Envoy,
    ];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Pincer => "pincer",
            Contender::PincerNoSlots => "pincer, no max_conns",
            Contender::NginxRoundRobin => "nginx round robin",
            Contender::NginxLeastConn => "nginx least_conn",
            Contender::NginxRandomTwo => "nginx random two",
            Contender::LeastTimeHeader => "1.31 least_time header",
            Contender::LeastTimeLastByte => "1.31 least_time last_byte",
            Contender::LeastTimeInflight => "1.31 least_time inflight",
            Contender::Haproxy => "haproxy leastconn",
            Contender::HaproxyQueue => "haproxy maxconn queue",
            Contender::HaproxyQueueWeighted => "haproxy queue, weights",
            Contender::Envoy => "envoy least_request",
            Contender::PincerClasses => "pincer, classes",
            Contender::PincerVipsAlone => "pincer, vips alone",
            Contender::PincerOneQueue => "pincer, no classes",
            Contender::NginxMaxConns => "nginx least_conn max_conns",
            Contender::HaproxyPriority => "haproxy priority-class",
        }
    }

    /// The part of the trace that is sent to it: all, but for the one who serves VIPs alone.
    pub fn share_of(self, trace: Arc<[Arrival]>) -> Arc<[Arrival]> {
        if self != Contender::PincerVipsAlone {
            return trace;
        }
        trace.iter().copied().filter(|arrival| arrival.class == Some(Class::Vip)).collect()
    }

    /// Whether it runs nginx with Pincer's module.
    fn is_pincer(self) -> bool {
        use Contender::{Pincer, PincerClasses, PincerNoSlots, PincerOneQueue, PincerVipsAlone};
        matches!(self, Pincer | PincerNoSlots | PincerClasses | PincerVipsAlone | PincerOneQueue)
    }

    /// Whether it is HAProxy.
    fn is_haproxy(self) -> bool {
        use Contender::{Haproxy, HaproxyPriority, HaproxyQueue, HaproxyQueueWeighted};
        matches!(self, Haproxy | HaproxyQueue | HaproxyQueueWeighted | HaproxyPriority)
    }

    /// Starts it in front of `servers`. An error says what its program said.
    pub fn start(self, programs: &Programs, servers: &[Server], options: Options) -> Result<Running> {
        // Another process may take the port between the look and the start.
        let mut tried = self.try_start(programs, servers, options);
        for _ in 1..STARTS_MAX {
            if tried.is_ok() {
                break;
            }
            tried = self.try_start(programs, servers, options);
        }
        tried
    }

    fn try_start(self, programs: &Programs, servers: &[Server], options: Options) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let command = match self {
            _ if self.is_haproxy() => haproxy::prepare(self, programs, folder.path(), address, servers, options)?,
            Contender::Envoy => envoy::prepare(programs, folder.path(), address, servers, options)?,
            _ => nginx::prepare(self, programs, folder.path(), address, servers, options)?,
        };
        Running::start(&command, address, folder)
    }
}

impl Running {
    /// Runs `command`, which is to listen at `address` and has its files in `folder`.
    pub fn start(command: &[String], address: SocketAddr, folder: TempDir) -> Result<Running> {
        let log = folder.path().join("log");
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut process = Process::start(&words, &log)?;
        process.listening(address, &log)?;
        Ok(Running { address, process, _folder: folder })
    }
}

/// `path` as text for a configuration or a command line.
fn text(path: &Path) -> String {
    path.display().to_string()
}
