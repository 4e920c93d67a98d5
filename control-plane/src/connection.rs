//! An accepted connection, below TLS: it ends if it makes no call in time, or has to make room.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{self, Sleep},
};
use tonic::transport::server::Connected;

use crate::{
    door::{CALL_TIMEOUT, Door, Entry, Guest, NoPlace},
    metrics::Metrics,
    rarely::Rarely,
};

/// Streams of nodes on one connection. An nginx has one; a message in progress takes memory for
/// each.
const NODE_STREAMS_MAX: usize = 2;

/// The pause after a failed accept, which mostly lacked a file descriptor.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The place that a connection holds. Given back when the last of its owners is dropped.
#[derive(Debug)]
struct Held {
    door: Arc<Door>,
    entry: Arc<Entry>,
    guest: OnceLock<Guest>,
    node_streams: AtomicUsize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.door.leave(&self.entry, self.guest.get().copied().unwrap_or(Guest::Waiting));
    }
}

/// Who is at the other end. Services find it in a request's extensions.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Held>);

impl Caller {
    /// The address, without a port.
    pub fn address(&self) -> IpAddr {
        self.0.entry.address
    }

    /// Whether the connection has made no call with a role yet.
    pub fn is_waiting(&self) -> bool {
        self.0.entry.is_waiting()
    }

    /// Counts a node's stream; `None` if the connection has `NODE_STREAMS_MAX` of them.
    pub fn node_stream(&self) -> Option<NodeStream> {
        let stream = NodeStream(self.clone());
        let before = self.0.node_streams.fetch_add(1, Ordering::AcqRel);
        (before < NODE_STREAMS_MAX).then_some(stream)
    }

    /// The connection has called as `guest`.
    pub fn admit(&self, guest: Guest) -> Result<(), NoPlace> {
        if self.0.door.admit(&self.0.entry, guest)? {
            let _ = self.0.guest.set(guest);
        }
        Ok(())
    }
}

/// A stream of a node on this connection; it counts until it is dropped.
#[derive(Debug)]
pub struct NodeStream(Caller);

impl Drop for NodeStream {
    fn drop(&mut self) {
        self.0.0.node_streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection that holds a place.
#[derive(Debug)]
pub struct Connection {
    io: TcpStream,
    caller: Caller,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(io: TcpStream, address: IpAddr, door: &Arc<Door>, metrics: &Metrics) -> Self {
        let (entry, evicts) = door.enter(address);
        if evicts {
            metrics.connections_evicted.inc();
        }
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "pincer: cannot set nodelay");
        }
        let held = Held { door: Arc::clone(door), entry, guest: OnceLock::new(), node_streams: AtomicUsize::new(0) };
        Self { io, caller: Caller(Arc::new(held)), deadline: Box::pin(time::sleep(CALL_TIMEOUT)) }
    }

    /// Ends a connection that has not called and may not wait on.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let entry = &self.caller.0.entry;
        if !entry.is_waiting() {
            return Ok(());
        }
        if entry.poll_evicted(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "made room for another connection"));
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no call in time"));
        }
        Ok(())
    }
}

/// Accepts without an end.
pub fn incoming(
    listener: TcpListener,
    door: Arc<Door>,
    metrics: Metrics,
) -> impl Stream<Item = io::Result<Connection>> {
    let log = Rarely::default();
    stream::unfold((listener, door, metrics, log), |(listener, door, metrics, log)| async move {
        loop {
            match listener.accept().await {
                Ok((io, from)) => {
                    let connection = Connection::new(io, from.ip(), &door, &metrics);
                    return Some((Ok(connection), (listener, door, metrics, log)));
                }
                Err(error) => {
                    log.say(|| tracing::warn!(%error, "pincer: cannot accept a connection"));
                    time::sleep(ACCEPT_REST).await;
                }
            }
        }
    })
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
