//! The control plane's one state: settings, store and fleet, and the order in which they change.
//!
//! A change is planned, written to disk, then published, one at a time and to its end even if the
//! caller leaves. If the store fails, it is opened and read again before the next change is
//! planned, so a change whose outcome was unknown is in force or gone before anything is answered.
//! Readers take the published value without waiting. Published values go out through a channel that
//! holds the latest value: a stream that doesn't read blocks no other stream and misses only the
//! states between. A node is never sent a lower revision than it has.
//! Cost: one fsync a change. Bound: those of `model`, `plan` and `fleet`; `MADE_MAX` remembered
//! times.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pincer_proto::{google::rpc, v1};
use tokio::{sync::watch, task};

use crate::{
    clock::Clock,
    fleet::{Fleet, ForgetError, JoinError, Joined, Session},
    hello::Hello,
    metrics::{Metrics, Outcome},
    model::{Changes, Config},
    plan::{self, Op},
    purge::Purges,
    refusal::Refusal,
    store::{NodeRecord, Store, StoreError, WriteError},
};

/// Revisions whose time is remembered, to tell how long an Ack took.
const MADE_MAX: usize = 256;

/// A revision, as nodes and operators see it.
#[derive(Debug)]
pub struct Published {
    /// The settings.
    pub config: Config,
    /// The same, for nodes.
    pub snapshot: v1::Snapshot,
}

impl Published {
    /// What a revision holds does not depend on when it is read: secrets expire in the next one.
    fn new(config: Config) -> Arc<Self> {
        let snapshot = config.snapshot(config.created_s);
        Arc::new(Self { config, snapshot })
    }
}

/// A change that was made, or would be.
#[derive(Debug)]
pub struct Changed {
    /// The revision in force.
    pub revision: u64,
    /// The settings with the change.
    pub config: Config,
    /// The changes; empty if nothing changed.
    pub changes: Changes,
}

/// Why a change wasn't made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The caller's fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk's fault. The change was not made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk's fault. The change may be made or not.
    #[error(
        "the outcome of this change is unknown: the store failed while it was written ({0}); \
         read what you changed again once pincerd is ready, before you repeat the change"
    )]
    Unknown(StoreError),
    /// The process is ending.
    #[error("the change was not finished: {0}")]
    Stopped(#[from] task::JoinError),
}

impl From<WriteError> for ChangeError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotMade(error) => Self::Store(error),
            WriteError::Unknown(error) => Self::Unknown(error),
        }
    }
}

/// Why a node wasn't forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetNodeError {
    /// The caller's fault.
    #[error(transparent)]
    Refused(#[from] ForgetError),
    /// The disk's fault.
    #[error(transparent)]
    Store(#[from] WriteError),
    /// The process is ending.
    #[error("the change was not finished: {0}")]
    Stopped(#[from] task::JoinError),
}

/// The state that all services share.
#[derive(Debug)]
pub struct Plane {
    store: Arc<Store>,
    writing: tokio::sync::Mutex<()>,
    published: watch::Sender<Arc<Published>>,
    made: Mutex<VecDeque<(u64, Instant)>>,
    fleet: Mutex<Fleet>,
    fleet_version: watch::Sender<u64>,
    /// The highest revision that any node has reported as applied. The next revision is above it.
    floor: AtomicU64,
    stopping: watch::Sender<bool>,
    /// Why the store takes no changes; `None` while it does.
    trouble: watch::Sender<Option<String>>,
    /// Nodes whose records the store does not have yet.
    unstored: Mutex<BTreeSet<String>>,
    /// Purges that nodes have not finished.
    pub purges: Arc<Purges>,
    /// The counters.
    pub metrics: Metrics,
    clock: Clock,
}

impl Plane {
    /// Loads the state from the store.
    pub fn open(store: Store) -> Result<Arc<Self>, StoreError> {
        let config = store.load()?;
        let fleet = Fleet::restored(store.load_nodes()?);
        let (metrics, clock) = (Metrics::default(), Clock::default());
        metrics.revision.set(config.revision);
        metrics.store_usable.set(1);
        let (revision, published) = (config.revision, Published::new(config));
        metrics.keys.set(published.snapshot.keys.len() as u64);
        metrics.nodes_known.set(fleet.nodes().len() as u64);
        Ok(Arc::new(Self {
            store: Arc::new(store),
            writing: tokio::sync::Mutex::new(()),
            made: Mutex::new(VecDeque::from([(revision, Instant::now())])),
            published: watch::Sender::new(published),
            fleet_version: watch::Sender::new(fleet.version()),
            fleet: Mutex::new(fleet),
            floor: AtomicU64::new(0),
            stopping: watch::Sender::new(false),
            trouble: watch::Sender::new(None),
            unstored: Mutex::default(),
            purges: Arc::default(),
            metrics,
            clock,
        }))
    }

    /// Seconds since 1970, by a clock that believes no step at once.
    pub fn now_s(&self) -> i64 {
        self.clock.now_s(&self.metrics)
    }

    /// The revision in force.
    pub fn current(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// Receives every revision; only the newest is kept.
    pub fn revisions(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// Receives the fleet's version when nodes change.
    pub fn fleet_versions(&self) -> watch::Receiver<u64> {
        self.fleet_version.subscribe()
    }

    /// Reads the fleet. `look` must be short, since messages of nodes wait for it.
    pub fn with_fleet<T>(&self, look: impl FnOnce(&Fleet) -> T) -> T {
        look(&self.fleet.lock())
    }

    /// Becomes true when the process is to end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Ends every stream.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Makes a change, or only checks it. When this returns, the change is on disk and published to
    /// all nodes.
    pub async fn change(self: &Arc<Self>, op: Op, validate_only: bool) -> Result<Changed, ChangeError> {
        let plane = Arc::clone(self);
        let done = task::spawn(async move { plane.change_in_turn(&op, validate_only).await }).await;
        let done = done.map_err(ChangeError::from).and_then(|changed| changed);
        self.metrics.count_change(match &done {
            Ok(_) if validate_only => Outcome::Checked,
            Ok(changed) if changed.changes.is_empty() => Outcome::Unchanged,
            Ok(_) => Outcome::Made,
            Err(ChangeError::Refused(_)) => Outcome::Refused,
            Err(ChangeError::Unknown(_)) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        });
        done
    }

    async fn change_in_turn(&self, op: &Op, validate_only: bool) -> Result<Changed, ChangeError> {
        let _turn = self.writing.lock().await;
        self.settle().await?;
        let (current, declared) = (self.current(), self.with_fleet(Fleet::declared));
        let changes = plan::plan_all(op, &current.config, &declared)?;
        let revision = self.next_revision();
        let next = current.config.with_all(&changes, revision, self.now_s());
        next.check(next.created_s).map_err(Refusal::from)?;
        if changes.is_empty() || validate_only {
            let config = unstamped(next, &changes, current.config.revision);
            return Ok(Changed { revision: current.config.revision, config, changes });
        }
        let (store, config, written) = (Arc::clone(&self.store), next.clone(), changes.clone());
        match task::spawn_blocking(move || store.commit(&config, &written)).await? {
            Ok(()) => self.publish(&next),
            Err(error) => self.settle_failed(revision, error).await?,
        }
        Ok(Changed { revision, config: next, changes })
    }

    /// Makes a revision if secrets of keys have expired since the last one, or have not expired
    /// after all because the clock was wrong. Returns it. Changes no record.
    pub async fn follow_clock(self: &Arc<Self>) -> Result<Option<u64>, ChangeError> {
        let plane = Arc::clone(self);
        task::spawn(async move { plane.follow_clock_in_turn().await }).await?
    }

    async fn follow_clock_in_turn(&self) -> Result<Option<u64>, ChangeError> {
        let _turn = self.writing.lock().await;
        let (current, now_s) = (self.current(), self.now_s());
        if current.config.snapshot(now_s).keys == current.snapshot.keys {
            return Ok(None);
        }
        self.settle().await?;
        let changes = Changes::default();
        let config = self.current().config.with_all(&changes, self.next_revision(), now_s);
        let (store, revision, next) = (Arc::clone(&self.store), config.revision, config.clone());
        match task::spawn_blocking(move || store.commit(&config, &changes)).await? {
            Ok(()) => self.publish(&next),
            Err(error) => self.settle_failed(revision, error).await?,
        }
        Ok(Some(revision))
    }

    fn next_revision(&self) -> u64 {
        self.current().config.revision.max(self.floor.load(Ordering::Acquire)) + 1
    }

    /// Finds out whether a change is in the store whose writing failed. `Ok`: it is, and is
    /// published.
    async fn settle_failed(&self, revision: u64, error: WriteError) -> Result<(), ChangeError> {
        self.trouble.send_replace(Some(error.to_string()));
        let settled = self.settle().await;
        match error {
            WriteError::Unknown(_) if settled.is_ok() && self.current().config.revision == revision => Ok(()),
            WriteError::Unknown(error) if settled.is_ok() => Err(ChangeError::Store(error)),
            error => Err(error.into()),
        }
    }

    /// Opens the store again and reads it, if its last write failed. The caller has the turn.
    async fn settle(&self) -> Result<(), StoreError> {
        if !self.store.is_in_doubt() {
            return Ok(());
        }
        let (store, current) = (Arc::clone(&self.store), self.current());
        let read = task::spawn_blocking(move || reread(&store, &current.config));
        let read = read.await.unwrap_or_else(|_| Err(self.store.unreadable()));
        match read {
            Ok(read) => {
                self.store.settled();
                if let Some(config) = read {
                    tracing::warn!(
                        revision = config.revision,
                        "pincer: a change whose outcome was unknown is in force"
                    );
                    self.publish(&config);
                }
                tracing::info!(revision = self.current().config.revision, "pincer: the store is usable again");
                self.trouble.send_replace(None);
                self.metrics.store_usable.set(1);
                Ok(())
            }
            Err(error) => {
                self.trouble.send_replace(Some(error.to_string()));
                self.metrics.store_usable.set(0);
                Err(error)
            }
        }
    }

    /// Looks at the store, opens it again if it failed, and stores the nodes that wait for it.
    /// Returns whether it takes changes.
    pub async fn look_after_store(&self) -> bool {
        let _turn = self.writing.lock().await;
        let looked = match self.settle().await {
            Ok(()) => self.store.check_place(),
            Err(error) => Err(error),
        };
        let trouble = looked.as_ref().err().map(ToString::to_string);
        let is_news = self.trouble.send_if_modified(|before| {
            let is_news = *before != trouble;
            before.clone_from(&trouble);
            is_news
        });
        self.metrics.store_usable.set(looked.is_ok().into());
        if let Some(error) = trouble.filter(|_| is_news) {
            tracing::error!(error, "pincer: the store takes no changes; nodes keep what they have");
        }
        if looked.is_ok() {
            let names: Vec<_> = std::mem::take(&mut *self.unstored.lock()).into_iter().collect();
            self.put_known(names).await;
        }
        looked.is_ok()
    }

    /// Receives why the store takes no changes; `None` while it does.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    fn publish(&self, config: &Config) {
        let mut made = self.made.lock();
        if made.len() == MADE_MAX {
            made.pop_front();
        }
        made.push_back((config.revision, Instant::now()));
        drop(made);
        self.metrics.revision.set(config.revision);
        let published = Published::new(config.clone());
        self.metrics.keys.set(published.snapshot.keys.len() as u64);
        self.published.send_replace(published);
    }

    /// Accepts a node's stream. The holder of the session must call [`Plane::leave`] at its end.
    /// The stream is sent revisions only after [`Plane::keep_nodes`].
    pub fn join(&self, hello: Hello) -> Result<Joined, JoinError> {
        self.floor.fetch_max(hello.applied_revision, Ordering::AcqRel);
        self.change_fleet(|fleet| fleet.join(hello, self.now_s()))
    }

    /// Stores the declarations of nodes. If the disk refuses, they are stored when it takes changes
    /// again.
    pub async fn keep_nodes(&self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let _turn = self.writing.lock().await;
        self.put_known(names.to_vec()).await;
    }

    /// Writes nodes as the fleet has them now. The caller has the turn.
    async fn put_known(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let record = |fleet: &Fleet, name: &String| fleet.nodes().get(name).map(|node| node.record.clone());
        let records = self.with_fleet(|fleet| names.iter().map(|name| (name.clone(), record(fleet, name))).collect());
        if let Err(error) = self.put_nodes(records).await {
            tracing::error!(nodes = names.join(" "), %error, "pincer: cannot store the declarations of nodes yet");
            self.unstored.lock().extend(names);
        }
    }

    async fn put_nodes(&self, nodes: Vec<(String, Option<NodeRecord>)>) -> Result<(), ForgetNodeError> {
        let store = Arc::clone(&self.store);
        let written = task::spawn_blocking(move || store.put_nodes(&nodes)).await?;
        if let Err(error) = &written {
            self.trouble.send_replace(Some(error.to_string()));
        }
        Ok(written?)
    }

    /// Forgets a node that is away.
    pub async fn forget(self: &Arc<Self>, name: String, validate_only: bool) -> Result<(), ForgetNodeError> {
        let plane = Arc::clone(self);
        let forget = async move {
            let _turn = plane.writing.lock().await;
            plane.with_fleet(|fleet| fleet.check_forget(&name))?;
            if validate_only {
                return Ok(());
            }
            plane.put_nodes(vec![(name.clone(), None)]).await?;
            Ok(plane.change_fleet(|fleet| fleet.forget(&name))?)
        };
        task::spawn(forget).await?
    }

    fn change_fleet<T>(&self, change: impl FnOnce(&mut Fleet) -> T) -> T {
        let mut fleet = self.fleet.lock();
        let before = fleet.version();
        let done = change(&mut fleet);
        let version = fleet.version();
        self.metrics.nodes_known.set(fleet.nodes().len() as u64);
        if version != before {
            let connected = fleet.nodes().values().filter(|node| node.is_connected()).count();
            self.metrics.nodes_connected.set(connected as u64);
            self.fleet_version.send_replace(version);
        }
        done
    }

    /// Notes a node's Ack. `since` is when its stream began.
    pub fn ack(&self, session: &Session, revision: u64, since: Instant, apply: Option<Duration>) {
        self.metrics.acks.inc();
        let made = self.made.lock().iter().rev().find(|(r, _)| *r == revision).map(|(_, at)| *at);
        let latency = made.map(|made| made.max(since).elapsed());
        if let Some(latency) = latency {
            self.metrics.ack_seconds.observe(latency.as_secs_f64());
        }
        self.change_fleet(|fleet| fleet.ack(session, revision, latency, apply));
    }

    /// Notes a node's Nack.
    pub fn nack(&self, session: &Session, revision: u64, error: rpc::Status) {
        self.metrics.nacks.inc();
        self.change_fleet(|fleet| fleet.nack(session, revision, error));
    }

    /// Keeps the statistics of a node's peers and classes.
    pub fn stats(&self, session: &Session, stats: v1::Stats) {
        self.change_fleet(|fleet| fleet.stats(session, stats));
    }

    /// Ends a stream.
    pub fn leave(&self, session: &Session) {
        self.change_fleet(|fleet| fleet.leave(session, self.now_s()));
    }
}

/// Opens the store again and reads it. `Some`: it has a newer revision than `current`, whose
/// outcome was unknown.
fn reread(store: &Store, current: &Config) -> Result<Option<Config>, StoreError> {
    store.reopen()?;
    let read = store.load()?;
    if read == *current {
        return Ok(None);
    }
    if read.revision > current.revision {
        return Ok(Some(read));
    }
    let error = store.behind(read.revision, current.revision);
    store.distrust(&error);
    Err(error)
}

/// `config` with the revisions from before `changes`, for the response to a change that was only
/// checked.
fn unstamped(mut config: Config, changes: &Changes, revision: u64) -> Config {
    config.revision = revision;
    for change in &changes.classes {
        if let Some(record) = config.classes.get_mut(&change.id) {
            record.revision = change.before.map_or(0, |before| before.revision);
        }
    }
    for change in &changes.keys {
        if let Some(record) = config.keys.get_mut(&change.id) {
            record.revision = change.before.as_ref().map_or(0, |before| before.revision);
        }
    }
    for change in &changes.peers {
        let record = config.upstreams.get_mut(&change.upstream).and_then(|peers| peers.get_mut(&change.address));
        if let Some(record) = record {
            record.revision = change.before.map_or(0, |before| before.revision);
        }
    }
    config
}

#[cfg(test)]
#[path = "plane_tests.rs"]
mod tests;
