//! One stream: says Hello, delivers snapshots to the board, sends what the event loop left there,
//! until either side ends it.
//!
//! Waits only in one place for everything, so that nothing holds up a stop. Sends one message at a
//! time: while the other side does not read, newer words replace older ones on the board. Believes
//! nothing but the numbers it needs; the content is for [`super::translate`]. A stream counts as
//! open once something came over it, or no refusal came for [`SETTLING`]: a control plane opens the
//! stream before it has read the Hello. Bounds: [`OUTGOING_MAX`] messages in the transport, silence
//! of [`SILENCE_MAX`].

use std::mem;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use pincer_proto::v1::{ControlMessage, Hello, NodeMessage, Snapshot, control_message, node_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connect::Target;
use super::fault::Fault;
use super::shared::{Received, Shared};

/// Messages handed to the transport and not yet sent.
const OUTGOING_MAX: usize = 2;

/// A control plane pings every 5 s. One that misses four of them hangs, although its HTTP/2 layer
/// may still answer.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A control plane that has nothing to say, and does not refuse the Hello within this time, has
/// taken it.
const SETTLING: Duration = Duration::from_millis(250);

/// A stream that stood this long was no part of a loop, whatever came of it.
const LASTING: Duration = Duration::from_secs(10);

/// How a session ended.
pub(super) struct Ended {
    pub(super) fault: Fault,
    /// The stream was open.
    pub(super) opened: bool,
    /// It was of use: something was applied, or it lasted.
    pub(super) useful: bool,
}

/// Runs one session with `target`, which stands at `index`.
pub(super) async fn run(shared: &Shared, target: &Target, index: usize, hello: &Hello) -> Ended {
    let applied_revision = shared.begin_session(index);
    let applied_before = shared.applied_count();
    let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
    let hello = Hello { applied_revision, ..hello.clone() };
    // There is room: the queue is new.
    let _ = outgoing.try_send(message(node_message::Message::Hello(hello)));
    let mut incoming = match target.open(ReceiverStream::new(messages)).await {
        Ok(incoming) => incoming,
        Err(fault) => return Ended { fault, opened: false, useful: false },
    };
    let answered_at = Instant::now();
    let address = target.name.as_str();
    let mut session = Session { shared, address, outgoing, seen: None, heard_at: answered_at, settled: false };
    let fault = loop {
        match session.step(&mut incoming).await {
            Ok(()) => {}
            Err(fault) => break fault,
        }
    };
    let useful = shared.applied_count() != applied_before || answered_at.elapsed() >= LASTING;
    Ended { fault, opened: session.settled, useful }
}

struct Session<'s> {
    shared: &'s Shared,
    address: &'s str,
    outgoing: mpsc::Sender<NodeMessage>,
    /// Revisions that came over this stream: only these may be answered on it.
    seen: Option<RangeInclusive<u64>>,
    heard_at: Instant,
    /// The stream counts as open.
    settled: bool,
}

impl Session<'_> {
    /// The stream counts as open from now on.
    fn settle(&mut self) {
        if mem::replace(&mut self.settled, true) {
            self.shared.stands(self.address);
        } else {
            self.shared.connected(self.address);
        }
    }

    /// Waits for one thing to happen and deals with it.
    async fn step(&mut self, incoming: &mut tonic::Streaming<ControlMessage>) -> Result<(), Fault> {
        let patience = if self.settled { SILENCE_MAX } else { SETTLING };
        tokio::select! {
            received = incoming.message() => match received {
                Ok(Some(received)) => self.receive(received),
                Ok(None) => Err(Fault::own("the control plane ended the stream")),
                Err(status) => Err(Fault::status(&status)),
            },
            () = self.send() => Ok(()),
            () = tokio::time::sleep_until((self.heard_at + patience).into()) => {
                if self.settled {
                    return Err(Fault::own(format!("no message for {} s", SILENCE_MAX.as_secs())));
                }
                self.settle();
                Ok(())
            }
        }
    }

    /// Sends one message, when there is one and room for it. Loses nothing when dropped halfway.
    async fn send(&self) {
        // The transport is gone: the incoming side is about to say why.
        let Ok(room) = self.outgoing.reserve().await else { return std::future::pending().await };
        loop {
            match self.shared.next_message() {
                Some(next) if self.may_say(&next) => return room.send(message(next)),
                Some(_) => {}
                None => self.shared.outbox().await,
            }
        }
    }

    /// Whether the message is about a revision of this stream, or about none.
    fn may_say(&self, message: &node_message::Message) -> bool {
        let revision = match message {
            node_message::Message::Ack(ack) => ack.revision,
            node_message::Message::Nack(nack) => nack.revision,
            node_message::Message::Hello(_) | node_message::Message::Stats(_) | node_message::Message::Purged(_) => {
                return true;
            }
        };
        self.seen.as_ref().is_some_and(|seen| seen.contains(&revision))
    }

    fn receive(&mut self, received: ControlMessage) -> Result<(), Fault> {
        self.heard_at = Instant::now();
        self.shared.heard(self.heard_at);
        // Before the snapshot is handed over: who takes it sees a stream that is open.
        self.settle();
        match received.message {
            Some(control_message::Message::Snapshot(snapshot)) => self.deliver(snapshot),
            Some(control_message::Message::Purge(purge)) => self.shared.order(purge, self.heard_at),
            // `None`: a word of a later version, ours to ignore.
            Some(control_message::Message::Ping(_)) | None => {}
        }
        Ok(())
    }

    fn deliver(&mut self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        self.seen = Some(match self.seen.take() {
            None => revision..=revision,
            Some(seen) => revision.min(*seen.start())..=revision.max(*seen.end()),
        });
        let received = Received { snapshot: snapshot.into(), arrived: self.heard_at };
        if let Err(waiting) = self.shared.deliver(received) {
            let reason = format!("revision {revision} is lower than {waiting}, which came before");
            self.shared.refused(revision, &reason);
        }
    }
}

fn message(message: node_message::Message) -> NodeMessage {
    NodeMessage { message: Some(message) }
}
