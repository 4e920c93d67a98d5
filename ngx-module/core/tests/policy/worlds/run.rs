//! Runs a world: replicas and clients around [`Module`], by a virtual clock. Never sleeps, never
//! reads a clock.
//!
//! Follows nginx in what happens to an attempt that ends: which ends count as failed, what is
//! retried, what the client gets.

use super::invariants::{Invariant, Violation, Watch, judge};
use super::module::{Facts, Got, Module, Sabotage, Shown, Wake, zone};
use super::random::{Arrival, arrivals};
use super::truth::{Attempt, History, Request};
use super::world::*;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

/// How often the zone is looked at from outside.
const SAMPLE_NS: u64 = 500 * MS;
/// An answer at once.
const AT_ONCE_NS: u64 = 2 * MS;
const REFUSED_NS: u64 = MS / 5;
/// First tokens after which a ramp binds no more.
const RAMP_TOKENS: u32 = 8;
/// A world of a few thousand requests has some hundred thousand events; one that goes on and on is
/// broken.
const EVENTS_MAX: usize = 20_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    // Ends come before arrivals of the same moment.
    Header(usize),
    End(usize),
    Drain(usize),
    Tick(usize),
    Timeout(usize, u64),
    Leave(usize),
    Reload,
    Sample,
    Arrive(usize),
}

/// How an attempt will end.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Served { was_slow: bool },
    Spelled(What),
}

/// What a replica does with its requests.
#[derive(Default)]
struct Server {
    running: u32,
    backlog: VecDeque<usize>,
}

pub struct Run<'w, 'z> {
    world: &'w World,
    module: Module<'z>,
    arrivals: Vec<Arrival>,
    servers: Vec<Server>,
    plans: Vec<Option<Plan>>,
    /// The attempt that a request holds.
    holding: Vec<Option<usize>>,
    history: History,
    watch: Watch,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    now: u64,
    /// Whether to print a line a second.
    is_told: bool,
}

/// What a run came to.
#[derive(Debug, PartialEq)]
pub struct Report {
    pub violations: Vec<Violation>,
    /// Invariants that the world put to the test.
    pub judged: BTreeSet<Invariant>,
    pub requests: usize,
}

impl Report {
    pub fn breaks(&self, invariant: Invariant) -> bool {
        self.violations.iter().any(|violation| violation.invariant == invariant)
    }
}

/// Runs the world to its end.
pub fn run(world: &World) -> Report {
    run_as(world, Sabotage::None, false)
}

pub fn run_as(world: &World, sabotage: Sabotage, is_told: bool) -> Report {
    let heap = zone();
    let arrivals = arrivals(world);
    let count = arrivals.len();
    let mut run = Run {
        module: Module::new(heap.zone(), world, count),
        servers: world.replicas.iter().map(|_| Server::default()).collect(),
        plans: vec![],
        holding: vec![None; count],
        history: History::new(world, count),
        watch: Watch::new(world),
        events: BinaryHeap::new(),
        sequence: 0,
        now: 0,
        world,
        arrivals,
        is_told,
    };
    run.module.sabotage = sabotage;
    run.go();
    let Run { mut history, module, .. } = run;
    judge(world, &mut history, module.left_over());
    Report { violations: history.violations, judged: history.judged, requests: count }
}

impl Run<'_, '_> {
    fn go(&mut self) {
        for (r, arrival) in self.arrivals.iter().enumerate() {
            self.events.push(Reverse((arrival.at, r as u64, Event::Arrive(r))));
        }
        self.sequence = self.arrivals.len() as u64;
        for at in self.world.reloads() {
            self.at(at, Event::Reload);
        }
        self.at(SAMPLE_NS, Event::Sample);
        let mut handled = 0;
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            handled += 1;
            assert!(handled < EVENTS_MAX, "{}the world does not end", self.world);
            self.watch.look(self.world, &mut self.history, &self.module, at);
            self.now = at;
            self.handle(event);
            self.wake();
            self.watch.note(self.world, &self.history, self.now);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn wake(&mut self) {
        for wake in std::mem::take(&mut self.module.wakes) {
            match wake {
                Wake::Drain { worker, after_ns } => self.at(self.now + after_ns, Event::Drain(worker)),
                Wake::Tick { worker, after_ns } => self.at(self.now + after_ns, Event::Tick(worker)),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(r) => {
                self.history.requests[r].arrived = self.now;
                if let Some(after) = self.arrivals[r].leaves_after {
                    self.at(self.now + after, Event::Leave(r));
                }
                self.module.init(r);
                self.get(r);
            }
            Event::Header(a) => self.header(a),
            Event::End(a) => self.end(a),
            Event::Drain(worker) => {
                let left = self.module.drain(worker, self.now);
                self.granted(left);
            }
            Event::Tick(worker) => {
                let left = self.module.tick(worker, self.now);
                self.granted(left);
            }
            Event::Timeout(r, parked_at) => {
                if self.history.requests[r].parked_at == Some(parked_at) {
                    self.unpark(r);
                    self.module.time_out(r, self.now);
                    self.finish(r, 504);
                }
            }
            Event::Leave(r) => self.leave(r),
            Event::Reload => {
                self.module.reload(self.world, self.now);
                self.watch.joined(self.world, &mut self.history, self.now);
            }
            Event::Sample => self.sample(),
        }
    }

    fn sample(&mut self) {
        let shown = self.module.shown(self.world.replicas.len(), self.now);
        self.watch.sample(self.world, &mut self.history, &shown, self.now);
        if self.is_told && self.now.is_multiple_of(S) {
            self.tell(&shown);
        }
        let is_over = self.now >= self.world.span_ns && self.history.requests.iter().all(|request| request.ended > 0);
        if !is_over {
            self.at(self.now + SAMPLE_NS, Event::Sample);
        }
    }

    fn tell(&self, shown: &[Shown]) {
        let mut line = format!("{:>6.1} s", self.now as f64 / S as f64);
        for (p, shown) in shown.iter().enumerate().filter(|(_, shown)| shown.is_there) {
            let breaker = if shown.is_closed { "" } else { "!" };
            let slots = if shown.slots == 0 { String::new() } else { format!("/{}", shown.slots) };
            let ms = shown.service_ns as f64 / MS as f64;
            line += &format!("  r{p}{breaker} {}{slots} {ms:.0} ms n={}", shown.in_flight, self.history.lives[p].begun);
        }
        eprintln!("{line}  waiting {}", self.watch.waiting());
    }

    fn get(&mut self, r: usize) {
        match self.module.get(r, self.now) {
            Got::Bound(replica) => self.bind(r, replica),
            Got::Parked => {
                self.history.requests[r].parked_at = Some(self.now);
                self.watch.park(r);
                let timeout_ns = self.world.queue_timeout_ns.unwrap_or_default();
                self.at(self.now + timeout_ns, Event::Timeout(r, self.now));
            }
            Got::Busy => {
                self.watch.refused(self.world, &mut self.history, &self.module, r, self.now);
                self.finish(r, 502);
            }
        }
    }

    fn granted(&mut self, left: Vec<(usize, Option<usize>)>) {
        for (r, replica) in left {
            self.unpark(r);
            match replica {
                Some(replica) => self.bind(r, replica),
                // nginx asks once more and is told that there is no peer.
                None => self.finish(r, 502),
            }
        }
    }

    fn unpark(&mut self, r: usize) {
        self.history.requests[r].parked_at = None;
        self.watch.unpark(r);
    }

    fn bind(&mut self, r: usize, p: usize) {
        let a = self.history.attempts.len();
        self.watch.bound(self.world, &mut self.history, p, self.now);
        let record = &self.module.records[r];
        let is_choice = |q: usize| {
            q != p && self.history.is_settled(self.world, q, self.now) && self.history.has_room(self.world, q)
        };
        let is_free = |&q: &usize| {
            self.world.replicas[q].is_in(self.now)
                && self.history.has_room(self.world, q)
                && self.history.is_working(self.world, q, self.now)
        };
        let free = (0..self.history.lives.len()).filter(is_free).fold(1 << p, |free, q| free | 1 << q);
        self.history.attempts.push(Attempt {
            free,
            request: r,
            replica: p,
            start: self.now,
            end: 0,
            token: None,
            is_look: record.is_look(),
            had_choice: (0..self.history.lives.len()).any(is_choice),
        });
        if self.is_told && record.is_look() {
            eprintln!("look at {} r{p}", self.now / MS);
        }
        self.history.lives[p].in_flight += 1;
        self.history.requests[r].attempts += 1;
        self.holding[r] = Some(a);
        self.plans.push(None);
        let Arrival { kind, marked, .. } = self.arrivals[r];
        match self.world.replicas[p].spell_at(self.now, kind, marked) {
            Some(what @ What::Refuse) => self.spell(a, what, self.now + REFUSED_NS, false),
            Some(what @ What::Hang) => self.spell(a, what, self.now + self.world.read_timeout_ns, false),
            Some(what @ (What::Status(_) | What::Empty | What::GrpcStatus(_) | What::Cut)) => {
                self.spell(a, what, self.now + AT_ONCE_NS, true);
            }
            Some(What::Slow(_)) | None if self.servers[p].running < self.world.replicas[p].places => self.serve(a),
            Some(What::Slow(_)) | None => self.servers[p].backlog.push_back(a),
        }
    }

    fn spell(&mut self, a: usize, what: What, end: u64, has_header: bool) {
        self.plans[a] = Some(Plan::Spelled(what));
        if has_header {
            self.at(end, Event::Header(a));
        }
        self.at(end, Event::End(a));
    }

    /// The replica begins to work on it.
    fn serve(&mut self, a: usize) {
        let Attempt { request: r, replica: p, .. } = self.history.attempts[a];
        let Arrival { kind, work, marked, .. } = self.arrivals[r];
        let (world, life) = (self.world, &mut self.history.lives[p]);
        self.servers[p].running += 1;
        life.begun += 1;
        let slow = match world.replicas[p].spell_at(self.now, kind, marked) {
            Some(What::Slow(factor)) => factor,
            _ => 1.0,
        };
        let cold = world.replicas[p].cold.filter(|(answers, _)| life.begun <= *answers).map(|(_, factor)| factor);
        let factor = world.factors[world.replicas[p].group] * slow * cold.unwrap_or(1.0);
        let traffic = &world.traffic;
        let (first_ns, rest_ns) = match kind {
            Kind::Short => (traffic.short_ns * work * factor, 0.0),
            Kind::Stream => (traffic.token_ns * work * factor, traffic.rest_ns * work * factor),
            Kind::Socket => (traffic.token_ns * work * factor, traffic.socket_ns * work),
        };
        let (first_ns, rest_ns) = (first_ns as u64, rest_ns as u64);
        self.plans[a] = Some(Plan::Served { was_slow: cold.is_some() });
        self.history.serve(world, p, self.now, self.now + first_ns);
        self.at(self.now + first_ns, Event::Header(a));
        self.at(self.now + first_ns + rest_ns, Event::End(a));
    }

    /// The header of an answer is here and, where it has a body, the first byte too.
    fn header(&mut self, a: usize) {
        let Attempt { request: r, replica: p, start, .. } = self.history.attempts[a];
        let (Some(plan), true) = (self.plans[a], self.holding[r] == Some(a)) else { return };
        let (status, has_body) = match plan {
            Plan::Spelled(What::Status(status)) => (status, !matches!(status, 204 | 302)),
            Plan::Spelled(What::Empty) if self.arrivals[r].kind == Kind::Socket => (101, true),
            Plan::Spelled(What::Empty | What::GrpcStatus(_)) => (200, false),
            _ if self.arrivals[r].kind == Kind::Socket => (101, true),
            _ => (200, true),
        };
        // nginx looks at the status before it sends the header on, and then no filter sees it.
        if self.passes_on(r, status) {
            return;
        }
        // A gRPC answer without a message: the module expects a body until the trailers come.
        let expects_body = has_body || matches!(plan, Plan::Spelled(What::GrpcStatus(_)));
        self.module.header(r, usize::from(status), expects_body, self.now);
        if has_body {
            self.module.first_byte(r, usize::from(status), self.now);
        }
        if let Plan::Served { was_slow, .. } = plan {
            self.history.attempts[a].token = Some(self.now);
            self.history.token(self.world, p, start, self.now, was_slow);
            self.history.lives[p].has_sample |= self.arrivals[r].kind != Kind::Socket;
            // The token that closes the breaker is the first of the ramp.
            let life = &mut self.history.lives[p];
            if life.recovers && life.ramp.is_some_and(|tokens| tokens <= RAMP_TOKENS) {
                let shown = self.module.shown(self.world.replicas.len(), self.now);
                life.ramp = if shown[p].is_closed { life.ramp } else { Some(0) };
            }
        }
    }

    /// Whether nginx tries another peer because of the status.
    fn passes_on(&self, r: usize, status: u16) -> bool {
        self.world.next_upstream.contains(&status) && self.module.records[r].tries_left() > 1
    }

    fn end(&mut self, a: usize) {
        let r = self.history.attempts[a].request;
        let (Some(plan), true) = (self.plans[a], self.holding[r] == Some(a)) else { return };
        let kind = self.arrivals[r].kind;
        let (facts, status, retries) = match plan {
            Plan::Served { .. } => {
                let status = if kind == Kind::Socket { 101 } else { 200 };
                (Facts { status: usize::from(status), complete: true, ..Facts::default() }, status, false)
            }
            Plan::Spelled(What::Status(status)) => {
                let on = self.passes_on(r, status);
                let passed_on = on && matches!(status, 403 | 404);
                let status_n = usize::from(status);
                (
                    Facts { failed: on && !passed_on, passed_on, status: status_n, complete: !on, ..Facts::default() },
                    status,
                    on,
                )
            }
            Plan::Spelled(What::Empty) => {
                let status = if kind == Kind::Socket { 101 } else { 200 };
                (Facts { status: usize::from(status), complete: true, ..Facts::default() }, status, false)
            }
            Plan::Spelled(What::GrpcStatus(grpc)) => {
                (Facts { status: 200, grpc_status: Some(grpc), complete: true, ..Facts::default() }, 200, false)
            }
            Plan::Spelled(What::Refuse) => (Facts { failed: true, ..Facts::default() }, 502, true),
            Plan::Spelled(What::Hang) => (Facts { failed: true, ..Facts::default() }, 504, true),
            Plan::Spelled(What::Cut | What::Slow(_)) => (Facts { status: 200, ..Facts::default() }, 200, false),
        };
        let refused = matches!(plan, Plan::Spelled(What::Refuse));
        let facts = Facts { sent: !refused, ..facts };
        if facts.failed || facts.passed_on {
            self.history.requests[r].tried |= 1 << self.history.attempts[a].replica;
        }
        self.let_go(a, facts);
        if retries && self.module.records[r].tries_left() > 0 {
            self.get(r);
        } else {
            self.finish(r, status);
        }
    }

    /// The replica's and the module's side of the attempt end.
    fn let_go(&mut self, a: usize, facts: Facts) {
        let Attempt { request: r, replica: p, .. } = self.history.attempts[a];
        self.history.attempts[a].end = self.now;
        self.history.lives[p].in_flight -= 1;
        self.holding[r] = None;
        self.module.free(r, facts, self.now);
        let server = &mut self.servers[p];
        match self.plans[a] {
            Some(Plan::Served { .. }) => {
                server.running -= 1;
                if let Some(next) = server.backlog.pop_front() {
                    self.serve(next);
                }
            }
            Some(Plan::Spelled(_)) => {}
            None => server.backlog.retain(|&waiting| waiting != a),
        }
    }

    /// The client leaves.
    fn leave(&mut self, r: usize) {
        if self.history.requests[r].ended > 0 {
            return;
        }
        match self.holding[r] {
            Some(a) => {
                let status = if self.history.attempts[a].token.is_some() { 200 } else { 0 };
                self.let_go(a, Facts { status, client_gone: true, ..Facts::default() });
            }
            None => {
                self.unpark(r);
                self.module.free(r, Facts::default(), self.now);
            }
        }
        self.finish(r, 499);
    }

    fn finish(&mut self, r: usize, status: u16) {
        let request: &mut Request = &mut self.history.requests[r];
        (request.ended, request.status) = (self.now.max(1), status);
    }
}
