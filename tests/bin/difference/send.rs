//! Sends an input to one side, from an address of its own, and gathers what comes back and what the
//! origin received.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::input::{Door, End, Input};
use crate::sides::Side;
use crate::{http2, response};

/// Between two writes.
const STEP: Duration = Duration::from_millis(1);

/// How patient a run is: in a crowd some, alone more.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The client is done when nothing has come for so long.
    pub quiet: Duration,
    /// The origin is done likewise.
    pub origin: Duration,
    /// The end of everything.
    pub limit: Duration,
}

/// What one run of an input gave, ready to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the client got, line by line.
    pub response: Vec<String>,
    /// What the origin received, sorted.
    pub received: Vec<String>,
}

/// A client's address that no other run has: 127.64.0.0 and on.
fn client() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    Ipv4Addr::from(0x7f40_0000 | (NEXT.fetch_add(1, Ordering::Relaxed) & 0x3f_ffff))
}

/// Runs it.
pub async fn run(side: &Side, input: &Input, patience: Patience) -> Outcome {
    let client = client();
    let bytes = timeout(patience.limit, exchange(side, input, patience, client)).await;
    let mut response = match bytes {
        Ok(Ok(bytes)) if input.door.is_http2() => http2::lines(&bytes),
        Ok(Ok(bytes)) => response::lines(&bytes),
        Ok(Err(error)) => vec![format!("no connection: {error}")],
        Err(_) => vec!["the server did not close in time".to_owned()],
    };
    // Who does not read gets what the kernels have room for.
    if matches!(input.end, End::Leave | End::Reset) {
        response.clear();
    }
    let mut received = side.origin.seen.take(&client.to_string(), patience.origin, patience.limit).await;
    // How far nginx came when it noticed that is a matter of microseconds: faults and counts are
    // what is looked at.
    if matches!(input.end, End::Leave | End::Reset) {
        received.clear();
    }
    Outcome { response, received }
}

async fn exchange(side: &Side, input: &Input, patience: Patience, client: Ipv4Addr) -> std::io::Result<Vec<u8>> {
    let ports = side.ports;
    let port = match input.door {
        Door::Http => ports.http,
        Door::Http2 => ports.http2,
        Door::Tls | Door::Tls2 | Door::Bare => ports.tls,
    };
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(client), 0))?;
    let stream = socket.connect(SocketAddr::new(IpAddr::V4(side.address(input.place)), port)).await?;
    stream.set_nodelay(true)?;
    if input.end == End::Reset {
        stream.set_zero_linger()?;
    }
    if matches!(input.door, Door::Tls | Door::Tls2) {
        return talk(tls(side, input, stream).await?, input, patience).await;
    }
    talk(stream, input, patience).await
}

async fn tls(
    side: &Side,
    input: &Input,
    stream: TcpStream,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut config = ClientConfig::clone(&side.tls);
    config.alpn_protocols = vec![if input.door == Door::Tls2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let name = ServerName::try_from(harness::pki::SERVER_NAME).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn talk(stream: impl AsyncRead + AsyncWrite, input: &Input, patience: Patience) -> std::io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut received = Vec::new();
    let reads = !matches!(input.end, End::Leave | End::Reset);
    {
        let sending = async {
            for (index, piece) in input.writes().iter().enumerate() {
                if index > 0 {
                    tokio::time::sleep(STEP).await;
                }
                // A server that has closed reads no more; what it said before counts.
                if write.write_all(piece).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
            if input.end == End::HalfClose {
                let _ = write.shutdown().await;
            }
        };
        tokio::pin!(sending);
        // Reads beside writing, or two full buffers would wait for each other.
        loop {
            tokio::select! {
                () = &mut sending => break,
                more = some(&mut read, &mut received), if reads => if !more { sending.as_mut().await; return Ok(received) },
            }
        }
    }
    match input.end {
        End::Leave | End::Reset => return Ok(received),
        End::Quiet => {
            while let Ok(more) = timeout(patience.quiet, some(&mut read, &mut received)).await {
                if !more {
                    return Ok(received);
                }
            }
            let _ = write.shutdown().await;
        }
        End::HalfClose | End::Wait => {}
    }
    while some(&mut read, &mut received).await {}
    Ok(received)
}

/// Reads something; false at the end.
async fn some(read: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>) -> bool {
    read.read_buf(received).await.is_ok_and(|count| count > 0)
}
