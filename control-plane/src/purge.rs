//! Purges in progress: the open streams, the commands sent on each, and the callers that wait for
//! the results.
//!
//! A purge goes to one stream of each instance, the newest (after a reload that is the new
//! worker's); if that stream ends without a result, the purge goes to the previous one, since a
//! purge may run twice. Nothing is stored for a node that is disconnected. Only the digest of a
//! cache key is known here, and it is never printed. Cost: one message and one result for each
//! instance. Bound: `CALLS_MAX` purges at once, `limits::PURGES_MAX` on one stream, the caller's
//! timeout and `GRACE`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future;
use parking_lot::Mutex;
use pincer_proto::{google::rpc, limits, v1};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc, oneshot},
    time,
};
use tonic::Code;

use crate::fleet::Session;

/// Purges at once, over all operators.
pub const CALLS_MAX: usize = 16;

/// The time that a result may take beyond the node's own timeout.
const GRACE: Duration = Duration::from_secs(2);

/// A purge that was sent and has no result yet.
struct Pending {
    line: u64,
    result: oneshot::Sender<v1::Purged>,
}

/// One open stream.
struct Open {
    node: String,
    instance: String,
    orders: mpsc::Sender<v1::Purge>,
}

#[derive(Default)]
struct Board {
    /// By number: a newer stream has a higher one.
    lines: BTreeMap<u64, Open>,
    pending: HashMap<u64, Pending>,
}

/// All streams and purges.
pub struct Purges {
    board: Mutex<Board>,
    numbers: AtomicU64,
    calls: Semaphore,
}

impl std::fmt::Debug for Purges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purges").finish_non_exhaustive()
    }
}

impl Default for Purges {
    fn default() -> Self {
        Self { board: Mutex::default(), numbers: AtomicU64::new(1), calls: Semaphore::new(CALLS_MAX) }
    }
}

/// A stream that can be sent purges, from its Hello to its end.
#[derive(Debug)]
pub struct Line {
    purges: Arc<Purges>,
    number: u64,
}

impl Line {
    /// The node's result. A result that nobody waits for, or that belongs to another stream, is
    /// dropped.
    pub fn finish(&self, purged: v1::Purged) {
        let mut board = self.purges.board.lock();
        if board.pending.get(&purged.id).is_some_and(|pending| pending.line == self.number)
            && let Some(pending) = board.pending.remove(&purged.id)
        {
            drop(board);
            drop(pending.result.send(purged));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut board = self.purges.board.lock();
        board.lines.remove(&self.number);
        board.pending.retain(|_, pending| pending.line != self.number);
    }
}

/// Removes a purge from those in progress, also if the caller has left.
struct Waiting<'p> {
    purges: &'p Purges,
    line: u64,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.purges.board.lock().pending.remove(&self.id);
    }
}

/// The command for every node.
#[derive(Debug, Clone)]
pub struct Order {
    /// The caches.
    pub scope: v1::purge::Scope,
    /// The entries.
    pub entries: v1::purge::Entries,
    /// How long a node may take.
    pub timeout: Duration,
    /// The node only checks whether it has the named caches.
    pub validate_only: bool,
}

fn status(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code.into(), message: message.into(), details: Vec::new() }
}

impl Purges {
    /// A permit for one call, or `None` if [`CALLS_MAX`] calls are in progress.
    pub fn admit(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.try_acquire().ok()
    }

    /// Registers a stream after its Hello. The receiver yields the commands for it.
    pub fn join(self: &Arc<Self>, session: &Session) -> (Line, mpsc::Receiver<v1::Purge>) {
        let (orders, receiver) = mpsc::channel(limits::PURGES_MAX);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let open = Open { node: session.node.clone(), instance: session.instance.clone(), orders };
        self.board.lock().lines.insert(number, open);
        (Line { purges: Arc::clone(self), number }, receiver)
    }

    /// Connected instances of `node`, or of all nodes, sorted.
    pub fn instances(&self, node: Option<&str>) -> Vec<(String, String)> {
        let board = self.board.lock();
        let asked = board.lines.values().filter(|line| node.is_none_or(|node| line.node == node));
        let mut found: Vec<_> = asked.map(|line| (line.node.clone(), line.instance.clone())).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Sends the command to all `instances` at once and waits for each result.
    pub async fn run(&self, order: &Order, instances: Vec<(String, String)>) -> Vec<InstanceResult> {
        let asked = instances.into_iter().map(|(node, instance)| async move {
            let since = Instant::now();
            let purged = self.ask(order, &node, &instance).await;
            InstanceResult { node, instance, purged, took: since.elapsed() }
        });
        future::join_all(asked).await
    }

    /// Sends the command to one instance over its newest stream, and over an older one if that
    /// stream ends.
    async fn ask(&self, order: &Order, node: &str, instance: &str) -> v1::Purged {
        let until = time::Instant::now() + order.timeout + GRACE;
        let mut below = u64::MAX;
        loop {
            let sent = self.send(order, node, instance, below);
            let (waiting, result) = match sent {
                Ok(sent) => sent,
                Err(error) => return v1::Purged { error: Some(error), ..v1::Purged::default() },
            };
            match time::timeout_at(until, result).await {
                Ok(Ok(purged)) => return purged,
                // The stream has ended.
                Ok(Err(_)) => below = waiting.line,
                Err(_) => {
                    let error = status(Code::DeadlineExceeded, "the node did not respond in time");
                    return v1::Purged { error: Some(error), ..v1::Purged::default() };
                }
            }
        }
    }

    /// Sends to the newest stream of the instance that is older than `below`.
    fn send(
        &self,
        order: &Order,
        node: &str,
        instance: &str,
        below: u64,
    ) -> Result<(Waiting<'_>, oneshot::Receiver<v1::Purged>), rpc::Status> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let purge = v1::Purge {
            id,
            timeout: order.timeout.try_into().ok(),
            validate_only: order.validate_only,
            scope: Some(order.scope.clone()),
            entries: Some(order.entries.clone()),
        };
        let mut board = self.board.lock();
        let mut lines = board.lines.range(..below).rev();
        let found = lines.find(|(_, line)| line.node == node && line.instance == instance);
        let Some((&number, line)) = found else {
            return Err(status(Code::Unavailable, "the node disconnected before it responded"));
        };
        match line.orders.try_send(purge) {
            Ok(()) => {
                let (result, results) = oneshot::channel();
                board.pending.insert(id, Pending { line: number, result });
                Ok((Waiting { purges: self, line: number, id }, results))
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(status(Code::ResourceExhausted, "the node has too many purges in progress"))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(status(Code::Unavailable, "the node disconnected before it responded"))
            }
        }
    }
}

/// The result of one instance.
#[derive(Debug)]
pub struct InstanceResult {
    /// The node's name.
    pub node: String,
    /// Its instance.
    pub instance: String,
    /// The node's result, or an error of our own if none came.
    pub purged: v1::Purged,
    /// The time since the command was sent.
    pub took: Duration,
}
