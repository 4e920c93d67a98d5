//! What is known about a replica before the first byte: its address, TLS and the transport's
//! settings. Opens the connection.
//!
//! One deadline over everything up to the stream's response header: TCP, TLS, HTTP/2 and the call
//! itself, because each of them can hang for ever (the transport's own connect timeout covers only
//! TCP). Afterwards HTTP/2 pings watch the connection, also while nothing is said.
//! Bounds: [`CONNECT_MAX`], [`WINDOW_BYTES`] of unread data, a message of
//! [`limits::MESSAGE_BYTES_MAX`].

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use pincer_proto::limits;
use pincer_proto::v1::{ControlMessage, NodeMessage, node_service_client::NodeServiceClient};
use tokio::net::UnixStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::fault::Fault;
use crate::conf::control::Endpoint;
use crate::conf::target::TargetFault;

/// From the first packet to the stream's response header. A replica on another continent needs five
/// round trips, which is one second.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);

/// An HTTP/2 ping goes out after this long, whether or not anything is said; the answer has as long
/// again.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Bytes in flight to us: a usual snapshot in one round trip, a hundredth of what an attacker could
/// make the default hold.
const WINDOW_BYTES: u32 = 256 << 10;

/// Bytes of a response's headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Calls queued in the transport: there is one.
const CALLS_MAX: usize = 1;

/// The name that a certificate must carry when the address is a Unix socket and nothing else is
/// configured.
const LOCAL_NAME: &str = "localhost";

/// What mutual TLS needs, as read by the master. Deliberately without `Debug`: it holds a private
/// key.
pub(crate) struct TlsMaterial {
    /// Authorities that may have signed the control plane's certificate.
    pub(crate) ca_pem: Vec<u8>,
    /// This node's certificate and its chain.
    pub(crate) certificate_pem: Vec<u8>,
    /// Its private key.
    pub(crate) key_pem: Vec<u8>,
    /// The name the control plane's certificate must carry; `None` is the host of the address, or
    /// `localhost` for a Unix socket.
    pub(crate) server_name: Option<String>,
}

impl TlsMaterial {
    /// Whether a client can be made of it; the error says what is wrong with which part. Opens no
    /// connection, so it suits `nginx -t`.
    pub(crate) fn check(&self) -> Result<(), TargetFault> {
        Target::new(&Endpoint::Unix("/".to_owned()), Some(self)).map(|_| ())
    }
}

/// A replica, ready to be called.
pub(super) struct Target {
    /// As configured, for people.
    pub(super) name: String,
    tls: bool,
    endpoint: tonic::transport::Endpoint,
    socket: Option<UnixSocket>,
}

/// Prepares all replicas. The error names the address or the part of the TLS material, and what is
/// wrong with it.
pub(super) fn targets(endpoints: &[Endpoint], tls: Option<&TlsMaterial>) -> Result<Vec<Target>, TargetFault> {
    if endpoints.is_empty() {
        return Err(TargetFault::None);
    }
    endpoints.iter().map(|endpoint| Target::new(endpoint, tls)).collect()
}

impl Target {
    fn new(endpoint: &Endpoint, tls: Option<&TlsMaterial>) -> Result<Self, TargetFault> {
        let name = endpoint.to_string();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (uri, socket) = match endpoint {
            Endpoint::Tcp { .. } => (format!("{scheme}://{name}"), None),
            Endpoint::Unix(path) => (format!("{scheme}://{LOCAL_NAME}"), Some(UnixSocket(path.into()))),
        };
        let reason = |error: &tonic::transport::Error| Fault::transport(error).reason;
        let mut endpoint = tonic::transport::Endpoint::from_shared(uri)
            .map_err(|error| TargetFault::Address { address: name.clone(), reason: reason(&error) })?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_keepalive(Some(KEEPALIVE * 3))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .buffer_size(CALLS_MAX);
        if let Some(tls) = tls {
            let config = tls_config(tls)?;
            let unusable = |error| TargetFault::Material { reason: reason(&error) };
            endpoint = endpoint.tls_config(config).map_err(unusable)?;
        }
        Ok(Self { name, tls: tls.is_some(), endpoint, socket })
    }

    /// Connects and opens the stream; `outgoing` must hold the Hello already.
    pub(super) async fn open(&self, outgoing: ReceiverStream<NodeMessage>) -> Result<Streaming<ControlMessage>, Fault> {
        let open = async {
            let channel = self.channel().await.map_err(|error| Fault::transport(&error))?;
            let mut client = NodeServiceClient::new(channel)
                .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
            client.sync(outgoing).await.map_err(|status| Fault::status(&status))
        };
        match tokio::time::timeout(CONNECT_MAX, open).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(fault)) => Err(fault.unanswered(self.tls)),
            Err(_) => Err(Fault::own(format!("no answer within {} s", CONNECT_MAX.as_secs()))),
        }
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.socket {
            None => self.endpoint.connect().await,
            Some(socket) => self.endpoint.connect_with_connector(socket.clone()).await,
        }
    }
}

fn tls_config(tls: &TlsMaterial) -> Result<ClientTlsConfig, TargetFault> {
    for (what, pem) in [("trusted certificate", &tls.ca_pem), ("certificate", &tls.certificate_pem)] {
        if !has_certificate(pem) {
            return Err(TargetFault::NoCertificate { what });
        }
    }
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&tls.ca_pem))
        .identity(Identity::from_pem(&tls.certificate_pem, &tls.key_pem));
    Ok(match &tls.server_name {
        Some(name) => config.domain_name(name),
        None => config,
    })
}

/// The transport takes a file without any certificate for an empty list, and then trusts nobody
/// without saying why.
fn has_certificate(pem: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    pem.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// Connects to a Unix socket, whatever URI is asked for: the transport's own way there cannot do
/// TLS.
#[derive(Clone)]
struct UnixSocket(PathBuf);

impl Service<Uri> for UnixSocket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
