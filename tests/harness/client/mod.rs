//! HTTP clients for the tests: with a keepalive pool or one connection a request; times of header,
//! first byte and end.
//!
//! Every call is bounded by the client's time limit (30 s unless told). HTTP/1.1 unless made with
//! [`Client::h2c`]. What needs more control over the socket, such as giving up in the middle, is in
//! [`raw`] and [`pinned`]; streams are in [`sse`] and [`ws`].

pub mod grpc;
pub mod pinned;
pub mod raw;
pub mod revisions;
pub mod sse;
pub mod upload;
pub mod ws;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;

use crate::limit;

/// Time limit of a call unless [`Client::within`] says otherwise, seconds.
const LIMIT_S: f64 = 30.0;

/// A client of one base address.
#[derive(Clone)]
pub struct Client {
    base: String,
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
    within: Duration,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From sending to the header.
    pub header_time: Duration,
    /// From sending to the first body byte; to the end when there is no body.
    pub first_byte_time: Duration,
    /// From sending to the end.
    pub total_time: Duration,
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer began: refused, or closed before the header.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The body ended too early.
    #[error("body cut after {0} bytes")]
    Cut(usize),
    /// The time limit came first.
    #[error("no whole answer within {0:?}")]
    Late(Duration),
}

/// One request, built up and sent.
pub struct Call {
    client: Client,
    request: hyper::http::request::Builder,
    body: Bytes,
}

impl Client {
    /// Keeps connections alive and reuses them. `base` is `http://ADDRESS`.
    #[must_use]
    pub fn pooled(base: &str) -> Self {
        Self::made(base, legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1024))
    }

    /// A new connection for every request.
    #[must_use]
    pub fn single(base: &str) -> Self {
        Self::made(base, legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0))
    }

    /// HTTP/2 without TLS and with prior knowledge.
    #[must_use]
    pub fn h2c(base: &str) -> Self {
        Self::made(base, legacy::Client::builder(TokioExecutor::new()).http2_only(true))
    }

    fn made(base: &str, builder: &legacy::Builder) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let inner = builder.build(connector);
        Self { base: base.trim_end_matches('/').to_owned(), inner, within: limit(LIMIT_S) }
    }

    /// The same client with another time limit.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// `http://ADDRESS`, without a path.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Begins a request.
    #[must_use]
    pub fn call(&self, method: Method, path: &str) -> Call {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        Call { client: self.clone(), request, body: Bytes::new() }
    }

    /// GET, or panic: for requests that must succeed in being answered, whatever the status.
    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path).must().await
    }

    /// POST of a body, or panic.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.call(Method::POST, path).body(body).must().await
    }
}

impl Call {
    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.request = self.request.header(name, value.to_string());
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends, and reads the whole answer.
    ///
    /// # Errors
    /// No answer, a cut body, or the client's time limit.
    pub async fn send(self) -> Result<Reply, CallError> {
        let within = self.client.within;
        tokio::time::timeout(within, self.exchange()).await.unwrap_or(Err(CallError::Late(within)))
    }

    /// [`Call::send`], panicking on an error.
    pub async fn must(self) -> Reply {
        let uri = self.request.uri_ref().map(ToString::to_string).unwrap_or_default();
        self.send().await.unwrap_or_else(|error| panic!("{uri}: {error}"))
    }

    /// Sends and returns at the header, with the body still to come.
    ///
    /// # Errors
    /// No answer, or the client's time limit.
    pub async fn begin(self) -> Result<Response<Incoming>, CallError> {
        let request = self.request.body(Full::new(self.body)).map_err(|e| CallError::NoAnswer(e.to_string()))?;
        let within = self.client.within;
        let answer = tokio::time::timeout(within, self.client.inner.request(request));
        answer.await.map_err(|_| CallError::Late(within))?.map_err(|e| CallError::NoAnswer(chain(&e)))
    }

    async fn exchange(self) -> Result<Reply, CallError> {
        let start = Instant::now();
        let response = self.begin().await?;
        let header_time = start.elapsed();
        let (head, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        let mut first_byte_time = None;
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| CallError::Cut(body.len()))?;
            if let Some(data) = frame.data_ref() {
                first_byte_time.get_or_insert_with(|| start.elapsed());
                body.extend_from_slice(data);
            }
        }
        let total_time = start.elapsed();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.into(),
            header_time,
            first_byte_time: first_byte_time.unwrap_or(total_time),
            total_time,
        })
    }
}

impl Reply {
    /// A header field as text, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Name of the replica that answered, empty when it was nginx itself.
    #[must_use]
    pub fn replica(&self) -> &str {
        self.header("x-replica")
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An error with its causes: hyper keeps the interesting part in the source.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
