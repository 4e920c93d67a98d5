//! A copy of everything that is shown: what status and metrics are written from.
//!
//! A peer that changes its life while it is copied is left out; numbers of one peer may be of
//! neighbouring moments. Allocates: for status pages, never on the request path. Shows the
//! upstreams of the newest configuration. Cost: peers × workers loads. Bound: the zone's records.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::bodies::BodiesSnapshot;
use super::link::ConnectionState;
use super::peer::{Configured, Live, Peer, PeerState, WHYS};
use super::ticket::Signal;
use super::{Bytes, Class, Counter, ProcessId, Upstream, WorkerIdx, Zone};
use crate::breaker::State;
use crate::histogram::Snapshot as Times;
use crate::limit::{ClassSettings, Effective};
use crate::time::MonoNs;
use crate::trust::Distrust;

/// A worker and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSnapshot {
    /// Its process.
    pub process: ProcessId,
    /// The configuration it runs.
    pub generation: u32,
    /// Requests that are under way at any peer.
    pub in_flight: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// A peer.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// nginx's name of it, `10.0.0.1:8080`.
    pub name: String,
    /// The `server` parameter as written; its name again for an added peer.
    pub server: String,
    /// Weight of nginx.conf; 1 for an added peer.
    pub weight_configured: u32,
    /// Weight of the control plane.
    pub weight_live: Option<u32>,
    /// Weight in force.
    pub weight: u32,
    /// `max_conns` of nginx.conf.
    pub max_conns_configured: u32,
    /// `max_conns` of the control plane.
    pub max_conns_live: Option<u32>,
    /// `max_conns` in force; 0 = unlimited.
    pub max_conns: u32,
    /// State in force.
    pub state: PeerState,
    /// Whether nginx.conf declares it.
    pub declared: bool,
    /// Whether the control plane added it.
    pub added: bool,
    /// Whether it is a backup.
    pub backup: bool,
    /// Requests it may have in flight now: `max_conns`, or less while it starts slowly; 0 =
    /// unlimited.
    pub slots: u32,
    /// Requests that are under way, with a slot or without: 0 when a drain is done.
    pub in_flight: u32,
    /// Of these, the ones that hold no slot.
    pub without_slot: u32,
    /// Mean of the upstream's signal, ns; 0 = none yet.
    pub service_ns: u64,
    /// Mean time to the first byte, ns; 0 = none yet.
    pub first_byte_ns: u64,
    /// Mean time a slot is held, ns; 0 = none yet.
    pub hold_ns: u64,
    /// The breaker.
    pub breaker: State,
    /// Times the breaker opened.
    pub breaker_openings: u64,
    /// Requests sent to it, by [`crate::pick::Why`].
    pub picks: [u64; WHYS],
    /// Requests that failed.
    pub failures: u64,
    /// Requests that say nothing about it.
    pub neutral: u64,
    /// Times to the first byte.
    pub first_byte_times: Times,
    /// Times a slot was held by a request that succeeded.
    pub service_times: Times,
}

impl PeerSnapshot {
    /// Requests sent to it.
    pub fn requests(&self) -> u64 {
        self.picks.iter().sum()
    }
}

/// An upstream.
#[derive(Clone, Debug)]
pub struct UpstreamSnapshot {
    /// Its name.
    pub name: String,
    /// What service time means here.
    pub signal: Signal,
    /// Requests that wait.
    pub waiting: u32,
    /// Requests that may wait; 0 = no queue.
    pub queue_size: u32,
    /// Requests that waited too long.
    pub timeouts: u64,
    /// Requests that found the queue full.
    pub overflows: u64,
    /// Requests that found no eligible peer.
    pub no_peer: u64,
    /// Requests that found every peer full and could not wait.
    pub full: u64,
    /// Requests sent to its peers, those that are gone among them, by [`crate::pick::Why`].
    pub picks: [u64; WHYS],
    /// Times spent in the queue.
    pub queue_times: Times,
    /// Its peers.
    pub peers: Vec<PeerSnapshot>,
}

/// A class.
#[derive(Clone, Debug)]
pub struct ClassSnapshot {
    /// Its name.
    pub name: String,
    /// Whether nginx.conf declares it.
    pub declared: bool,
    /// Whether the control plane added it.
    pub added: bool,
    /// What nginx.conf says.
    pub configured: ClassSettings,
    /// What the control plane says.
    pub live: ClassSettings,
    /// What is in force.
    pub effective: Effective,
    /// Requests that hold something of it.
    pub in_flight: u32,
    /// Requests that wait in queues.
    pub waiting: u32,
    /// Requests that passed at once.
    pub passed: u64,
    /// Requests that passed after a delay.
    pub delayed: u64,
    /// Requests refused for their rate.
    pub rejected_rate: u64,
    /// Requests refused because as many as may be were in flight, or could not be counted.
    pub rejected_concurrency: u64,
    /// Requests that would have been refused but for `dry_run`.
    pub rejected_dry_run: u64,
    /// Bytes of responses.
    pub bytes: u64,
    /// Requests that found a queue full, or were evicted from it.
    pub queue_overflows: u64,
    /// Requests that waited too long.
    pub queue_timeouts: u64,
    /// Times spent in queues.
    pub queue_times: Times,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct ZoneSnapshot {
    /// Revision in force.
    pub revision: u64,
    /// Configuration generation.
    pub generation: u32,
    /// Upstreams and peers that the revision names and this node does not have.
    pub unknown: u64,
    /// The link to the control plane.
    pub connection: ConnectionState,
    /// Why the state file is refused, if it is.
    pub state_file_refused: Option<Distrust>,
    /// The worker that feeds the zone.
    pub feed: Option<ProcessId>,
    /// Counters of the zone, with their names.
    pub counters: Vec<Counter>,
    /// Live workers.
    pub workers: Vec<WorkerSnapshot>,
    /// Upstreams of the newest configuration.
    pub upstreams: Vec<UpstreamSnapshot>,
    /// Peer records free and in all.
    pub peers_free: (usize, usize),
    /// Classes of the newest configuration and of the control plane.
    pub classes: Vec<ClassSnapshot>,
    /// Class records free and in all.
    pub classes_free: (usize, usize),
    /// What became of request bodies.
    pub bodies: BodiesSnapshot,
}

impl Zone<'_> {
    /// Copies everything that is shown, at the moment `now`.
    pub fn snapshot(&self, now: MonoNs) -> ZoneSnapshot {
        let generation = self.header.generation();
        let newest = |upstream: &&Upstream| upstream.is_used() && upstream.generation.load(SeqCst) == generation;
        let feed = self.feed_holder().and_then(|w| self.workers.get(usize::from(w.0))?.owner());
        let indices = (0_u16..).map(WorkerIdx);
        ZoneSnapshot {
            revision: self.header.revision(),
            generation,
            unknown: self.header.unknown(),
            connection: self.feed_link(now),
            state_file_refused: self.header.state_file.refused(),
            feed,
            counters: self.counters(),
            workers: indices.zip(self.workers).filter_map(|(w, slot)| self.worker_snapshot(w, slot.owner()?)).collect(),
            upstreams: self
                .upstreams
                .iter()
                .filter(newest)
                .map(|upstream| self.upstream_snapshot(upstream, now))
                .collect(),
            peers_free: (self.peers_free(), self.peers.len()),
            classes: self.classes.iter().filter_map(|class| class.snapshot(generation)).collect(),
            classes_free: (self.classes_free(), self.classes.len()),
            bodies: self.header.bodies.snapshot(),
        }
    }

    fn worker_snapshot(&self, w: WorkerIdx, process: ProcessId) -> Option<WorkerSnapshot> {
        let column = usize::from(w.0);
        let waiting =
            |upstream: &Upstream| upstream.workers.get(column).map_or(0, |worker| worker.waiting.load(SeqCst));
        Some(WorkerSnapshot {
            process,
            generation: self.workers.get(column)?.generation(),
            in_flight: self.peers.iter().map(|peer| peer.under_way_of(column)).sum(),
            waiting: self.upstreams.iter().map(waiting).sum(),
        })
    }

    fn upstream_snapshot(&self, upstream: &Upstream, now: MonoNs) -> UpstreamSnapshot {
        let high = self.workers_high();
        let waiting = upstream.workers.iter().take(high).map(|worker| worker.waiting.load(SeqCst));
        let peers: Vec<_> = self.linked(upstream).filter_map(|(_, _, peer)| peer.snapshot(high, now)).collect();
        let of_gone = |why: usize| upstream.counters.picks[why].load(Relaxed);
        let picked = |why: usize| peers.iter().fold(of_gone(why), |sum, peer| u64::wrapping_add(sum, peer.picks[why]));
        UpstreamSnapshot {
            name: text(&upstream.name),
            signal: upstream.signal(),
            waiting: waiting.fold(0, u32::wrapping_add),
            queue_size: upstream.queue_size.load(SeqCst),
            timeouts: upstream.counters.timeouts.load(Relaxed),
            overflows: upstream.counters.overflows.load(Relaxed),
            no_peer: upstream.counters.no_peer.load(Relaxed),
            full: upstream.counters.full.load(Relaxed),
            picks: core::array::from_fn(picked),
            queue_times: upstream.queue_times.snapshot(),
            peers,
        }
    }
}

impl Peer {
    fn snapshot(&self, high: usize, now: MonoNs) -> Option<PeerSnapshot> {
        let (live, without_slot) = (self.live(), self.beside(high));
        let over = |value: &AtomicU32| value.load(SeqCst).checked_sub(1);
        let copy = PeerSnapshot {
            name: text(&self.name),
            server: text(&self.server),
            weight_configured: self.configured.weight.load(SeqCst),
            weight_live: over(&self.overrides.weight),
            weight: live.weight(),
            max_conns_configured: self.configured.max_conns.load(SeqCst),
            max_conns_live: over(&self.overrides.max_conns),
            max_conns: live.max_conns(),
            state: live.state(),
            declared: self.configured.is(Configured::DECLARED),
            added: self.overrides.added.load(SeqCst) != 0,
            backup: live.is(Live::BACKUP),
            slots: self.slow_start.slots(live.max_conns(), 0, now),
            in_flight: self.in_flight(high).wrapping_add(without_slot),
            without_slot,
            service_ns: self.means.service_ns.load(Relaxed),
            first_byte_ns: self.first_byte.mean_ns(),
            hold_ns: self.means.hold_ns.load(Relaxed),
            breaker: self.breaker.state(now),
            breaker_openings: self.counters.breaker_openings.load(Relaxed),
            picks: core::array::from_fn(|why| self.counters.picks[why].load(Relaxed)),
            failures: self.counters.failures.load(Relaxed),
            neutral: self.counters.neutral.load(Relaxed),
            first_byte_times: self.first_byte_times.snapshot(),
            service_times: self.service_times.snapshot(),
        };
        // A changed generation means that the copy mixes two lives.
        let now_live = self.live();
        (now_live.linked() && now_live.generation() == live.generation()).then_some(copy)
    }
}

impl Class {
    /// A copy, if the configuration `generation` or the control plane has it.
    fn snapshot(&self, generation: u32) -> Option<ClassSnapshot> {
        let (life, counters) = (self.generation(), &self.counters);
        let load = |count: &AtomicU64| count.load(Relaxed);
        let copy = ClassSnapshot {
            name: text(&self.name),
            declared: self.declared.load(SeqCst) != 0,
            added: self.added.load(SeqCst) != 0,
            configured: self.configured.load(),
            live: self.live.load(),
            effective: self.effective(),
            in_flight: self.in_flight(),
            waiting: self.waiting(),
            passed: self.passed(),
            delayed: load(&counters.delayed),
            rejected_rate: load(&counters.rejected_rate),
            rejected_concurrency: load(&counters.rejected_concurrency),
            rejected_dry_run: load(&counters.rejected_dry_run),
            bytes: load(&counters.bytes),
            queue_overflows: load(&counters.queue_overflows),
            queue_timeouts: load(&counters.queue_timeouts),
            queue_times: self.queue_times.snapshot(),
        };
        (self.exists_for(generation) && self.generation() == life).then_some(copy)
    }
}

fn text<const WORDS: usize>(bytes: &Bytes<WORDS>) -> String {
    String::from_utf8_lossy(&bytes.to_vec()).into_owned()
}
