//! Finds pincerd and connects to it with mutual TLS: for pincerctl, for tests and for tools.
//!
//! Every step of connecting has a deadline. Cost: one handshake. Bound: `CONNECT_TIMEOUT`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use pincer_proto::{
    limits,
    v1::{control_service_client::ControlServiceClient, node_service_client::NodeServiceClient},
};
use tokio::time;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{
    causes,
    dev::{self, Name},
    pem::{self, PemError},
};

/// Within this time a connection has to be ready.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Within this time a response has to begin.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A quiet connection is pinged, and closed if no response comes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a response. The first response of a watch has all nodes.
const RESPONSE_BYTES_MAX: usize = 8 * limits::MESSAGE_BYTES_MAX;

/// The address of pincerd, and the credentials for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT` or `https://HOST:PORT`.
    pub endpoint: String,
    /// The CA that signed the server's certificate.
    pub ca: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A certificate or a key cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `DIR/endpoint` is not there.
    #[error("{0} is not there: pincerd --dev has not been started there")]
    NotStarted(PathBuf),
    /// `DIR/endpoint` has another form.
    #[error("{0} holds no line grpc=ADDRESS")]
    EndpointFile(PathBuf),
    /// Not an address.
    #[error("{endpoint:?} is not of the form HOST:PORT")]
    Endpoint {
        /// The endpoint as given.
        endpoint: String,
    },
    /// A certificate or key can't be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// TLS does not take the certificates together.
    #[error("cannot use the certificates: {}", causes::of(.0))]
    Tls(#[source] tonic::transport::Error),
    /// There is no server, or not the right one.
    #[error("cannot reach pincerd at {endpoint}: {}", causes::of(source))]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: tonic::transport::Error,
    },
    /// The server does not respond.
    #[error("pincerd at {0} does not respond within 5 s")]
    Silent(String),
}

impl ConnectError {
    /// Whether the caller's input is wrong, and not the network or the server. A `--dev` folder
    /// without an endpoint is no such mistake: pincerd has not been started there yet.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent(_) | Self::EndpointFile(_) | Self::NotStarted(_) => false,
            Self::File { .. } | Self::Endpoint { .. } | Self::Pem(_) | Self::Tls(_) => true,
        }
    }
}

impl Target {
    /// The pincerd that runs with `--dev folder`, as an operator or a node.
    pub fn dev(folder: &Path, name: Name) -> Result<Self, ConnectError> {
        let (ca, certificate, key) = (folder.join(dev::CA_FILE), name.certificate(folder), name.key(folder));
        Ok(Self { endpoint: dev_endpoint(folder)?, ca, certificate, key })
    }

    /// The endpoint without its scheme.
    pub(crate) fn address(&self) -> &str {
        self.endpoint.strip_prefix("https://").unwrap_or(&self.endpoint)
    }

    /// The endpoint's parts, a host of IPv6 without its brackets.
    pub(crate) fn host_and_port(&self) -> Option<(&str, &str)> {
        let (host, port) = self.address().rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']'), port))
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        self.connect_patiently(CALL_TIMEOUT).await
    }

    /// As `connect`, for calls whose response may take up to `patience`.
    pub async fn connect_patiently(&self, patience: Duration) -> Result<Channel, ConnectError> {
        let bad = || ConnectError::Endpoint { endpoint: self.endpoint.clone() };
        let (host, port) = self.host_and_port().ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let (certificate, key) = pem::identity(&self.certificate, &self.key)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem::authorities(&self.ca)?))
            .identity(Identity::from_pem(certificate, key))
            .domain_name(host);
        let channel = Endpoint::from_shared(format!("https://{}", self.address()))
            .map_err(|_| bad())?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(patience)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tls_config(tls)
            .map_err(ConnectError::Tls)?;
        let connected = time::timeout(CONNECT_TIMEOUT, channel.connect()).await;
        let connected = connected.map_err(|_| ConnectError::Silent(self.endpoint.clone()))?;
        connected.map_err(|source| ConnectError::Unreachable { endpoint: self.endpoint.clone(), source })
    }
}

/// The gRPC address that pincerd wrote into its `--dev` folder.
pub fn dev_endpoint(folder: &Path) -> Result<String, ConnectError> {
    let path = folder.join(dev::ENDPOINT_FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ConnectError::NotStarted(path)),
        Err(source) => return Err(ConnectError::File { path, source }),
        Ok(text) => text,
    };
    let address = text.lines().find_map(|line| line.strip_prefix("grpc="));
    address.map(str::to_owned).ok_or(ConnectError::EndpointFile(path))
}

/// An operators' client over `channel`.
pub fn control(channel: Channel) -> ControlServiceClient<Channel> {
    ControlServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// Connects as the operator of a `--dev` folder.
pub async fn connect(folder: &Path) -> Result<ControlServiceClient<Channel>, ConnectError> {
    Ok(control(Target::dev(folder, Name::Operator)?.connect().await?))
}

/// Connects as the node of a `--dev` folder.
pub async fn connect_node(folder: &Path) -> Result<NodeServiceClient<Channel>, ConnectError> {
    Ok(NodeServiceClient::new(Target::dev(folder, Name::Node)?.connect().await?))
}
