//! A discrete-event simulation of one upstream: real policy code, virtual clock, fixed seeds. Never
//! sleeps, never reads a clock.
//!
//! A replica has `places` in which requests are served in parallel, and a queue of its own for what
//! exceeds them (as a server behind its listen queue). nginx's view of it is a [`Peer`] of the
//! policy's own cells. Requests wait in one first-in first-out queue when the policy says so.

pub use crate::load::*;
use pincer_core::breaker::{Breaker, Rule};
use pincer_core::estimate::{Estimate, HALF_LIFE_NS};
use pincer_core::looks::{Kind, Looks};
use pincer_core::pick::{Decision, Demand, PeerView, STALE_NS, THETA, Why, look_again_ns, pick, settle};
use pincer_core::slow_start::SlowStart;
use pincer_core::time::MonoNs;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// How requests are given to replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    Pincer {
        theta: f64,
        half_life_ns: u64,
        queue: bool,
    },
    /// nginx's least_conn: fewest connections per weight, round robin in a tie.
    LeastConn,
    /// Knows every backlog and every request's work: the place where this request ends first.
    Oracle,
}

pub const PINCER: Policy = Policy::Pincer { theta: THETA, half_life_ns: HALF_LIFE_NS, queue: true };

/// One request as it went.
#[derive(Clone, Debug)]
pub struct Request {
    pub arrived: u64,
    pub work: f64,
    pub first: u64,
    pub ended: u64,
    pub peer: usize,
    pub why: Why,
    pub failed: bool,
    pub tries: u32,
    pub affinity: Option<u64>,
    started: u64,
    trial: bool,
    tried: u128,
    random: u64,
}

impl Request {
    pub fn latency(&self) -> u64 {
        self.ended - self.arrived
    }
    pub fn to_first(&self) -> u64 {
        self.first - self.arrived
    }
}

/// The policy's cells of one peer, as the zone holds them.
#[derive(Default)]
struct Peer {
    signal: Estimate,
    hold: Estimate,
    breaker: Breaker,
    ramp: SlowStart,
    credit: AtomicI64,
    in_flight: u32,
    pending: Vec<u64>,
    // the replica behind it
    running: u32,
    backlog: VecDeque<usize>,
    /// Oracle: when each place is free.
    free_at: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    End(usize),
    First(usize),
    Join(usize),
    Arrive(usize),
    Tick,
}

pub struct Sim {
    pub replicas: Vec<Replica>,
    pub policy: Policy,
    pub rule: Rule,
    pub slow_start_ns: u64,
    /// proxy_next_upstream_tries.
    pub tries: u32,
    /// Whether the first byte is recorded when it comes, or only when the request ends.
    pub learns_at_signal: bool,
    /// Requests in flight kept up (closed loop); 0 = arrivals as given.
    pub concurrency: usize,
    peers: Vec<Peer>,
    requests: Vec<Request>,
    queue: VecDeque<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    now: u64,
    rng: SmallRng,
    next: usize,
    /// When the queue is looked at again; 0 = at an event only.
    tick_at: u64,
    arrived: u64,
    looks: Looks,
}

impl Sim {
    pub fn new(replicas: Vec<Replica>, policy: Policy, seed: u64) -> Self {
        Self {
            peers: replicas.iter().map(|_| Peer::default()).collect(),
            replicas,
            policy,
            rule: Rule::Adaptive,
            slow_start_ns: 0,
            tries: 1,
            learns_at_signal: true,
            concurrency: 0,
            requests: vec![],
            queue: VecDeque::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            now: START,
            rng: SmallRng::seed_from_u64(seed ^ 0x5eed),
            next: 0,
            tick_at: 0,
            arrived: 0,
            looks: Looks::default(),
        }
    }

    /// Runs all requests of (arrival in ns after the start, work) to their end.
    pub fn run(self, arrivals: &[(u64, f64)]) -> Vec<Request> {
        self.run_keyed(arrivals, |_| None)
    }

    pub fn run_keyed(mut self, arrivals: &[(u64, f64)], key: impl Fn(usize) -> Option<u64>) -> Vec<Request> {
        self.requests = arrivals.iter().enumerate().map(|(i, &(at, work))| fresh(START + at, work, key(i))).collect();
        let first = if self.concurrency == 0 { self.requests.len() } else { self.concurrency.min(self.requests.len()) };
        for i in 0..first {
            self.at(self.requests[i].arrived, Event::Arrive(i));
        }
        self.next = first;
        for i in 0..self.replicas.len() {
            if self.replicas[i].joins_ns > 0 {
                self.at(START + self.replicas[i].joins_ns, Event::Join(i));
            }
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrive(r) => self.arrive(r),
                Event::First(r) => self.first(r),
                Event::End(r) => self.end(r),
                Event::Join(p) => self.peers[p].ramp.begin(0, MonoNs(at)),
                Event::Tick if at == self.tick_at => {
                    self.tick_at = 0;
                    self.dispatch();
                }
                Event::Tick => {}
            }
        }
        assert!(self.queue.is_empty(), "{} requests were never served", self.queue.len());
        self.requests
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn arrive(&mut self, r: usize) {
        self.requests[r].arrived = self.now;
        self.requests[r].random = self.arrived;
        self.arrived += 1;
        self.enter(r);
    }

    fn enter(&mut self, r: usize) {
        match self.policy {
            Policy::Pincer { .. } => {
                self.queue.push_back(r);
                self.dispatch();
            }
            Policy::LeastConn => {
                let peer = self.least_conn();
                self.bind(r, peer);
            }
            Policy::Oracle => self.foresee(r),
        }
    }

    fn dispatch(&mut self) {
        let Policy::Pincer { theta, queue, .. } = self.policy else { return };
        let mut again_ns = u64::MAX;
        while let Some(&r) = self.queue.front() {
            let views = self.views();
            let may = |kind| self.looks.may(kind, self.arrived, MonoNs(self.now));
            let (may_look, may_look_again) = (may(Kind::Due), may(Kind::Again));
            let demand = Demand {
                queued: u32::try_from(self.queue.len()).unwrap(),
                can_wait: queue,
                affinity: self.requests[r].affinity,
                tried: self.requests[r].tried,
                random: self.requests[r].random,
                waited_ns: self.now - self.requests[r].arrived,
                may_look,
                may_look_again,
                waits: false,
            };
            match pick(&views, &demand, theta) {
                Decision::Take { peer, ties, why } => {
                    self.queue.pop_front();
                    if why == Why::Explore {
                        let is_due = may_look && views[peer].silent_ns >= STALE_NS;
                        let kind = if is_due { Kind::Due } else { Kind::Again };
                        assert!(self.looks.take(kind, self.arrived, MonoNs(self.now)));
                    }
                    settle(ties, peer, |i| views[i].weight, |i| &self.peers[i].credit);
                    self.requests[r].why = why;
                    self.requests[r].trial = why == Why::Trial;
                    if why == Why::Trial {
                        assert!(self.peers[peer].breaker.begin_trial(MonoNs(self.now)));
                    }
                    self.bind(r, peer);
                }
                Decision::Wait => {
                    again_ns = look_again_ns(&views, &demand).unwrap_or(u64::MAX);
                    break;
                }
                Decision::Full | Decision::NoPeer => {
                    self.queue.pop_front();
                    let request = &mut self.requests[r];
                    (request.failed, request.ended, request.first, request.peer) =
                        (true, self.now, self.now, usize::MAX);
                }
            }
        }
        let tick_at = self.now + again_ns.min(100 * MS);
        if !self.queue.is_empty() && (self.tick_at == 0 || tick_at < self.tick_at) {
            self.tick_at = tick_at;
            self.at(tick_at, Event::Tick);
        }
    }

    fn views(&self) -> Vec<PeerView> {
        let now = MonoNs(self.now);
        let view = |(i, (peer, replica)): (usize, (&Peer, &Replica))| PeerView {
            identity: i as u64 + 1,
            in_flight: peer.in_flight,
            pending: u32::try_from(peer.pending.len()).unwrap(),
            pending_age_ns: peer.pending.iter().map(|start| self.now - start).sum::<u64>()
                / (peer.pending.len() as u64).max(1),
            slots: peer.ramp.slots(replica.max_conns, self.slow_start_ns, now),
            max_conns: replica.max_conns,
            weight: if self.now >= START + replica.joins_ns { replica.weight } else { 0 },
            service_ns: peer.signal.mean_ns(),
            error_ns: peer.signal.error_ns(),
            usual_ns: peer.signal.usual_ns(),
            recent_ns: peer.signal.recent_ns(),
            recent_most_ns: peer.signal.recent_most_ns(),
            hold_ns: peer.hold.mean_ns(),
            wrr_current: peer.credit.load(Relaxed),
            admission: peer.breaker.admission(now),
            backup: replica.backup,
            silent_ns: if peer.pending.is_empty() { peer.signal.silent_ns(now) } else { 0 },
            stalled: false,
            span_ns: peer.signal.span_ns(),
            samples: peer.signal.usual_samples(),
        };
        self.peers.iter().zip(&self.replicas).enumerate().map(view).collect()
    }

    fn least_conn(&self) -> usize {
        let load = |i: usize| f64::from(self.peers[i].in_flight) / f64::from(self.replicas[i].weight);
        let order = (0..self.peers.len()).map(|i| (i + self.sequence as usize) % self.peers.len());
        order.min_by(|&a, &b| load(a).total_cmp(&load(b))).unwrap()
    }

    fn foresee(&mut self, r: usize) {
        let (now, work) = (self.now as f64, self.requests[r].work);
        let mut best = (f64::MAX, 0, 0);
        for (p, replica) in self.replicas.iter().enumerate() {
            self.peers[p].free_at.resize(replica.places as usize, 0.0);
            for (place, &free_at) in self.peers[p].free_at.iter().enumerate() {
                let end = free_at.max(now) + (replica.first_ns + replica.rest_ns) * work;
                if end < best.0 {
                    best = (end, p, place);
                }
            }
        }
        self.peers[best.1].free_at[best.2] = best.0;
        let request = &mut self.requests[r];
        (request.peer, request.ended) = (best.1, best.0 as u64);
        request.first = request.ended;
    }

    fn bind(&mut self, r: usize, p: usize) {
        let request = &mut self.requests[r];
        request.peer = p;
        request.started = self.now;
        request.tries += 1;
        let peer = &mut self.peers[p];
        peer.in_flight += 1;
        let slots = self.replicas[p].max_conns;
        assert!(
            slots == 0 || peer.in_flight <= slots || self.policy == Policy::LeastConn,
            "more in flight than max_conns"
        );
        peer.pending.push(self.now);
        if peer.running < self.replicas[p].places {
            peer.running += 1;
            self.serve(r);
        } else {
            peer.backlog.push_back(r);
        }
    }

    fn serve(&mut self, r: usize) {
        let (p, work) = (self.requests[r].peer, self.requests[r].work);
        let replica = &self.replicas[p];
        let (first, rest, failed) = match replica.act_at(self.now) {
            Act::Serve(factor) => {
                ((replica.first_ns * work * factor) as u64, (replica.rest_ns * work * factor) as u64, false)
            }
            Act::Fail(after) | Act::Hang(after) => (after, 0, true),
        };
        self.requests[r].failed = failed;
        if rest > 0 {
            self.at(self.now + first, Event::First(r));
        }
        self.at(self.now + first + rest, Event::End(r));
    }

    fn first(&mut self, r: usize) {
        self.requests[r].first = self.now;
        let Request { peer: p, started, failed, trial, .. } = self.requests[r];
        self.forget_pending(p, started);
        if !self.learns_at_signal || failed {
            return;
        }
        let (half_life_ns, now) = (self.half_life_ns(), MonoNs(self.now));
        let peer = &mut self.peers[p];
        peer.signal.record(self.now - started, half_life_ns, now);
        if trial && peer.breaker.success(true, self.rule) {
            peer.ramp.begin(peer.in_flight, now);
        } else {
            peer.ramp.success(self.replicas[p].max_conns, self.slow_start_ns, now);
        }
        self.requests[r].trial = false;
    }

    fn half_life_ns(&self) -> u64 {
        match self.policy {
            Policy::Pincer { half_life_ns, .. } => half_life_ns,
            Policy::LeastConn | Policy::Oracle => HALF_LIFE_NS,
        }
    }

    fn forget_pending(&mut self, p: usize, started: u64) {
        let pending = &mut self.peers[p].pending;
        if let Some(at) = pending.iter().position(|&start| start == started) {
            pending.swap_remove(at);
        }
    }

    fn end(&mut self, r: usize) {
        let now = MonoNs(self.now);
        if self.requests[r].first == 0 {
            self.first(r);
        }
        let Request { peer: p, started, failed, trial, .. } = self.requests[r];
        self.requests[r].ended = self.now;
        let (half_life_ns, learns_at_end) = (self.half_life_ns(), !self.learns_at_signal);
        let (max_conns, slow_start_ns) = (self.replicas[p].max_conns, self.slow_start_ns);
        let random = self.rng.random();
        let peer = &mut self.peers[p];
        peer.in_flight -= 1;
        if failed {
            peer.breaker.failure(trial, self.rule, random, now);
        } else {
            let renewed = learns_at_end && peer.signal.record(self.requests[r].first - started, half_life_ns, now);
            peer.hold.follow(self.now - started, renewed, half_life_ns, now);
            if peer.breaker.success(trial, self.rule) {
                peer.ramp.begin(peer.in_flight, now);
            } else if learns_at_end {
                peer.ramp.success(max_conns, slow_start_ns, now);
            }
        }
        if let Some(next) = peer.backlog.pop_front() {
            self.serve(next);
        } else {
            peer.running -= 1;
        }
        if failed && self.requests[r].tries < self.tries {
            let request = &mut self.requests[r];
            request.tried |= 1 << p;
            request.first = 0;
            self.enter(r);
        } else if self.concurrency > 0 && self.next < self.requests.len() {
            let next = self.next;
            self.next += 1;
            self.arrive(next);
        }
        self.dispatch();
    }
}

fn fresh(arrived: u64, work: f64, affinity: Option<u64>) -> Request {
    Request {
        arrived,
        work,
        first: 0,
        ended: 0,
        peer: usize::MAX,
        why: Why::Fastest,
        failed: false,
        tries: 0,
        affinity,
        started: 0,
        trial: false,
        tried: 0,
        random: 0,
    }
}
