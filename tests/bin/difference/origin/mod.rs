//! The one origin behind both sides: HTTP/1, HTTP/2 for `grpc_pass`, and FastCGI. It keeps what it
//! received, for each side and execution.

mod fastcgi;
mod http1;
mod http2;
mod recipe;
pub mod seen;

use std::future::Future;
use std::net::SocketAddr;

use harness::ports;
use tokio::net::{TcpListener, TcpStream};

use seen::Seen;

/// The three listeners of one side.
pub struct Origin {
    /// HTTP/1.
    pub http: SocketAddr,
    /// HTTP/2 without TLS.
    pub grpc: SocketAddr,
    /// FastCGI.
    pub fastcgi: SocketAddr,
    /// What they received.
    pub seen: Seen,
}

impl Origin {
    /// Listens; the tasks end with the runtime.
    pub async fn start() -> std::io::Result<Self> {
        let seen = Seen::default();
        Ok(Self {
            http: listen(&seen, http1::serve).await?,
            grpc: listen(&seen, http2::serve).await?,
            fastcgi: listen(&seen, fastcgi::serve).await?,
            seen,
        })
    }
}

async fn listen<F>(seen: &Seen, serve: impl Fn(TcpStream, Seen) -> F + Send + 'static) -> std::io::Result<SocketAddr>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let address = ports::refusing_addr();
    let listener = TcpListener::bind(address).await?;
    let seen = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = serve(stream, seen.clone());
            // A connection that breaks off is what this is made for.
            tokio::spawn(async move { drop(served.await) });
        }
    });
    Ok(address)
}
