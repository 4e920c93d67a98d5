//! The open-loop load generator: each request is sent at its intended time, whatever happened to
//! the requests before it.
//!
//! Latency is measured from the *intended* start, so time lost in the generator or in a full accept
//! queue counts (a closed loop, or one that measures from the real start, hides exactly the waits
//! that matter: "coordinated omission"). Connections are kept alive and taken last in, first out. A
//! request never waits for a connection: if none is idle a new one is opened.
//! Bound: `OUTSTANDING_MAX` requests in flight per contender; further ones are counted as
//! unfinished and never sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http::Connection;
use crate::timer::Timers;
use crate::trace::{Arrival, Class};

/// A contender with more requests in flight than this is collapsing, and would starve the rest of
/// file descriptors.
pub const OUTSTANDING_MAX: usize = 1_500;

/// The outcome of one request. Times are absolute; the caller knows the intended start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Whether the request ended, with success or not.
    pub ended: bool,
    /// When the request was really sent.
    pub sent: Option<Instant>,
    /// When the first byte of the response's body arrived.
    pub first_byte: Option<Instant>,
    /// When the complete response had arrived.
    pub done: Option<Instant>,
    /// Status of the response; 0 without one.
    pub status: u16,
    /// Which replica of the pool responded.
    pub replica: Option<usize>,
    /// Whether nginx reports that the response came from its cache.
    pub cached: bool,
}

/// Sends requests to one contender, over connections of its own.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<Connection>>>,
    /// The body of each POST; without a body, requests are GETs.
    body: Option<Arc<[u8]>>,
}

impl Client {
    /// A client of the server that listens at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Client { address, idle: Arc::default(), body: None }
    }

    /// The same, but every request posts `body`.
    pub fn posting(address: SocketAddr, body: Arc<[u8]>) -> Self {
        Client { body: Some(body), ..Self::new(address) }
    }

    /// Sends one request of `work` and reads the response. An incomplete response has `done` unset
    /// and keeps its status.
    pub async fn ask(&self, work: f64) -> Sample {
        self.ask_as(work, None).await
    }

    /// The same for a request of a class.
    async fn ask_as(&self, work: f64, class: Option<Class>) -> Sample {
        let mut sample = Sample::default();
        // The sample shows the error: status 0, or `done` unset.
        let _ = self.exchange(work, class, &mut sample).await;
        sample.ended = true;
        sample
    }

    async fn exchange(&self, work: f64, class: Option<Class>, sample: &mut Sample) -> Result<()> {
        let idle = self.idle.lock().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::new(TcpStream::connect(self.address).await?)?,
        };
        let request = self.request(work, class);
        sample.sent = Some(Instant::now());
        connection.stream.write_all(&request).await?;
        let head = connection.head().await?.context("closed without a response")?;
        sample.status = head.status()?;
        sample.cached = head.value("x-cache") == Some("HIT");
        sample.replica = head.value("x-replica").and_then(|replica| replica.parse().ok());
        connection.body(head.body()?, || sample.first_byte = Some(Instant::now())).await?;
        sample.done = Some(Instant::now());
        if !head.closes() {
            self.idle.lock().push(connection);
        }
        Ok(())
    }

    fn request(&self, work: f64, class: Option<Class>) -> Vec<u8> {
        let Some(body) = &self.body else {
            let class = class.map_or(String::new(), |class| format!("X-Class: {}\r\n", class.name()));
            return format!("GET / HTTP/1.1\r\nHost: bench\r\nX-Work: {work:.6}\r\n{class}\r\n").into_bytes();
        };
        let head = format!("POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    /// Sends `trace` from `start` on and waits for the responses until `end`. Samples are in the
    /// order of the trace.
    pub async fn replay(&self, trace: Arc<[Arrival]>, start: Instant, end: Instant, timers: Timers) -> Vec<Sample> {
        let samples = Arc::new(Mutex::new(vec![Sample::default(); trace.len()]));
        let mut running = JoinSet::new();
        for (index, arrival) in trace.iter().enumerate() {
            timers.until(start + arrival.at).await;
            while running.try_join_next().is_some() {}
            if running.len() >= OUTSTANDING_MAX {
                continue;
            }
            let (client, samples, Arrival { work, class, .. }) = (self.clone(), Arc::clone(&samples), *arrival);
            running.spawn(async move {
                let sample = client.ask_as(work, class).await;
                samples.lock()[index] = sample;
            });
        }
        let _ = tokio::time::timeout(end.saturating_duration_since(Instant::now()), async {
            while running.join_next().await.is_some() {}
        })
        .await;
        running.shutdown().await;
        std::mem::take(&mut *samples.lock())
    }
}

/// Whether a request succeeded, failed, or did not end in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// A complete response with a status of 2xx.
    Succeeded,
    /// Another status, or a broken connection.
    Failed,
    /// Still waiting when the round ended, or never sent.
    Unfinished,
}

impl Sample {
    /// The outcome of the request.
    pub fn fate(&self) -> Fate {
        match (self.ended, self.status, self.done) {
            (false, _, _) => Fate::Unfinished,
            (true, 200..300, Some(_)) => Fate::Succeeded,
            _ => Fate::Failed,
        }
    }

    /// Time from `intended` to the complete response, if there was one.
    pub fn latency(&self, intended: Instant) -> Option<Duration> {
        self.done.map(|done| done.saturating_duration_since(intended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{Behaviour, Replica};
    use crate::timer::TimerThread;

    #[tokio::test]
    async fn a_replay_keeps_the_order_and_marks_what_did_not_end() {
        let thread = TimerThread::start().unwrap();
        let mean = Duration::from_millis(10);
        let replica = Replica::start(0, 8, Behaviour::Work { mean }, thread.timers()).await.unwrap();
        let trace: Arc<[Arrival]> =
            [0.5, 1_000_000.0, 1.0].map(|work| Arrival { at: Duration::from_millis(1), work, class: None }).into();
        let start = Instant::now();
        let client = Client::new(replica.address);
        let samples = client.replay(trace, start, start + Duration::from_millis(400), thread.timers()).await;
        assert_eq!(
            samples.iter().map(Sample::fate).collect::<Vec<_>>(),
            [Fate::Succeeded, Fate::Unfinished, Fate::Succeeded]
        );
        assert!(samples[2].latency(start).unwrap() >= mean);
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let thread = TimerThread::start().unwrap();
        let start = Instant::now();
        let trace: Arc<[Arrival]> = [Arrival { at: Duration::ZERO, work: 1.0, class: None }].into();
        let end = start + Duration::from_secs(5);
        let samples = Client::new(address).replay(trace, start, end, thread.timers()).await;
        assert_eq!(samples[0].fate(), Fate::Failed);
    }
}
