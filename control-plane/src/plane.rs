//! The control plane's one state: settings, store and fleet, and the order in which they change.
//!
//! A change is planned, written to disk, then published, one at a time and to its end even if the
//! caller leaves. Readers take the published value without waiting. Published values go out through
//! a channel that holds the latest value: a stream that doesn't read blocks no other stream and
//! misses only the states between. A node is never sent a lower revision than it has.
//! Cost: one fsync a change. Bound: those of `model`, `plan` and `fleet`; `MADE_MAX` remembered
//! times.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use pincer_proto::{google::rpc, v1};
use tokio::{sync::watch, task};

use crate::{
    fleet::{Fleet, ForgetError, JoinError, Joined, Session},
    hello::Hello,
    metrics::{Metrics, Outcome},
    model::{Changes, Config},
    plan::{self, Op},
    purge::Purges,
    refusal::Refusal,
    store::{NodeRecord, Store, StoreError},
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
    fn new(config: Config) -> Arc<Self> {
        let snapshot = config.snapshot();
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
    /// The disk's fault. Nothing was published.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process is ending.
    #[error("the change was not finished: {0}")]
    Stopped(#[from] task::JoinError),
}

/// Why a node wasn't forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetNodeError {
    /// The caller's fault.
    #[error(transparent)]
    Refused(#[from] ForgetError),
    /// The disk's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// Purges that nodes have not finished.
    pub purges: Arc<Purges>,
    /// The counters.
    pub metrics: Metrics,
}

/// Seconds since 1970, to be shown.
pub fn wall_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}

impl Plane {
    /// Loads the state from the store.
    pub fn open(store: Store) -> Result<Arc<Self>, StoreError> {
        let config = store.load()?;
        let fleet = Fleet::restored(store.load_nodes()?);
        let metrics = Metrics::default();
        metrics.revision.set(config.revision);
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
            purges: Arc::default(),
            metrics,
        }))
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
            Err(_) => Outcome::Failed,
        });
        done
    }

    async fn change_in_turn(&self, op: &Op, validate_only: bool) -> Result<Changed, ChangeError> {
        let _turn = self.writing.lock().await;
        let (current, declared) = (self.current(), self.with_fleet(Fleet::declared));
        let changes = plan::plan_all(op, &current.config, &declared)?;
        let revision = current.config.revision.max(self.floor.load(Ordering::Acquire)) + 1;
        let next = current.config.with_all(&changes, revision, wall_s());
        next.check().map_err(Refusal::from)?;
        if changes.is_empty() || validate_only {
            let config = unstamped(next, &changes, current.config.revision);
            return Ok(Changed { revision: current.config.revision, config, changes });
        }
        let (store, config, written) = (Arc::clone(&self.store), next.clone(), changes.clone());
        task::spawn_blocking(move || store.commit(&config, &written)).await??;
        self.publish(&next);
        Ok(Changed { revision, config: next, changes })
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
        self.change_fleet(|fleet| fleet.join(hello, wall_s()))
    }

    /// Stores the declarations of nodes. If the disk refuses, they are known only until the process
    /// ends.
    pub async fn keep_nodes(&self, names: &[String]) {
        for name in names {
            if let Err(error) = self.keep_node(name).await {
                tracing::error!(node = name, %error, "pincer: cannot store the declarations of a node");
            }
        }
    }

    /// Writes a node as the fleet has it now.
    async fn keep_node(&self, name: &str) -> Result<(), ForgetNodeError> {
        let _turn = self.writing.lock().await;
        let record = self.with_fleet(|fleet| fleet.nodes().get(name).map(|node| node.record.clone()));
        self.put_node(name.to_owned(), record).await
    }

    async fn put_node(&self, name: String, record: Option<NodeRecord>) -> Result<(), ForgetNodeError> {
        let store = Arc::clone(&self.store);
        Ok(task::spawn_blocking(move || store.put_node(&name, record.as_ref())).await??)
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
            plane.put_node(name.clone(), None).await?;
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
        self.change_fleet(|fleet| fleet.leave(session, wall_s()));
    }
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
