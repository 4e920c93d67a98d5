//! Listens: gRPC with mutual TLS, and HTTP for health and metrics.
//!
//! A connection without a client certificate of the CA ends in the handshake, one without a call in
//! time by `connection`. `door` has places for nodes and for operators. HTTP/2 pings detect a
//! client that vanished. Bound: the constants here, and `Places`; `STOP_TIMEOUT` for connections
//! that don't end when told to.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use pincer_proto::{
    FILE_DESCRIPTOR_SET, limits,
    v1::{control_service_server::ControlServiceServer, node_service_server::NodeServiceServer},
};
use tokio::{net::TcpListener, time};
use tonic::{
    service::{InterceptorLayer, interceptor::InterceptedService},
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    causes,
    connection::incoming,
    door::{Door, Places},
    expiry, http,
    plane::Plane,
    recovery,
    service::{
        AuditLayer, Control, Nodes,
        role::{self, Role},
    },
};

/// Calls at once on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// A handshake that takes longer ends.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a quiet connection is pinged, and how long the response may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a stream and a connection may send before pincerd has read them.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// How long connections may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What TLS needs, as PEM.
#[derive(Clone)]
pub struct Tls {
    /// The server's certificate and its chain.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The CA of the clients' certificates.
    pub client_ca: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why the server doesn't listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate, its key or the CA.
    #[error("cannot use the certificate, its key or the client CA: {}", causes::of(.0))]
    Tls(#[source] tonic::transport::Error),
    /// The transport.
    #[error("gRPC: {}", causes::of(.0))]
    Grpc(#[source] tonic::transport::Error),
    /// The descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The HTTP listener.
    #[error("HTTP: {0}")]
    Http(#[source] io::Error),
}

/// A server with these certificates and the bounds above; fails if they can't be used.
pub fn server(tls: Tls) -> Result<Server, ServeError> {
    let server = Server::builder().tls_config(tls_config(tls)).map_err(ServeError::Tls)?;
    Ok(server
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX))
}

/// Serves until `stop` is done, then ends every stream and waits for connections to end.
pub async fn run(
    plane: Arc<Plane>,
    server: Server,
    grpc: TcpListener,
    http: TcpListener,
    places: Places,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in ["", "pincer.v1.NodeService", "pincer.v1.ControlService"] {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let nodes = NodeServiceServer::new(Nodes::new(Arc::clone(&plane)))
        .max_decoding_message_size(limits::NODE_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
    let control = ControlServiceServer::new(Control::new(Arc::clone(&plane)))
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let door = Door::new(places);
    let connections = incoming(grpc, Arc::clone(&door), plane.metrics.clone());
    let grpc = server
        .layer(AuditLayer::new(plane.metrics.clone()))
        .layer(InterceptorLayer::new(role::admit))
        .add_service(InterceptedService::new(nodes, role::only(Role::Node)))
        .add_service(InterceptedService::new(control, role::only(Role::Operator)))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(connections, stopped(Arc::clone(&plane)));
    let http = http::run(Arc::clone(&plane), http, places);
    let deadline = async {
        stop.await;
        health.set_service_status("", ServingStatus::NotServing).await;
        plane.stop();
        door.close_waiting();
        time::sleep(STOP_TIMEOUT).await;
        tracing::warn!("pincer: connections did not end in time, leaving them");
    };
    let served = async {
        tokio::try_join!(async { grpc.await.map_err(ServeError::Grpc) }, async { http.await.map_err(ServeError::Http) },)
    };
    // These end when the plane stops, before `served` does.
    let followed = follow_store(Arc::clone(&plane), health.clone());
    let recovered = recovery::run(Arc::clone(&plane));
    let served = async { tokio::join!(served, expiry::run(Arc::clone(&plane)), recovered, followed).0 };
    tokio::select! {
        served = served => served.map(drop),
        () = deadline => Ok(()),
    }
}

/// Has the health service say whether changes can be made. Nodes are served all the same.
async fn follow_store(plane: Arc<Plane>, health: HealthReporter) {
    let (mut stopping, mut trouble) = (plane.stopping(), plane.trouble());
    loop {
        tokio::select! {
            changed = trouble.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let usable = trouble.borrow_and_update().is_none();
        let status = if usable { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", "pincer.v1.ControlService"] {
            health.set_service_status(service, status).await;
        }
    }
}

/// What the reflection services know.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

fn tls_config(tls: Tls) -> ServerTlsConfig {
    ServerTlsConfig::new()
        .identity(Identity::from_pem(tls.certificate, tls.key))
        .client_ca_root(Certificate::from_pem(tls.client_ca))
        .timeout(TLS_TIMEOUT)
}

async fn stopped(plane: Arc<Plane>) {
    // An error means that the plane is gone, which has the same effect.
    drop(plane.stopping().wait_for(|stopping| *stopping).await);
}

/// Binds. Returns the address with the port that the system chose for port 0.
pub async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
