//! Purges on their way: which streams are open, what each was asked, and who waits for the answer.
//!
//! A purge goes to one stream of each instance, the newest (after a reload that is the new
//! worker's); when that one ends without an answer, to the one before, as a purge may be made
//! twice. Nothing is kept for a node that is away. What a cache's key says is not known here, only
//! its digest, and never printed. Cost: one message and one answer for each instance. Bound:
//! `CALLS_MAX` purges at once, `limits::PURGES_MAX` on one stream, the caller's timeout and
//! `GRACE`.

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

/// How much longer than the node itself its answer is waited for.
const GRACE: Duration = Duration::from_secs(2);

/// A purge that was sent and not answered.
struct Pending {
    line: u64,
    answer: oneshot::Sender<v1::Purged>,
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

/// A stream's place among those that can be asked, from its Hello to its end.
#[derive(Debug)]
pub struct Line {
    purges: Arc<Purges>,
    number: u64,
}

impl Line {
    /// The node's answer. One that nobody waits for, or that another stream was asked for, is
    /// dropped.
    pub fn answered(&self, purged: v1::Purged) {
        let mut board = self.purges.board.lock();
        if board.pending.get(&purged.id).is_some_and(|pending| pending.line == self.number)
            && let Some(pending) = board.pending.remove(&purged.id)
        {
            drop(board);
            drop(pending.answer.send(purged));
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

/// Takes a purge back from those that are waited for, when the caller has left too.
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

/// What is asked of every node.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where.
    pub scope: v1::purge::Scope,
    /// What.
    pub entries: v1::purge::Entries,
    /// How long a node may take.
    pub timeout: Duration,
    /// Ask only whether it knows the place.
    pub validate_only: bool,
}

fn status(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code.into(), message: message.into(), details: Vec::new() }
}

impl Purges {
    /// A place among those that work, or `None` when there are [`CALLS_MAX`] already.
    pub fn admit(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.try_acquire().ok()
    }

    /// A stream said Hello: what it is to be asked comes out of the receiver.
    pub fn join(self: &Arc<Self>, session: &Session) -> (Line, mpsc::Receiver<v1::Purge>) {
        let (orders, receiver) = mpsc::channel(limits::PURGES_MAX);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let open = Open { node: session.node.clone(), instance: session.instance.clone(), orders };
        self.board.lock().lines.insert(number, open);
        (Line { purges: Arc::clone(self), number }, receiver)
    }

    /// Instances that can be asked, of `node` or of all, sorted.
    pub fn instances(&self, node: Option<&str>) -> Vec<(String, String)> {
        let board = self.board.lock();
        let asked = board.lines.values().filter(|line| node.is_none_or(|node| line.node == node));
        let mut found: Vec<_> = asked.map(|line| (line.node.clone(), line.instance.clone())).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Asks `instances` all at once, and waits for each.
    pub async fn run(&self, order: &Order, instances: Vec<(String, String)>) -> Vec<Answer> {
        let asked = instances.into_iter().map(|(node, instance)| async move {
            let since = Instant::now();
            let purged = self.ask(order, &node, &instance).await;
            Answer { node, instance, purged, took: since.elapsed() }
        });
        future::join_all(asked).await
    }

    /// Asks one instance over its newest stream, and over an older one if that ends.
    async fn ask(&self, order: &Order, node: &str, instance: &str) -> v1::Purged {
        let until = time::Instant::now() + order.timeout + GRACE;
        let mut below = u64::MAX;
        loop {
            let sent = self.send(order, node, instance, below);
            let (waiting, answer) = match sent {
                Ok(sent) => sent,
                Err(error) => return v1::Purged { error: Some(error), ..v1::Purged::default() },
            };
            match time::timeout_at(until, answer).await {
                Ok(Ok(purged)) => return purged,
                // The stream has ended.
                Ok(Err(_)) => below = waiting.line,
                Err(_) => {
                    let error = status(Code::DeadlineExceeded, "the node did not answer in time");
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
            return Err(status(Code::Unavailable, "the node left before it answered"));
        };
        match line.orders.try_send(purge) {
            Ok(()) => {
                let (answer, answered) = oneshot::channel();
                board.pending.insert(id, Pending { line: number, answer });
                Ok((Waiting { purges: self, line: number, id }, answered))
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(status(Code::ResourceExhausted, "the node has too many purges to do already"))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(status(Code::Unavailable, "the node left before it answered"))
            }
        }
    }
}

/// What came of it at one instance.
#[derive(Debug)]
pub struct Answer {
    /// The node's name.
    pub node: String,
    /// Its instance.
    pub instance: String,
    /// Its word, or ours when it has none.
    pub purged: v1::Purged,
    /// From when it was told.
    pub took: Duration,
}
