//! The HTTP port: /healthz, /readyz and /metrics, without TLS and without authentication.
//!
//! A request has `REQUEST_TIMEOUT` to arrive, and a connection carries one response. Whoever is
//! silent makes room for others (`door`), and shuts out nobody. Bound: `Places::http` connections.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing};
use futures_util::StreamExt as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};

use crate::{
    connection::{Connection, incoming},
    door::{Door, Places},
    plane::Plane,
};

/// How long the head of a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stand.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Serves until the plane stops.
pub async fn run(plane: Arc<Plane>, listener: TcpListener, places: Places) -> io::Result<()> {
    let door = Door::new(Places { waiting: places.http, ..places });
    let mut connections = pin!(incoming(listener, Arc::clone(&door), plane.metrics.clone()));
    let mut stopping = plane.stopping();
    let routes = routes(Arc::clone(&plane));
    loop {
        tokio::select! {
            Some(connection) = connections.next() => drop(tokio::spawn(serve(connection?, routes.clone()))),
            _ = stopping.wait_for(|stopping| *stopping) => break,
        }
    }
    door.close_waiting();
    Ok(())
}

async fn serve(connection: Connection, routes: Router) {
    let service = TowerToHyperService::new(routes);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    if let Ok(Err(error)) = time::timeout(CONNECTION_TIMEOUT, serving).await {
        tracing::debug!(%error, "pincer: HTTP connection ended");
    }
}

fn routes(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/healthz", routing::get(healthz))
        .route("/readyz", routing::get(readyz))
        .route("/metrics", routing::get(metrics))
        .with_state(plane)
}

async fn healthz(State(plane): State<Arc<Plane>>) -> (StatusCode, &'static str) {
    if *plane.stopping().borrow() { (StatusCode::SERVICE_UNAVAILABLE, "stopping\n") } else { (StatusCode::OK, "ok\n") }
}

/// Whether changes can be made.
async fn readyz(State(plane): State<Arc<Plane>>) -> (StatusCode, String) {
    let trouble = plane.trouble().borrow().clone();
    match trouble {
        _ if *plane.stopping().borrow() => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        None => (StatusCode::OK, "ready\n".to_owned()),
    }
}

async fn metrics(State(plane): State<Arc<Plane>>) -> impl IntoResponse {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    match plane.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
