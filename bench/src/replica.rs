//! Replicas in this process: slots, a queue first in first out, and a service time spent asleep.
//!
//! A request names its work in `X-Work`, so the replicas of every contender have the same work
//! whichever of them gets the request. The behaviour of a replica can be changed while it runs. The
//! replica records when each slot worked, and for which class. It does not know which contender it
//! serves. Responses carry `X-Replica`, the replica's index in its pool.
//! Cost: two writes and a timer per request. Bound: the connections that the proxies open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::Connection;
use crate::timer::Timers;
use crate::trace::Class;

/// How a replica serves a request that has a slot.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Responds after `mean` times the request's work; at once if `mean` is zero.
    Work {
        /// Service time of work 1.
        mean: Duration,
    },
    /// Sends the headers at once, the first event after `first`, then one every `EVENT_GAP`, the
    /// last after `length`.
    Stream {
        /// Time to the first event.
        first: Duration,
        /// Length of the whole stream.
        length: Duration,
    },
    /// Responds with 500 at once, without taking a slot.
    Fail,
}

/// Between the events of a stream.
const EVENT_GAP: Duration = Duration::from_millis(500);

/// One event of a stream, as a chunk.
const EVENT: &[u8] = b"d\r\ndata: token\n\n\r\n";

/// The work of one slot for one request.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// The class of the request.
    pub class: Option<Class>,
    /// When it began.
    pub from: Instant,
    /// When it ended.
    pub to: Instant,
}

struct Shared {
    index: usize,
    slots: Semaphore,
    behaviour: Mutex<Behaviour>,
    served: Mutex<Vec<Service>>,
    timers: Timers,
}

/// A running replica; dropping it closes its listener and its connections.
pub struct Replica {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Replica {
    /// Starts replica `index` of its pool on a free port of the loopback.
    pub async fn start(index: usize, slots: usize, behaviour: Behaviour, timers: Timers) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("binding a replica")?;
        let address = listener.local_addr()?;
        let behaviour = Mutex::new(behaviour);
        let shared =
            Arc::new(Shared { index, slots: Semaphore::new(slots), behaviour, served: Mutex::default(), timers });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Replica { address, shared, accepting })
    }

    /// Changes the behaviour for requests that take a slot from now on.
    pub fn become_(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock() = behaviour;
    }

    /// Takes the services that ended, in the order of their ends; streams are not recorded.
    pub fn take_served(&self) -> Vec<Service> {
        std::mem::take(&mut *self.shared.served.lock())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // This is dropped with the task, which ends every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A proxy that stops closes its connection: that is no error.
            let _ = shared.serve(Connection::new(stream)?).await;
            anyhow::Ok(())
        });
    }
}

impl Shared {
    async fn serve(&self, mut connection: Connection) -> Result<()> {
        while let Some(head) = connection.head().await? {
            let work = head.value("x-work").and_then(|work| work.parse().ok()).unwrap_or(1.0);
            let behaviour = *self.behaviour.lock();
            if matches!(behaviour, Behaviour::Fail) {
                self.respond(&mut connection, "500 Internal Server Error").await?;
                continue;
            }
            let _slot = self.slots.acquire().await?;
            // The behaviour is read again, since it may have changed while the request waited for
            // its slot.
            let behaviour = *self.behaviour.lock();
            match behaviour {
                Behaviour::Work { mean } => {
                    let (class, from) = (head.value("x-class").and_then(Class::named), Instant::now());
                    self.timers.until(from + mean.mul_f64(work)).await;
                    self.served.lock().push(Service { class, from, to: Instant::now() });
                    self.respond(&mut connection, "200 OK").await?;
                }
                Behaviour::Stream { first, length } => self.stream(&mut connection, first, length).await?,
                Behaviour::Fail => self.respond(&mut connection, "500 Internal Server Error").await?,
            }
        }
        Ok(())
    }

    async fn respond(&self, connection: &mut Connection, status: &str) -> Result<()> {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nX-Replica: {}\r\n\r\nok", self.index);
        Ok(connection.stream.write_all(text.as_bytes()).await?)
    }

    async fn stream(&self, connection: &mut Connection, first: Duration, length: Duration) -> Result<()> {
        let start = Instant::now();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-Replica: {}\r\n\r\n",
            self.index
        );
        connection.stream.write_all(head.as_bytes()).await?;
        let mut due = first;
        while due < length {
            self.timers.until(start + due).await;
            connection.stream.write_all(EVENT).await?;
            due += EVENT_GAP;
        }
        self.timers.until(start + length).await;
        connection.stream.write_all(EVENT).await?;
        Ok(connection.stream.write_all(b"0\r\n\r\n").await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Sample};
    use crate::timer::TimerThread;

    async fn replica(slots: usize, behaviour: Behaviour) -> (TimerThread, Replica) {
        let thread = TimerThread::start().unwrap();
        let replica = Replica::start(3, slots, behaviour, thread.timers()).await.unwrap();
        (thread, replica)
    }

    fn took(sample: &Sample, from: Instant) -> Duration {
        sample.done.unwrap() - from
    }

    #[tokio::test]
    async fn one_slot_serves_one_after_the_other_by_their_work() {
        let (_thread, replica) = replica(1, Behaviour::Work { mean: Duration::from_millis(20) }).await;
        let client = Client::new(replica.address);
        let start = Instant::now();
        let (one, two) = tokio::join!(client.ask(1.0), client.ask(2.0));
        let latest = took(&one, start).max(took(&two, start));
        assert!(latest >= Duration::from_millis(60), "{latest:?}");
        assert_eq!((one.status, one.replica), (200, Some(3)));
    }

    #[tokio::test]
    async fn a_stream_sends_its_first_event_when_told() {
        let stream = Behaviour::Stream { first: Duration::from_millis(30), length: Duration::from_millis(60) };
        let (_thread, replica) = replica(8, stream).await;
        let start = Instant::now();
        let sample = Client::new(replica.address).ask(1.0).await;
        let first = sample.first_byte.unwrap() - start;
        assert!(first >= Duration::from_millis(30) && first < took(&sample, start), "{first:?}");
        assert!(took(&sample, start) >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn a_replica_told_to_fail_responds_with_500() {
        let (_thread, replica) = replica(1, Behaviour::Work { mean: Duration::ZERO }).await;
        let client = Client::new(replica.address);
        assert_eq!(client.ask(1.0).await.status, 200);
        replica.become_(Behaviour::Fail);
        assert_eq!(client.ask(1.0).await.status, 500);
    }
}
