//! What a world is: replicas with their faults, traffic, and what nginx.conf says. Plain data that
//! can be printed and made smaller.
//!
//! All times are nanoseconds after the world's start. A replica that joins or leaves later does so
//! by a reload of nginx, as a changed `server` line does.

use std::fmt;

pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000 * MS;
/// The end of time, for faults that never heal and replicas that never leave.
pub const EVER: u64 = u64::MAX;

#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub seed: u64,
    /// Requests arrive for so long; then the world runs until all have ended.
    pub span_ns: u64,
    pub workers: usize,
    /// `pincer_queue timeout=`; `None` = no queue.
    pub queue_timeout_ns: Option<u64>,
    /// `proxy_next_upstream_tries`.
    pub tries: u32,
    /// Statuses in `proxy_next_upstream`, besides `error` and `timeout`.
    pub next_upstream: Vec<u16>,
    /// `proxy_read_timeout`.
    pub read_timeout_ns: u64,
    /// `max_fails=3 fail_timeout=` of every server; `None` = neither, so the breaker has its own
    /// rule.
    pub fail_timeout_ns: Option<u64>,
    /// A reload of nginx that changes nothing.
    pub reload_ns: Option<u64>,
    /// How many times slower than group 0 each group of replicas is.
    pub factors: Vec<f64>,
    pub replicas: Vec<Replica>,
    pub traffic: Traffic,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Index into [`World::factors`]: replicas of one group are equally fast while they are well.
    pub group: usize,
    /// `max_conns`; 0 = none.
    pub max_conns: u32,
    /// Requests it serves at once; more wait at the replica.
    pub places: u32,
    pub weight: u32,
    pub joins_ns: u64,
    pub leaves_ns: u64,
    /// Its first answers take so many times longer: (answers, factor).
    pub cold: Option<(u32, f64)>,
    /// At most one of them affects a request: the first that matches.
    pub spells: Vec<Spell>,
}

/// A time in which a replica is not well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spell {
    pub from_ns: u64,
    pub to_ns: u64,
    pub what: What,
    pub whom: Whom,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Answers with this status at once, with a body where the status has one.
    Status(u16),
    /// Answers 200 at once, with `Content-Length: 0`; a WebSocket it upgrades, and closes it at
    /// once.
    Empty,
    /// Answers 200 at once; the trailers have this `grpc-status`, and there is no message.
    GrpcStatus(u16),
    /// Refuses connections.
    Refuse,
    /// Accepts the connection and never answers.
    Hang,
    /// Sends the first token and then closes the connection.
    Cut,
    /// Serves, so many times slower.
    Slow(f64),
}

/// Which requests a spell affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    All,
    Streams,
    /// Those whose fingerprint is marked: a prompt that the replica cannot take.
    Marked,
}

/// What an answer of this kind says about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The peer is at fault.
    Failure,
    /// It works, but its answers say nothing about its speed.
    Nothing,
    /// It works and is slow.
    Slow,
}

impl What {
    pub fn meaning(self) -> Meaning {
        match self {
            Self::Status(500..) | Self::GrpcStatus(_) | Self::Refuse | Self::Hang | Self::Cut => Meaning::Failure,
            Self::Status(_) | Self::Empty => Meaning::Nothing,
            Self::Slow(_) => Meaning::Slow,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// Poisson arrivals, per second.
    pub per_s: f64,
    /// Parts of the arrivals that are short requests, streams and WebSockets; their sum is 1.
    pub mix: [f64; 3],
    /// A short request of work 1 on a replica of group 0.
    pub short_ns: f64,
    /// To the first token of a stream of work 1 there.
    pub token_ns: f64,
    /// From the first token to the end.
    pub rest_ns: f64,
    /// How long a WebSocket of work 1 is held.
    pub socket_ns: f64,
    /// Work is lognormal, of mean 1 and this coefficient of variation.
    pub cv: f64,
    /// Part of the requests that are marked.
    pub marked: f64,
    /// Part of the clients that leave before the end.
    pub leavers: f64,
    pub bursts: Vec<Burst>,
}

/// Streams (short requests or WebSockets where there are none) that come at once, besides the
/// others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    pub at_ns: u64,
    pub count: u32,
    pub within_ns: u64,
    pub marked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Short,
    Stream,
    Socket,
}

impl World {
    /// Mean time to the signal on a replica of `group` that is well, ns: the truth that the policy
    /// has to learn.
    pub fn service_ns(&self, group: usize) -> f64 {
        let Traffic { mix, short_ns, token_ns, .. } = &self.traffic;
        self.factors[group] * (mix[0] * short_ns + (mix[1] + mix[2]) * token_ns)
    }

    /// Mean time a slot of a replica of `group` is held, ns.
    pub fn hold_ns(&self, group: usize) -> f64 {
        let Traffic { mix, rest_ns, socket_ns, .. } = &self.traffic;
        self.service_ns(group) + self.factors[group] * mix[1] * rest_ns + mix[2] * socket_ns
    }

    /// Requests per second that a replica can serve while it is well.
    pub fn capacity(&self, replica: &Replica) -> f64 {
        f64::from(replica.places) * S as f64 / self.hold_ns(replica.group)
    }

    /// The load of the replicas that are there at the start: 1 = all places are busy.
    pub fn load(&self) -> f64 {
        let there = self.replicas.iter().filter(|replica| replica.joins_ns == 0);
        self.traffic.per_s / there.map(|replica| self.capacity(replica)).sum::<f64>()
    }

    /// Whether every replica fails the marked requests, so that no replica is to blame for them.
    pub fn marked_everywhere(&self) -> bool {
        self.replicas.iter().all(|replica| replica.spells.iter().any(|spell| spell.whom == Whom::Marked))
    }

    /// The moments at which nginx is reloaded: where the set of replicas changes, and
    /// [`World::reload_ns`].
    pub fn reloads(&self) -> Vec<u64> {
        let moments = self.replicas.iter().flat_map(|replica| [replica.joins_ns, replica.leaves_ns]);
        let mut moments: Vec<u64> = moments.chain(self.reload_ns).filter(|&at| at != 0 && at != EVER).collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// Whether the replicas that join at `at` find no other that stays.
    pub fn is_whole_pool_new(&self, at: u64) -> bool {
        self.replicas.iter().all(|replica| replica.joins_ns >= at || replica.leaves_ns <= at)
    }
}

impl Replica {
    pub fn is_in(&self, at: u64) -> bool {
        self.joins_ns <= at && at < self.leaves_ns
    }

    /// What it does with a request of this kind that comes at `at`; `None` = it serves it as usual.
    pub fn spell_at(&self, at: u64, kind: Kind, marked: bool) -> Option<What> {
        let hits = |spell: &&Spell| {
            (spell.from_ns..spell.to_ns).contains(&at)
                && match spell.whom {
                    Whom::All => true,
                    Whom::Streams => kind == Kind::Stream,
                    Whom::Marked => marked,
                }
        };
        self.spells.iter().find(hits).map(|spell| spell.what)
    }
}

fn seconds(ns: u64) -> String {
    if ns == EVER { "ever".to_owned() } else { format!("{:.2} s", ns as f64 / S as f64) }
}

fn ms(ns: f64) -> String {
    format!("{:.1} ms", ns / MS as f64)
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { traffic, .. } = self;
        writeln!(
            f,
            "world {}: {} for {}, workers {}",
            self.seed,
            self.replicas.len(),
            seconds(self.span_ns),
            self.workers
        )?;
        let queue = self.queue_timeout_ns.map_or("none".to_owned(), |ns| format!("timeout {}", seconds(ns)));
        writeln!(
            f,
            "  queue {queue}, proxy_next_upstream error timeout {:?}, tries {}, proxy_read_timeout {}",
            self.next_upstream,
            self.tries,
            seconds(self.read_timeout_ns)
        )?;
        writeln!(
            f,
            "  {:.2} requests a second: {:.0} % short of {}, {:.0} % streams of {} + {}, {:.0} % WebSockets of {}; cv {}",
            traffic.per_s,
            traffic.mix[0] * 100.0,
            ms(traffic.short_ns),
            traffic.mix[1] * 100.0,
            ms(traffic.token_ns),
            ms(traffic.rest_ns),
            traffic.mix[2] * 100.0,
            ms(traffic.socket_ns),
            traffic.cv
        )?;
        writeln!(
            f,
            "  {:.1} % marked, {:.1} % of the clients leave early",
            traffic.marked * 100.0,
            traffic.leavers * 100.0
        )?;
        for Burst { at_ns, count, within_ns, marked } in &traffic.bursts {
            let marked = if *marked { " marked" } else { "" };
            writeln!(f, "  a burst of {count}{marked} within {} at {}", ms(*within_ns as f64), seconds(*at_ns))?;
        }
        if let Some(ns) = self.fail_timeout_ns {
            writeln!(f, "  max_fails=3 fail_timeout={}", seconds(ns))?;
        }
        if let Some(at) = self.reload_ns {
            writeln!(f, "  a reload at {}", seconds(at))?;
        }
        for (index, replica) in self.replicas.iter().enumerate() {
            write!(
                f,
                "  r{index}: {} × slower, max_conns {}, places {}, weight {}",
                self.factors[replica.group], replica.max_conns, replica.places, replica.weight
            )?;
            if replica.joins_ns > 0 || replica.leaves_ns != EVER {
                write!(f, ", there from {} to {}", seconds(replica.joins_ns), seconds(replica.leaves_ns))?;
            }
            if let Some((answers, factor)) = replica.cold {
                write!(f, ", its first {answers} answers take {factor:.1} × longer")?;
            }
            for Spell { from_ns, to_ns, what, whom } in &replica.spells {
                write!(f, ", {what:?} to {whom:?} from {} to {}", seconds(*from_ns), seconds(*to_ns))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
