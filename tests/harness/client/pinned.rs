//! A keepalive connection whose worker is known: for what must hold in every worker, and for whose
//! requests a killed worker may take along.
//!
//! nginx serves a connection by one worker for as long as it stands. Never reconnects by itself.
//! Every call is bounded.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::CallError;
use crate::{limit, nginx::Nginx};

/// A location for [`Pinned::open`].
pub const LOCATION: &str = "location = /pid { return 200 $pid; }";

/// Longest call, seconds.
const CALL_S: f64 = 20.0;
/// Longest wait for a worker that may be stopped, seconds.
const OPEN_S: f64 = 0.2;
/// Connections opened at most to find one of each worker.
const OPENED_MAX: usize = 1000;

/// A connection.
pub struct Pinned {
    sender: SendRequest<Full<Bytes>>,
    worker: i32,
}

/// An answer's status, name of the replica, and body.
pub type Answer = (u16, String, String);

impl Pinned {
    /// Connects to `address` and asks the worker for its pid.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn open(address: &str) -> Result<Self, CallError> {
        let failed = |error: &dyn std::error::Error| CallError::NoAnswer(error.to_string());
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        let mut pinned = Self { sender, worker: 0 };
        let (_, _, pid) = pinned.get("/pid").await?;
        pinned.worker = pid.trim().parse().map_err(|error| failed(&error))?;
        Ok(pinned)
    }

    /// One connection to each of the present workers, which must listen with `reuseport`.
    ///
    /// # Panics
    /// When that takes over a thousand connections.
    pub async fn to_all(nginx: &Nginx) -> Vec<Self> {
        Self::to_others(nginx, &[]).await
    }

    /// [`Pinned::to_all`] but these workers, which may be stopped.
    ///
    /// # Panics
    /// When that takes over a thousand connections.
    pub async fn to_others(nginx: &Nginx, left_out: &[i32]) -> Vec<Self> {
        let mut missing = nginx.workers();
        missing.retain(|pid| !left_out.contains(pid));
        let mut found = Vec::new();
        for _ in 0..OPENED_MAX {
            if missing.is_empty() {
                return found;
            }
            // A connection that a stopped worker is to take is never answered.
            let opened = tokio::time::timeout(limit(OPEN_S), Self::open(&nginx.address())).await;
            let Ok(Ok(pinned)) = opened else { continue };
            if missing.contains(&pinned.worker) {
                missing.retain(|pid| *pid != pinned.worker);
                found.push(pinned);
            }
        }
        panic!("no connection to the workers {missing:?}");
    }

    /// The pid of the worker that serves it.
    #[must_use]
    pub fn worker(&self) -> i32 {
        self.worker
    }

    /// GET of `path`.
    ///
    /// # Errors
    /// When the connection ends before the answer does.
    pub async fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        let failed = |error: &dyn std::error::Error| CallError::NoAnswer(error.to_string());
        let request =
            Request::get(path).header("host", "test").body(Full::default()).map_err(|error| failed(&error))?;
        let exchange = async {
            self.sender.ready().await.map_err(|error| failed(&error))?;
            let response = self.sender.send_request(request).await.map_err(|error| failed(&error))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|_| CallError::Cut(0))?.to_bytes();
            let replica = head.headers.get("x-replica").and_then(|value| value.to_str().ok()).unwrap_or_default();
            Ok((head.status.as_u16(), replica.to_owned(), String::from_utf8_lossy(&body).into_owned()))
        };
        let within = limit(CALL_S);
        tokio::time::timeout(within, exchange).await.unwrap_or(Err(CallError::Late(within)))
    }
}
