//! A replica's listener: accepts, serves HTTP/1.1 or HTTP/2 on each connection, and closes while
//! the fault is to refuse.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Fault, Shared, routes};

/// Connections the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;
/// Pause after an accept that failed (no descriptors left), and between attempts to take the port
/// again.
const RETRY: Duration = Duration::from_millis(10);

/// Where a replica listens.
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    pub(super) async fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(addr) => {
                let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                socket.bind(*addr)?;
                Ok(Listener::Tcp(socket.listen(BACKLOG)?))
            }
            Self::Unix(path) => {
                if path.exists() {
                    tokio::fs::remove_file(path).await?;
                }
                let listener = UnixListener::bind(path)?;
                // nginx' workers connect as another user.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
                Ok(Listener::Unix(listener))
            }
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves until the task is aborted; then every connection goes with it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    place: Place,
    listener: Listener,
    tls: Option<TlsAcceptor>,
    listening: watch::Sender<bool>,
) {
    let router = routes::router(Arc::clone(&shared));
    let mut settings = shared.settings.subscribe();
    let mut connections = JoinSet::new();
    let mut open = Some(listener);
    loop {
        let refuse = settings.borrow_and_update().fault == Fault::Refuse;
        if refuse {
            open = None;
            listening.send_replace(false);
        } else if open.is_none() {
            open = Some(rebind(&place).await);
            listening.send_replace(true);
        }
        tokio::select! {
            accepted = accept(open.as_ref()) => match accepted {
                Ok(stream) => {
                    let id = shared.counters.connection();
                    connections.spawn(connection(stream, tls.clone(), router.clone(), id, shared.settings.subscribe()));
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            },
            _ = settings.changed() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&Listener>) -> io::Result<Box<dyn Stream>> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Nobody else takes our port (see `ports`), so this ends as soon as the kernel lets go of it.
async fn rebind(place: &Place) -> Listener {
    loop {
        if let Ok(listener) = place.bind().await {
            return listener;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn connection(
    stream: Box<dyn Stream>,
    tls: Option<TlsAcceptor>,
    router: Router,
    id: u64,
    mut settings: watch::Receiver<super::Settings>,
) {
    let stream: Box<dyn Stream> = match tls {
        None => stream,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let service = TowerToHyperService::new(router.layer(axum::Extension(ConnectionId(id))));
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let refused = async { drop(settings.wait_for(|now| now.fault == Fault::Refuse).await) };
    tokio::select! {
        _ = serving.as_mut() => {}
        () = refused => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.as_mut().await;
        }
    }
}

/// Which connection a request came over: the handlers find it among its extensions.
#[derive(Clone, Copy)]
pub(super) struct ConnectionId(pub(super) u64);
