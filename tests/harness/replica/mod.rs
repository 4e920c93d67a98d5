//! A small inference replica: the peer that nginx balances over, with slots, a speed and faults
//! that change while it runs.
//!
//! Many live in one test process, each on a loopback address and port of its own, or on a unix
//! socket, with or without TLS; HTTP/1.1 and HTTP/2 with prior knowledge (so gRPC) on the same
//! port. How long a request takes comes from [`Settings`] and from the request's own `x-work`,
//! never from randomness in here: so every contender of a comparison gets the same work.
//! Bound: the order of arrivals is kept for `ORDER_MAX` requests. Dropping a replica closes its
//! listener and connections.

mod answer;
mod listen;
mod routes;
mod seen;
mod settings;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub use seen::Seen;
pub use settings::{Fault, Settings};

use listen::Place;
use seen::Counters;

use crate::{limit, ports};

/// A running replica.
pub struct Replica {
    shared: Arc<Shared>,
    server: String,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// What the connections of one replica share.
struct Shared {
    name: String,
    settings: watch::Sender<Settings>,
    slots: parking::Slots,
    counters: Counters,
}

/// How a replica is started; made by [`Replica::named`].
pub struct Builder {
    name: String,
    place: Place,
    tls: Option<Arc<ServerConfig>>,
    settings: Settings,
}

impl Replica {
    /// Begins a replica of this name: it is in every body and in `X-Replica`.
    #[must_use]
    pub fn named(name: &str) -> Builder {
        let place = Place::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
        Builder { name: name.to_owned(), place, tls: None, settings: Settings::default() }
    }

    /// `count` equal replicas named `a`, `b`, …
    pub async fn several(count: u8, settings: Settings) -> Vec<Self> {
        let mut replicas = Vec::new();
        for letter in (b'a'..).take(count.into()) {
            replicas.push(Self::named(&char::from(letter).to_string()).settings(settings.clone()).start().await);
        }
        replicas
    }

    /// The servers of these replicas, for an upstream block.
    pub fn servers<'a>(replicas: impl IntoIterator<Item = &'a Self>) -> impl Iterator<Item = &'a str> {
        replicas.into_iter().map(Self::server)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What to write behind nginx's `server`: `127.0.0.1:12345` or `unix:/…`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.counters.snapshot()
    }

    /// Forgets what it has seen, except the requests that are still running.
    pub fn forget(&self) {
        self.shared.counters.reset();
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.shared.settings.borrow().clone()
    }

    /// Changes settings at once; requests already in service keep theirs, hanging ones see the
    /// change.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.change(change);
    }

    /// Sets the fault and returns when it holds: with [`Fault::Refuse`] the listener is closed,
    /// after it open again.
    pub async fn fault(&self, fault: Fault) {
        self.change(|settings| settings.fault = fault);
        let wanted = fault != Fault::Refuse;
        let mut listening = self.listening.clone();
        let reached = tokio::time::timeout(limit(5.0), listening.wait_for(|now| *now == wanted)).await;
        assert!(matches!(reached, Ok(Ok(_))), "replica {} did not {fault:?} within 5 s", self.name());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.settings.send_modify(change);
        self.slots.resize(self.settings.borrow().slots);
    }
}

impl Builder {
    /// Listens on this address (127.0.0.2 …) instead of 127.0.0.1.
    #[must_use]
    pub fn ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.place = Place::Tcp(SocketAddr::new(ip.into(), 0));
        self
    }

    /// Listens on exactly this address; port 0 takes a free one.
    #[must_use]
    pub fn addr(mut self, addr: SocketAddr) -> Self {
        self.place = Place::Tcp(addr);
        self
    }

    /// Listens on a unix socket.
    #[must_use]
    pub fn unix(mut self, path: impl Into<PathBuf>) -> Self {
        self.place = Place::Unix(path.into());
        self
    }

    /// Speaks TLS with this configuration.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Replaces all settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// At most this many requests in service at once; the others queue inside, as on a GPU. 0 = no
    /// limit.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Self {
        self.settings.slots = slots;
        self
    }

    /// Mean time of service of everything but chat.
    #[must_use]
    pub fn service(mut self, time: Duration) -> Self {
        self.settings.service_ms = time.as_secs_f64() * 1e3;
        self
    }

    /// Chat: time to the first token, time between tokens, number of tokens.
    #[must_use]
    pub fn chat(mut self, ttft: Duration, interval: Duration, tokens: u32) -> Self {
        self.settings.ttft_ms = ttft.as_secs_f64() * 1e3;
        self.settings.token_interval_ms = interval.as_secs_f64() * 1e3;
        self.settings.tokens = tokens;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(self) -> Replica {
        let name = self.name.clone();
        self.try_start().await.unwrap_or_else(|error| panic!("replica {name} cannot listen: {error}"))
    }

    /// Starts it, or says why it cannot listen.
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub async fn try_start(mut self) -> io::Result<Replica> {
        let listener = match &mut self.place {
            Place::Tcp(addr) if addr.port() == 0 => bind_any(addr).await?,
            place => place.bind().await?,
        };
        let server = self.place.to_string();
        let (listening_tx, listening) = watch::channel(true);
        let shared = Arc::new(Shared {
            name: self.name,
            slots: parking::Slots::new(self.settings.slots),
            settings: watch::Sender::new(self.settings),
            counters: Counters::default(),
        });
        let tls = self.tls.map(TlsAcceptor::from);
        let task = tokio::spawn(listen::serve(Arc::clone(&shared), self.place, listener, tls, listening_tx));
        Ok(Replica { shared, server, listening, task })
    }
}

/// Listens on a free port. Between our look and our bind another process may take it.
async fn bind_any(addr: &mut SocketAddr) -> io::Result<listen::Listener> {
    for _ in 0..8 {
        addr.set_port(ports::free_port());
        match Place::Tcp(*addr).bind().await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

mod parking {
    //! Slots whose number may change: a semaphore that is replaced.

    use super::{Arc, Semaphore};
    use std::sync::Mutex;
    use tokio::sync::OwnedSemaphorePermit;

    /// First in, first out.
    pub struct Slots(Mutex<(usize, Arc<Semaphore>)>);

    impl Slots {
        /// `slots` = 0: no limit.
        pub fn new(slots: usize) -> Self {
            Self(Mutex::new((slots, Self::semaphore(slots))))
        }

        fn semaphore(slots: usize) -> Arc<Semaphore> {
            Arc::new(Semaphore::new(if slots == 0 { Semaphore::MAX_PERMITS } else { slots }))
        }

        /// From now on `slots`; requests that run or wait keep the old ones.
        pub fn resize(&self, slots: usize) {
            let mut now = self.0.lock().expect("no holder panics");
            if now.0 != slots {
                *now = (slots, Self::semaphore(slots));
            }
        }

        /// Waits for a slot; it is given back when the permit is dropped.
        pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
            let semaphore = Arc::clone(&self.0.lock().expect("no holder panics").1);
            semaphore.acquire_owned().await.ok()
        }
    }
}
