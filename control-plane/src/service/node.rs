//! `pincer.v1.NodeService`: the stream of one nginx.
//!
//! The stream has two halves. `listen` reads the node's messages, in a task of its own. `speak`
//! produces the body of the response. It is polled only when the connection has room and then sends
//! the newest snapshot, so a stuck node holds one connection's buffers and nothing else. When one
//! half ends, the other ends. Cost per revision: one copy of the snapshot. Bound: `HELLO_TIMEOUT`;
//! no queue.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::stream;
use parking_lot::{Mutex, MutexGuard};
use pincer_proto::{
    google::rpc,
    limits,
    v1::{self, ControlMessage, NodeMessage, control_message, node_message, node_service_server::NodeService},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Interval, MissedTickBehavior},
};
use tonic::{Request, Response, Status, Streaming, transport::server::TlsConnectInfo};

use crate::{
    connection::Caller,
    fleet::Session,
    hello, names,
    plane::{Plane, Published},
    purge::Line,
    times,
};

/// How long a stream may be open without a Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a node gets a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Revisions of a stream whose response may still come.
const SENT_MAX: usize = 256;

/// The service.
#[derive(Debug, Clone)]
pub struct Nodes {
    plane: Arc<Plane>,
}

impl Nodes {
    /// Over `plane`.
    pub fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }
}

/// The messages for a node.
pub type SyncStream = Pin<Box<dyn futures_util::Stream<Item = Result<ControlMessage, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Nodes {
    type SyncStream = SyncStream;

    async fn sync(&self, request: Request<Streaming<NodeMessage>>) -> Result<Response<SyncStream>, Status> {
        let (joined, joining) = oneshot::channel();
        let (ended, ending) = oneshot::channel();
        let (speaker_alive, speaker_gone) = oneshot::channel::<()>();
        let caller = request.extensions().get::<TlsConnectInfo<Caller>>().map(|info| info.get_ref().clone());
        let counted = caller.map(|caller| caller.node_stream().ok_or_else(too_many)).transpose()?;
        let sent = Sent::default();
        let (plane, inbound, noted) = (Arc::clone(&self.plane), request.into_inner(), sent.clone());
        tokio::spawn(async move {
            let _counted = counted;
            tokio::select! {
                end = listen(plane, inbound, noted, joined) => drop(ended.send(end)),
                _ = speaker_gone => {}
            }
        });
        let mut pings = time::interval_at(time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let speaker = Speaker {
            revisions: self.plane.revisions(),
            stopping: self.plane.stopping(),
            plane: Arc::clone(&self.plane),
            joining: Some(joining),
            ending,
            floor: 0,
            sent: sent.clone(),
            purges: None,
            pings,
            _alive: speaker_alive,
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(speaker), |speaker| async {
            let mut speaker = speaker?;
            match speaker.next().await {
                Ok(message) => Some((Ok(ControlMessage { message: Some(message) }), Some(speaker))),
                Err(Some(status)) => Some((Err(status), None)),
                Err(None) => None,
            }
        }))))
    }
}

/// Leaves the fleet when the stream ends, however it ends.
struct Membership {
    plane: Arc<Plane>,
    session: Session,
    since: Instant,
    line: Line,
    sent: Sent,
}

impl Drop for Membership {
    fn drop(&mut self) {
        tracing::info!(node = self.session.node, instance = self.session.instance, "pincer: node left");
        self.plane.leave(&self.session);
    }
}

/// Reads the stream to its end. `Ok`: the node closed it.
async fn listen(
    plane: Arc<Plane>,
    mut inbound: Streaming<NodeMessage>,
    sent: Sent,
    joined: oneshot::Sender<Result<Joined, Status>>,
) -> Result<(), Status> {
    let membership = match join(plane, &mut inbound, sent).await {
        Ok((membership, entered)) => {
            drop(joined.send(Ok(entered)));
            membership
        }
        Err(status) => {
            drop(joined.send(Err(status)));
            return Ok(());
        }
    };
    while let Some(message) = inbound.message().await? {
        membership.hear(message)?;
    }
    Ok(())
}

/// Waits for Hello and accepts the node.
async fn join(
    plane: Arc<Plane>,
    inbound: &mut Streaming<NodeMessage>,
    sent: Sent,
) -> Result<(Membership, Joined), Status> {
    let refused = |status: Status| {
        plane.metrics.hellos_refused.inc();
        tracing::warn!(error = status.message(), "pincer: node refused");
        status
    };
    let first = time::timeout(HELLO_TIMEOUT, inbound.message()).await;
    let first = first.map_err(|_| refused(Status::deadline_exceeded("no hello within 10 s")))??;
    let Some(node_message::Message::Hello(hello)) = first.and_then(|first| first.message) else {
        return Err(refused(Status::invalid_argument("the first message has to be hello")));
    };
    let hello = hello::check(hello).map_err(|fault| refused(Status::invalid_argument(fault.to_string())))?;
    let applied = hello.applied_revision;
    let entered = plane.join(hello).map_err(|error| refused(Status::resource_exhausted(error.to_string())))?;
    let session = entered.session;
    tracing::info!(node = session.node, instance = session.instance, applied, "pincer: node joined");
    let ours = plane.current().config.revision;
    if applied > ours {
        tracing::warn!(
            node = session.node,
            applied,
            ours,
            "pincer: node has a newer revision than the store, which was lost or replaced; it gets the next change"
        );
    }
    let (line, purges) = plane.purges.join(&session);
    // From here on the node leaves the fleet at the end, even if the stream ends while its record
    // is written.
    let membership = Membership { plane, session, since: Instant::now(), line, sent };
    membership.plane.keep_nodes(&entered.to_store).await;
    Ok((membership, Joined { applied, purges }))
}

impl Membership {
    fn hear(&self, message: NodeMessage) -> Result<(), Status> {
        match message.message {
            Some(node_message::Message::Hello(_)) => Err(Status::invalid_argument("hello comes once")),
            Some(node_message::Message::Ack(ack)) => {
                self.check_sent(ack.revision)?;
                let apply = ack.apply_duration.and_then(times::span);
                self.plane.ack(&self.session, ack.revision, self.since, apply);
                Ok(())
            }
            Some(node_message::Message::Nack(nack)) => {
                self.check_sent(nack.revision)?;
                let error = shortened(nack.error.unwrap_or_default());
                let (node, revision) = (&self.session.node, nack.revision);
                tracing::warn!(node, revision, error = error.message, "pincer: node refused a revision");
                self.plane.nack(&self.session, revision, error);
                Ok(())
            }
            Some(node_message::Message::Stats(stats)) => {
                self.plane.stats(&self.session, stats);
                Ok(())
            }
            Some(node_message::Message::Purged(purged)) => {
                self.line.finish(purged);
                Ok(())
            }
            // A message of a newer module.
            None => Ok(()),
        }
    }

    fn check_sent(&self, revision: u64) -> Result<(), Status> {
        if !self.sent.lock().contains(&revision) {
            return Err(Status::invalid_argument(format!("revision {revision} was never sent")));
        }
        Ok(())
    }
}

/// An error from outside, cut to what is kept. Its details are dropped: nothing here reads them.
fn shortened(error: rpc::Status) -> rpc::Status {
    let message = names::shown(&error.message, limits::ERROR_BYTES_MAX);
    rpc::Status { code: error.code, message, details: Vec::new() }
}

fn too_many() -> Status {
    Status::resource_exhausted("this connection has streams of nodes already, open another connection")
}

fn stopped() -> Status {
    Status::unavailable("pincerd is stopping")
}

/// The newest revisions that a stream was sent: what it may acknowledge or refuse.
#[derive(Debug, Clone, Default)]
struct Sent(Arc<Mutex<VecDeque<u64>>>);

impl Sent {
    fn note(&self, revision: u64) {
        let mut all = self.0.lock();
        if all.len() == SENT_MAX {
            all.pop_front();
        }
        all.push_back(revision);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.0.lock()
    }
}

/// `listen` passes this to `speak` once the node is accepted.
struct Joined {
    applied: u64,
    purges: mpsc::Receiver<v1::Purge>,
}

struct Speaker {
    plane: Arc<Plane>,
    revisions: watch::Receiver<Arc<Published>>,
    stopping: watch::Receiver<bool>,
    joining: Option<oneshot::Receiver<Result<Joined, Status>>>,
    ending: oneshot::Receiver<Result<(), Status>>,
    /// The revision in the node's Hello. The node is sent no lower one.
    floor: u64,
    sent: Sent,
    /// Purges for the node; `None` before it is accepted.
    purges: Option<mpsc::Receiver<v1::Purge>>,
    pings: Interval,
    /// Dropped with this, which ends `listen`.
    _alive: oneshot::Sender<()>,
}

impl Speaker {
    /// The next message. `Err`: the stream ends, with a status unless the node closed it.
    async fn next(&mut self) -> Result<control_message::Message, Option<Status>> {
        if let Some(joining) = self.joining.take() {
            let joined = tokio::select! {
                joined = joining => joined,
                _ = self.stopping.wait_for(|stopping| *stopping) => return Err(Some(stopped())),
            };
            let joined = joined.map_err(|_| None)?.map_err(Some)?;
            (self.floor, self.purges) = (joined.applied, Some(joined.purges));
            self.revisions.mark_changed();
        }
        loop {
            tokio::select! {
                biased;
                end = &mut self.ending => return Err(end.ok().and_then(Result::err)),
                _ = self.stopping.wait_for(|stopping| *stopping) => return Err(Some(stopped())),
                changed = self.revisions.changed() => {
                    changed.map_err(|_| None)?;
                    let newest = Arc::clone(&self.revisions.borrow_and_update());
                    if newest.config.revision >= self.floor {
                        self.sent.note(newest.config.revision);
                        self.plane.metrics.snapshots.inc();
                        return Ok(control_message::Message::Snapshot(newest.snapshot.clone()));
                    }
                }
                Some(purge) = next_purge(&mut self.purges) => return Ok(control_message::Message::Purge(purge)),
                _ = self.pings.tick() => {
                    let send_time = Some(SystemTime::now().into());
                    return Ok(control_message::Message::Ping(v1::Ping { send_time }));
                }
            }
        }
    }
}

/// The next purge; `None` when none can come any more.
async fn next_purge(purges: &mut Option<mpsc::Receiver<v1::Purge>>) -> Option<v1::Purge> {
    purges.as_mut()?.recv().await
}
