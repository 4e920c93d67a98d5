//! What the module does with the core for each request: the one place that knows pincer-core's API.
//!
//! Follows ngx-module/src/ffi: balancer.rs (`get`, `free`), queue.rs (park, kick, drain, tick,
//! timeout), first_byte.rs (header, first byte) and zone.rs (reload). What an attempt says about
//! its peer is decided by the module's own file, phase/outcome.rs, which is compiled in here. Not
//! modelled: affinity, classes, backups, stale keepalive connections.

#[path = "../../../../src/phase/outcome.rs"]
#[allow(dead_code, reason = "stale connections are not modelled")]
mod outcome;
mod queue;
mod shown;

use super::world::{MS, S, World};
pub(crate) use outcome::Facts;
use outcome::{SWITCHING_PROTOCOLS, is_good, outcome};
use pincer_core::estimate::HALF_LIFE_NS;
use pincer_core::limit::KeyHash;
use pincer_core::pick::{Demand, EXPLORE_ONE_IN, PeerSet, THETA, Why};
use pincer_core::time::MonoNs;
use pincer_core::turn::Terms;
use pincer_core::zone::{
    BalanceParams, Claim, Fingerprint, HeapZone, NAME_MAX, Outcome, PeerSpec, Plan, ProcessId, QueueClass, Quick,
    Settings, Signal, Ticket, UpstreamIdx, WorkerIdx, Zone,
};
pub use shown::Shown;
use std::collections::VecDeque;

/// The clock at the world's start: not zero, since 0 means "never" in the cells.
const START_NS: u64 = 1_000_000 * MS;
const QUEUE_SIZE: u32 = 500;
pub const TICK_NS: u64 = 40 * MS;
/// From a kick to the drain of the other worker. A healthy loop answers in 0.1 ms.
const KICK_NS: u64 = MS / 10;
const KICK_STALE_NS: u64 = 30 * MS;
const RESUMES_MAX: usize = 64;

const PARAMS: BalanceParams =
    BalanceParams { signal: Signal::FirstByte, half_life_ns: HALF_LIFE_NS, slow_start_ns: 0, theta: THETA };

/// Makes a fault of our own in the module, so that the invariants can be seen to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Every hundredth slot is not given back.
    Leak,
    /// A slot that becomes free wakes nobody.
    NoKick,
}

/// An event that the module wants to happen in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Drain { worker: usize, after_ns: u64 },
    Tick { worker: usize, after_ns: u64 },
}

/// What `get` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// The peer, as the world's replica.
    Bound(usize),
    Parked,
    /// nginx answers 502.
    Busy,
}

/// A request's record, as ffi/balance/request.rs has it.
#[derive(Default)]
pub struct Record {
    worker: usize,
    number: u64,
    tried: PeerSet,
    ticket: Option<Ticket>,
    header_ns: Option<u64>,
    first_byte_ns: Option<u64>,
    /// (cell, sequence) while it waits.
    place: Option<(u8, u64)>,
    parked_at: MonoNs,
    /// Attempts that nginx may still make.
    tries: u32,
}

impl Record {
    /// Whether the core chose this peer in order to learn about it.
    pub fn is_look(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.why == Why::Explore)
    }
    /// nginx's `pc->tries`.
    pub fn tries_left(&self) -> u32 {
        self.tries
    }
    /// Time from the claim, for [`Facts`].
    fn since_claim(&self, now: MonoNs) -> u64 {
        self.ticket.as_ref().map_or(0, |ticket| now.since(ticket.start))
    }
}

struct Worker<'z> {
    at: WorkerIdx,
    plan: Plan<'z>,
    numbers: u64,
    /// Requests that wait here, oldest first: (sequence, request). All are of one class, so of one
    /// cell.
    waiting: VecDeque<(u64, usize)>,
    /// When the queue's timer runs out.
    tick_at: Option<MonoNs>,
    is_drain_posted: bool,
    holds: u32,
    /// An older configuration's: takes no new requests, and leaves when its last one has ended.
    is_leaving: bool,
}

pub struct Module<'z> {
    zone: Zone<'z>,
    upstream: UpstreamIdx,
    can_wait: bool,
    tries: u32,
    workers: Vec<Worker<'z>>,
    worker_count: usize,
    next_worker: usize,
    random: u64,
    /// What workers that have left still counted.
    leaked: u32,
    pub records: Vec<Record>,
    pub wakes: Vec<Wake>,
    pub sabotage: Sabotage,
}

/// Room for every replica of a world and those that it replaces.
pub fn zone() -> HeapZone {
    HeapZone::new(1, 24)
}

fn clock(at: u64) -> MonoNs {
    MonoNs(START_NS + at)
}

fn terms(_: QueueClass) -> Terms {
    Terms::default()
}

impl<'z> Module<'z> {
    pub fn new(zone: Zone<'z>, world: &World, requests: usize) -> Self {
        let mut module = Self {
            zone,
            upstream: UpstreamIdx(0),
            can_wait: world.queue_timeout_ns.is_some(),
            tries: world.tries,
            workers: vec![],
            worker_count: world.workers,
            next_worker: 0,
            random: world.seed | 1,
            leaked: 0,
            records: (0..requests).map(|_| Record::default()).collect(),
            wakes: vec![],
            sabotage: Sabotage::None,
        };
        module.reload(world, 0);
        module
    }

    /// A start or reload of nginx: the replicas that are there now are its `server` lines.
    pub fn reload(&mut self, world: &World, at: u64) {
        let names: Vec<String> = (0..world.replicas.len()).map(|index| format!("r{index}")).collect();
        let there = world.replicas.iter().zip(&names).filter(|(replica, _)| replica.is_in(at));
        let specs: Vec<PeerSpec<'_>> = there
            .map(|(replica, name)| PeerSpec {
                sockaddr: name.as_bytes(),
                name: name.as_bytes(),
                server: name.as_bytes(),
                weight: replica.weight,
                max_conns: replica.max_conns,
                lines: 1,
                max_fails: if world.fail_timeout_ns.is_some() { 3 } else { 1 },
                max_fails_explicit: world.fail_timeout_ns.is_some(),
                fail_timeout_ms: u32::try_from(world.fail_timeout_ns.unwrap_or(10 * S) / MS).unwrap(),
                backup: false,
                down: false,
            })
            .collect();
        let settings = Settings { queue_size: if self.can_wait { QUEUE_SIZE } else { 0 }, signal: PARAMS.signal };
        let generation = self.zone.header.generation_begin();
        self.upstream = self.zone.upstream_reserve(b"llm").unwrap();
        self.zone.upstream_configure(self.upstream, &settings, &specs, clock(at)).unwrap();
        self.zone.retire(clock(at));
        for index in 0..self.workers.len() {
            self.workers[index].is_leaving = true;
            self.leave_if_idle(index);
        }
        for _ in 0..self.worker_count {
            let pid = u32::try_from(self.workers.len()).unwrap() + 1;
            let joined = self.zone.worker_join(ProcessId { pid, start: 1 }, generation).unwrap();
            let numbers = self.chance() >> 1;
            self.workers.push(Worker {
                at: joined,
                plan: Plan::new(),
                numbers,
                waiting: VecDeque::new(),
                tick_at: None,
                is_drain_posted: false,
                holds: 0,
                is_leaving: false,
            });
        }
    }

    fn leave_if_idle(&mut self, index: usize) {
        let worker = &self.workers[index];
        // A worker that has left holds `u32::MAX`.
        if worker.is_leaving && worker.holds == 0 && worker.waiting.is_empty() {
            let reclaimed = self.zone.worker_leave(worker.at);
            self.leaked += reclaimed.requests + reclaimed.waiting;
            self.workers[index].holds = u32::MAX;
        }
    }

    /// xorshift64.
    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A request comes to the upstream: balancer.rs `init_peer`.
    pub fn init(&mut self, r: usize) {
        let first = self.workers.len() - self.worker_count;
        let worker = first + self.next_worker % self.worker_count;
        self.next_worker += 1;
        self.workers[worker].numbers += 1;
        let tries = self.zone.upstream(self.upstream).map_or(1, |upstream| upstream.tries()).min(self.tries);
        self.records[r] = Record { worker, number: self.workers[worker].numbers, tries, ..Record::default() };
    }

    /// nginx wants a peer: balancer.rs `get`.
    pub fn get(&mut self, r: usize, at: u64) -> Got {
        let now = clock(at);
        let (zone, u) = (self.zone, self.upstream);
        let record = &self.records[r];
        let w = record.worker;
        if !self.can_wait || !zone.any_waiting(u) {
            let mut lost = false;
            if record.tried == 0 {
                let explores = record.number.is_multiple_of(EXPLORE_ONE_IN);
                let worker = &mut self.workers[w];
                match zone.claim_quick(u, worker.at, &mut worker.plan, explores, &PARAMS, now) {
                    Quick::Taken(ticket) => return Got::Bound(self.bind(r, ticket)),
                    Quick::Undecided => {}
                    Quick::Lost => lost = true,
                }
            }
            let claimed = zone.claim(u, self.workers[w].at, &self.demand(r, 1, 0), &PARAMS, now);
            if (claimed.kick || lost) && self.can_wait {
                self.kick(w, now);
            }
            match claimed.claim {
                Claim::Taken(ticket) => return Got::Bound(self.bind(r, ticket)),
                Claim::Full | Claim::NoPeer => return Got::Busy,
                Claim::Wait if !self.can_wait => return Got::Busy,
                Claim::Wait => {}
            }
        }
        self.park(r, now)
    }

    fn demand(&self, r: usize, queued: u32, waited_ns: u64) -> Demand {
        let record = &self.records[r];
        Demand {
            queued,
            can_wait: self.can_wait,
            tried: record.tried,
            random: record.number,
            waited_ns,
            ..Demand::default()
        }
    }

    fn bind(&mut self, r: usize, ticket: Ticket) -> usize {
        let mut name = [0; NAME_MAX];
        let name = self.zone.peer(ticket.peer).unwrap().name(&mut name);
        let replica = std::str::from_utf8(&name[1..]).unwrap().parse().unwrap();
        let record = &mut self.records[r];
        (record.ticket, record.header_ns, record.first_byte_ns) = (Some(ticket), None, None);
        self.workers[record.worker].holds += 1;
        replica
    }

    /// The header is here: first_byte.rs `observe`.
    pub fn header(&mut self, r: usize, status: usize, has_body: bool, at: u64) {
        let record = &mut self.records[r];
        record.header_ns = Some(record.since_claim(clock(at)).max(1));
        let w = record.worker;
        let Some(ticket) = record.ticket.as_mut() else { return };
        if status == SWITCHING_PROTOCOLS {
            self.zone.upgraded(ticket, self.workers[w].at, &PARAMS, clock(at));
            if self.can_wait {
                self.kick(w, clock(at));
            }
        } else if !has_body {
            self.zone.signal_seen(ticket, self.workers[w].at);
        }
    }

    /// The body's first byte is here: first_byte.rs `seen`.
    ///
    /// Kicks nobody, as the module: where a first byte makes room for others (the end of a trial, a
    /// ramp that doubles), those who wait see it at the next release or tick.
    pub fn first_byte(&mut self, r: usize, status: usize, at: u64) {
        let now = clock(at);
        let record = &mut self.records[r];
        let first_byte_ns = record.since_claim(now).max(1);
        let w = record.worker;
        let worker = self.workers[w].at;
        let Some(ticket) = record.ticket.as_mut() else { return };
        if is_good(status) {
            self.zone.first_byte_seen(ticket, worker, first_byte_ns, &PARAMS, now);
        } else {
            self.zone.signal_seen(ticket, worker);
        }
        record.first_byte_ns = Some(first_byte_ns);
        if self.can_wait {
            self.kick(w, now);
        }
    }

    /// nginx is done with the peer, or with the wait for one: balancer.rs `free`.
    pub fn free(&mut self, r: usize, facts: Facts, at: u64) {
        let now = clock(at);
        let record = &mut self.records[r];
        record.tries = record.tries.saturating_sub(1);
        if record.place.is_some() {
            self.unpark(r);
            return self.kick(self.records[r].worker, now);
        }
        let held_ns = record.since_claim(now);
        let Some(ticket) = record.ticket.take() else { return };
        let (header_ns, first_byte_ns) = (record.header_ns, record.first_byte_ns);
        let facts = Facts { header_ns, first_byte_ns, held_ns, ..facts };
        if facts.failed && (!facts.cached || facts.status != 0) {
            record.tried |= 1 << ticket.index;
        }
        let w = record.worker;
        self.workers[w].holds -= 1;
        if self.sabotage != Sabotage::Leak || !record.number.is_multiple_of(100) {
            let outcome = outcome(&facts);
            let random = if outcome == Outcome::Failure { self.chance() } else { 0 };
            let tells = match outcome {
                Outcome::Failure => facts.sent,
                Outcome::Success { .. } | Outcome::Answered => self.zone.failed_lately(self.upstream, now),
                Outcome::Declined | Outcome::Neutral | Outcome::Excused => false,
            };
            let fingerprint = tells.then(|| Fingerprint::new(KeyHash::of_parts([1, 2], &[&r.to_ne_bytes()])));
            self.zone.release_known(ticket, self.workers[w].at, outcome, fingerprint, &PARAMS, now, random);
        }
        if self.can_wait {
            self.kick(w, now);
        }
        self.leave_if_idle(w);
    }
}
