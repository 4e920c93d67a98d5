//! What the feed's thread and the event loop leave for each other: latest values, and commands of a
//! bounded number, so that neither can fill the other's memory.
//!
//! One mutex of this process, held for a few moves and never across a system call, an await or the
//! drop of a snapshot. It is not in shared memory: who holds it dies only with everybody who could
//! wait for it. Not on the path of any request.
//! Bound: the newest snapshot, the one being applied and the one to be written; [`EVENTS_MAX`]
//! events; one pending message of each kind; `limits::PURGES_MAX` purges and as many answers.

mod link;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pincer_core::journal::Journal;
use pincer_core::trust::Distrust;
use pincer_proto::google::rpc;
use pincer_proto::limits;
use pincer_proto::v1::{self, Snapshot, node_message::Message};
use tokio::sync::{Notify, watch};

use super::fault;

/// Events kept for the event loop; the oldest go first, and how many went is said.
pub(crate) const EVENTS_MAX: usize = 32;

/// google.rpc.Code FAILED_PRECONDITION: this node cannot take the revision as things are.
const FAILED_PRECONDITION: i32 = 9;

/// google.rpc.Code RESOURCE_EXHAUSTED: too much at once.
const RESOURCE_EXHAUSTED: i32 = 8;

/// A purge to run.
#[derive(Debug, Clone)]
pub(crate) struct PurgeCommand {
    /// The stream that brought it: its answer is for that one alone.
    pub(crate) stream: u64,
    /// What the control plane said: not yet checked.
    pub(crate) purge: v1::Purge,
    /// When its last byte was here.
    pub(crate) arrived: Instant,
}

/// A snapshot to publish.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The whole state, as the control plane said it: not yet checked.
    pub(crate) snapshot: Arc<Snapshot>,
    /// When its last byte was here.
    pub(crate) arrived: Instant,
}

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Good news.
    Notice,
    /// Served on, from what is known.
    Warn,
    /// An operator has to do something.
    Error,
}

/// A line for the error log, without nginx's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its level.
    pub(crate) level: Level,
    /// One line, no control characters.
    pub(crate) text: String,
}

/// How the connection is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// A stream is open.
    pub(crate) connected: bool,
    /// The endpoint of the stream, or of the last attempt, as an index into
    /// [`super::Config::endpoints`].
    pub(crate) endpoint: usize,
    /// Streams opened after the first.
    pub(crate) reconnects: u64,
    /// When the last message of the control plane arrived.
    pub(crate) last_message: Option<Instant>,
    /// Why the last stream or attempt ended, and where, in one line; `None` until one did. Kept
    /// while connected.
    pub(crate) last_error: Option<Arc<str>>,
    /// When the thread last showed that it runs, at its start or every [`super::client::PULSE`].
    pub(crate) pulse: Option<Instant>,
    /// Why the state file was refused at the last write, if it was; `None` before the first write.
    pub(crate) state_file: Option<Option<Distrust>>,
}

#[derive(Default)]
struct Board {
    newest: Option<Received>,
    taken: Option<Arc<Snapshot>>,
    to_write: Option<Arc<Snapshot>>,
    applied_revision: u64,
    applied_count: u64,
    ack: Option<v1::Ack>,
    nack: Option<v1::Nack>,
    stats: Option<v1::Stats>,
    purges: VecDeque<PurgeCommand>,
    purged: VecDeque<v1::Purged>,
    /// Purges of this stream that have no answer yet, waiting or in hand.
    unanswered: usize,
    stream: u64,
    status: Status,
    opened: u64,
    events: VecDeque<Event>,
    events_lost: u64,
    /// What the error log was told of the link; survives a client that panics.
    journal: Journal,
}

/// Both ends' meeting place.
pub(super) struct Shared {
    board: Mutex<Board>,
    /// There is something to send.
    outbox: Notify,
    /// There is something to write to disk.
    disk: Notify,
    keeps_state: bool,
    started: Instant,
    wake: File,
    stop: watch::Sender<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(wake: File, applied_revision: u64, keeps_state: bool) -> Self {
        let started = Instant::now();
        let status = Status { pulse: Some(started), ..Status::default() };
        Self {
            board: Mutex::new(Board { applied_revision, status, ..Board::default() }),
            outbox: Notify::new(),
            disk: Notify::new(),
            keeps_state,
            started,
            wake,
            stop: watch::Sender::new(None),
        }
    }

    /// Every store to the board is complete in itself, so a panic elsewhere leaves it valid.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the event loop. A full counter (the only way to fail) means that it is awake already.
    fn wake(&self) {
        let _ = (&self.wake).write(&1_u64.to_ne_bytes());
    }
}

/// What the event loop calls.
impl Shared {
    pub(super) fn take(&self) -> Option<Received> {
        let mut board = self.board();
        let received = board.newest.take()?;
        let before = board.taken.replace(Arc::clone(&received.snapshot));
        drop(board);
        drop(before);
        Some(received)
    }

    pub(super) fn applied(&self, revision: u64, took: Duration) {
        let apply_duration = prost_types::Duration::try_from(took).ok();
        let mut board = self.board();
        board.applied_revision = revision;
        board.applied_count += 1;
        board.ack = Some(v1::Ack { revision, apply_duration });
        let taken = board.taken.take_if(|taken| taken.revision == revision).filter(|_| self.keeps_state);
        let before = if taken.is_some() { mem::replace(&mut board.to_write, taken) } else { None };
        drop(board);
        drop(before);
        self.outbox.notify_one();
        self.disk.notify_one();
    }

    pub(super) fn refused(&self, revision: u64, reason: &str) {
        let message = fault::clean(reason, pincer_proto::limits::ERROR_BYTES_MAX);
        let error = rpc::Status { code: FAILED_PRECONDITION, message, details: Vec::new() };
        let mut board = self.board();
        board.nack = Some(v1::Nack { revision, error: Some(error) });
        let taken = board.taken.take_if(|taken| taken.revision == revision);
        drop(board);
        drop(taken);
        self.outbox.notify_one();
    }

    pub(super) fn stats(&self, stats: v1::Stats) {
        let before = self.board().stats.replace(stats);
        drop(before);
        self.outbox.notify_one();
    }

    /// The oldest purge that waits.
    pub(super) fn take_purge(&self) -> Option<PurgeCommand> {
        self.board().purges.pop_front()
    }

    /// What came of a purge that `stream` brought; nobody waits for it when that stream has ended.
    pub(super) fn purged(&self, stream: u64, mut purged: v1::Purged) {
        if let Some(error) = &mut purged.error {
            error.message = fault::clean(&error.message, limits::ERROR_BYTES_MAX);
        }
        let mut board = self.board();
        if board.stream == stream {
            board.unanswered = board.unanswered.saturating_sub(1);
            board.purged.push_back(purged);
        }
        drop(board);
        self.outbox.notify_one();
    }

    pub(super) fn status(&self) -> Status {
        self.board().status.clone()
    }

    pub(super) fn drain_events(&self) -> Vec<Event> {
        let mut board = self.board();
        let lost = mem::take(&mut board.events_lost);
        let events = mem::take(&mut board.events);
        drop(board);
        let note = Event { level: Level::Warn, text: format!("left out feed events, count={lost}") };
        (lost > 0).then_some(note).into_iter().chain(events).collect()
    }

    /// Tells the thread to end; what is being written to disk has until `until`.
    pub(super) fn stop(&self, until: Instant) {
        self.stop.send_if_modified(|stop| stop.replace(until).is_none());
    }
}

/// What the feed's thread calls.
impl Shared {
    /// Resolves when the thread is to end, with the time that it has for it.
    pub(super) async fn stopped(&self) -> Instant {
        let mut stop = self.stop.subscribe();
        let until = stop.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        until.unwrap_or_else(Instant::now)
    }

    /// Starts a session: the applied revision for its Hello. What an earlier session still had to
    /// say about revisions and purges is forgotten, and so are purges that it brought and nobody
    /// took.
    pub(super) fn begin_session(&self, endpoint: usize) -> u64 {
        let mut board = self.board();
        (board.ack, board.nack, board.status.endpoint) = (None, None, endpoint);
        (board.unanswered, board.stream) = (0, board.stream + 1);
        board.purges.clear();
        board.purged.clear();
        board.applied_revision
    }

    /// A write of the state file has ended; `refused` says why it was not written, where others
    /// could write it.
    pub(super) fn state_file(&self, refused: Option<Distrust>) {
        let before = self.board().status.state_file.replace(refused);
        if before != Some(refused) {
            self.wake();
        }
    }

    /// Something came from the control plane.
    pub(super) fn heard(&self, now: Instant) {
        self.board().status.last_message = Some(now);
    }

    /// Puts a snapshot where the event loop finds it. A lower revision than one that waits there is
    /// not taken; that one's number is returned.
    pub(super) fn deliver(&self, received: Received) -> Result<(), u64> {
        let mut board = self.board();
        let waiting = board.newest.as_ref().map_or(0, |newest| newest.snapshot.revision);
        if received.snapshot.revision < waiting {
            return Err(waiting);
        }
        let before = board.newest.replace(received);
        drop(board);
        drop(before);
        self.wake();
        Ok(())
    }

    /// Leaves a purge for the event loop. With [`limits::PURGES_MAX`] unanswered it is refused at
    /// once.
    pub(super) fn order(&self, purge: v1::Purge, arrived: Instant) {
        let mut board = self.board();
        if board.unanswered >= limits::PURGES_MAX {
            let message = "too many purges at once, try again".to_owned();
            let error = rpc::Status { code: RESOURCE_EXHAUSTED, message, details: Vec::new() };
            // A control plane that does not read its answers gets no more of them than fit.
            if board.purged.len() < 2 * limits::PURGES_MAX {
                board.purged.push_back(v1::Purged { id: purge.id, error: Some(error), ..v1::Purged::default() });
            }
            drop(board);
            self.outbox.notify_one();
            return;
        }
        let stream = board.stream;
        board.unanswered += 1;
        board.purges.push_back(PurgeCommand { stream, purge, arrived });
        drop(board);
        self.wake();
    }

    /// Resolves when [`Shared::next_message`] may have something.
    pub(super) async fn outbox(&self) {
        self.outbox.notified().await;
    }

    /// The next message to send: what became of revisions, lowest first, then of purges, then
    /// statistics.
    pub(super) fn next_message(&self) -> Option<Message> {
        let mut board = self.board();
        let nack_first = match (&board.nack, &board.ack) {
            (Some(nack), Some(ack)) => nack.revision < ack.revision,
            (nack, _) => nack.is_some(),
        };
        if nack_first {
            return board.nack.take().map(Message::Nack);
        }
        let ack = board.ack.take().map(Message::Ack);
        let ack = ack.or_else(|| board.purged.pop_front().map(Message::Purged));
        ack.or_else(|| board.stats.take().map(Message::Stats))
    }

    /// How often the event loop has applied a revision; a change means that the control plane is of
    /// use.
    pub(super) fn applied_count(&self) -> u64 {
        self.board().applied_count
    }

    /// Resolves when [`Shared::to_write`] may have something.
    pub(super) async fn disk(&self) {
        self.disk.notified().await;
    }

    /// The snapshot to keep on disk.
    pub(super) fn to_write(&self) -> Option<Arc<Snapshot>> {
        self.board().to_write.take()
    }

    /// Puts back what could not be written, unless there is a newer one.
    pub(super) fn write_later(&self, snapshot: Arc<Snapshot>) {
        self.board().to_write.get_or_insert(snapshot);
    }

    /// Leaves a line for the error log.
    pub(super) fn event(&self, level: Level, text: String) {
        let mut board = self.board();
        let oldest = if board.events.len() >= EVENTS_MAX { board.events.pop_front() } else { None };
        board.events_lost += u64::from(oldest.is_some());
        board.events.push_back(Event { level, text });
        drop(board);
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(wake: File) -> Shared {
        Shared::new(wake, 0, true)
    }

    fn null() -> File {
        File::options().write(true).open("/dev/null").unwrap()
    }

    #[test]
    fn events_are_bounded_and_what_was_left_out_is_counted() {
        let shared = shared(null());
        for number in 0..EVENTS_MAX + 5 {
            shared.event(Level::Warn, number.to_string());
        }
        let events = shared.drain_events();
        assert_eq!(events.len(), EVENTS_MAX + 1);
        assert_eq!(events[0].text, "left out feed events, count=5");
        assert_eq!(events[1].text, "5");
        assert!(shared.drain_events().is_empty());
    }

    #[test]
    fn words_about_revisions_go_up_lowest_first_and_before_statistics() {
        let shared = shared(null());
        shared.stats(v1::Stats::default());
        shared.refused(4, "no");
        shared.applied(5, Duration::ZERO);
        assert!(matches!(shared.next_message(), Some(Message::Nack(v1::Nack { revision: 4, .. }))));
        shared.refused(6, "no");
        assert!(matches!(shared.next_message(), Some(Message::Ack(v1::Ack { revision: 5, .. }))));
        assert!(matches!(shared.next_message(), Some(Message::Nack(_))));
        assert!(matches!(shared.next_message(), Some(Message::Stats(_))));
        assert_eq!(shared.next_message(), None);
    }

    #[test]
    fn purges_are_bounded_and_answers_are_for_the_stream_that_asked() {
        let shared = shared(null());
        shared.begin_session(0);
        let order = |id| shared.order(v1::Purge { id, ..v1::Purge::default() }, Instant::now());
        (0..10).for_each(order);
        for id in [8, 9] {
            let Some(Message::Purged(refused)) = shared.next_message() else { panic!("an answer is due") };
            assert_eq!((refused.id, refused.error.map(|error| error.code)), (id, Some(RESOURCE_EXHAUSTED)));
        }
        let first = shared.take_purge().unwrap();
        assert_eq!(first.purge.id, 0);
        shared.stats(v1::Stats::default());
        shared.purged(first.stream, v1::Purged { id: 0, removed: 3, ..v1::Purged::default() });
        assert!(matches!(shared.next_message(), Some(Message::Purged(v1::Purged { removed: 3, .. }))));
        let second = shared.take_purge().unwrap();
        shared.begin_session(0);
        assert!(shared.take_purge().is_none(), "the new stream did not bring them");
        shared.purged(second.stream, v1::Purged { id: 1, ..v1::Purged::default() });
        assert!(matches!(shared.next_message(), Some(Message::Stats(_))));
        order(11);
        assert_eq!(shared.take_purge().unwrap().purge.id, 11);
    }

    #[test]
    fn only_what_was_taken_and_applied_is_written_to_disk() {
        let shared = shared(null());
        let received = |revision| {
            let snapshot = Snapshot { revision, ..Snapshot::default() };
            Received { snapshot: snapshot.into(), arrived: Instant::now() }
        };
        assert_eq!(shared.deliver(received(5)), Ok(()));
        shared.applied(5, Duration::ZERO);
        assert_eq!(shared.to_write(), None, "nobody took it");
        shared.take();
        assert_eq!(shared.deliver(received(6)), Ok(()));
        shared.applied(5, Duration::ZERO);
        assert_eq!(shared.deliver(received(5)), Err(6));
        let written = shared.to_write().unwrap();
        assert_eq!(written.revision, 5);
        shared.take();
        shared.applied(6, Duration::ZERO);
        shared.write_later(written);
        assert_eq!(shared.to_write().unwrap().revision, 6, "the newer one stays");
    }

    #[test]
    fn a_wake_up_that_cannot_be_written_is_none() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        shared(full).event(Level::Notice, "heard anyway".to_owned());
    }
}
