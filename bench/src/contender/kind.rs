//! The contenders by name, and the values that all of their configurations share.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::trace::{Arrival, Class};

/// Workers (threads, for HAProxy and Envoy) of every contender.
pub const WORKERS: usize = 2;

/// Connections a worker of nginx, or the whole of HAProxy, may hold: well over
/// `client::OUTSTANDING_MAX`, and within 20,000 descriptors.
pub const CONNECTIONS_MAX: usize = 8_192;

/// How long a request waits at most with the contenders of an overload that have a queue.
pub const OVERLOAD_WAIT: &str = "2s";

/// Places in the queue of an overload, of nginx.
pub const OVERLOAD_PLACES: usize = 400;

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
    /// HAProxy `leastconn` with each server's `maxconn` at its slots: the rest waits in HAProxy's
    /// queue.
    HaproxyQueue,
    /// The same, and each server's weight set by hand to its true capacity.
    HaproxyQueueWeighted,
    /// Envoy `LEAST_REQUEST`.
    Envoy,
    /// Pincer with a class for VIPs, which go first, and one for the rest.
    PincerClasses,
    /// The same, but only the VIPs' requests are sent: their latency without other traffic.
    PincerVipsAlone,
    /// Pincer with a bounded queue that knows no classes.
    PincerOneQueue,
    /// Debian's nginx, `least_conn` with `max_conns`: a request without a slot gets 502.
    NginxMaxConns,
    /// HAProxy with `maxconn` at the slots and `set-priority-class` for VIPs.
    HaproxyPriority,
}

/// A server as a contender's configuration lists it.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where the replica listens.
    pub address: SocketAddr,
    /// Requests that it serves at once: `max_conns` or `maxconn` of the contenders that have one.
    pub slots: usize,
    /// Its share of the pool's capacity, 1 to 256, for the one contender that is given it.
    pub weight: usize,
}

/// Options of a scenario for the configuration of every contender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Try a second replica after a 500.
    pub retry: bool,
    /// Pass a stream on without buffering.
    pub unbuffered: bool,
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

    /// The part of the trace that is sent to it: all of it, except for the contender that serves
    /// VIPs alone.
    pub fn share_of(self, trace: Arc<[Arrival]>) -> Arc<[Arrival]> {
        if self != Contender::PincerVipsAlone {
            return trace;
        }
        trace.iter().copied().filter(|arrival| arrival.class == Some(Class::Vip)).collect()
    }

    /// Whether it runs nginx with Pincer's module.
    pub fn is_pincer(self) -> bool {
        use Contender::{Pincer, PincerClasses, PincerNoSlots, PincerOneQueue, PincerVipsAlone};
        matches!(self, Pincer | PincerNoSlots | PincerClasses | PincerVipsAlone | PincerOneQueue)
    }

    /// Whether it is HAProxy.
    pub fn is_haproxy(self) -> bool {
        use Contender::{Haproxy, HaproxyPriority, HaproxyQueue, HaproxyQueueWeighted};
        matches!(self, Haproxy | HaproxyQueue | HaproxyQueueWeighted | HaproxyPriority)
    }
}

/// `path` as text for a configuration or a command line.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
