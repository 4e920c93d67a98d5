//! What a simulation is fed with and what it is judged by: replicas, arrivals, statistics. Fixed
//! seeds, no clock.

use crate::sim::Request;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000 * MS;
/// The simulation's first moment: not zero, since 0 means "never" in the cells.
pub const START: u64 = 1_000 * S;

/// What a replica does with a request that starts at a moment.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Serves it, this many times slower than usual.
    Serve(f64),
    /// Fails it after so many ns.
    Fail(u64),
    /// Never answers; the client (or proxy_read_timeout) gives up after so many ns, which is a
    /// failure.
    Hang(u64),
}

#[derive(Clone, Debug)]
pub struct Replica {
    /// First byte of a request of work 1, ns after it starts.
    pub first_ns: f64,
    /// End of a request of work 1, ns after its first byte.
    pub rest_ns: f64,
    pub places: u32,
    pub max_conns: u32,
    pub weight: u32,
    pub backup: bool,
    /// (from ns after the start, what it does from then on), rising.
    pub acts: Vec<(u64, Act)>,
    /// Takes part from this moment on (ns after the start); it begins with a slow start if this is
    /// not 0.
    pub joins_ns: u64,
}

impl Replica {
    pub fn new(places: u32, service_ns: u64) -> Self {
        Self {
            first_ns: service_ns as f64,
            rest_ns: 0.0,
            places,
            max_conns: places,
            weight: 1,
            backup: false,
            acts: vec![],
            joins_ns: 0,
        }
    }
    /// A server of streams: `first_ns` to the first token, then `rest_ns` to the end.
    pub fn streaming(places: u32, first_ns: u64, rest_ns: u64) -> Self {
        Self { rest_ns: rest_ns as f64, ..Self::new(places, first_ns) }
    }
    /// Without `max_conns`.
    pub fn unlimited(self) -> Self {
        Self { max_conns: 0, ..self }
    }
    pub fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }
    pub fn act(mut self, from_ns: u64, act: Act) -> Self {
        self.acts.push((from_ns, act));
        self
    }
    /// What it does with a request that starts at `at`.
    pub fn act_at(&self, at: u64) -> Act {
        self.acts.iter().rev().find(|(from, _)| START + from <= at).map_or(Act::Serve(1.0), |&(_, act)| act)
    }
}

/// `count` Poisson arrivals at `per_s`, with lognormal work of mean 1 and the given coefficient of
/// variation (0 = all alike).
pub fn arrivals(count: usize, per_s: f64, cv: f64, seed: u64) -> Vec<(u64, f64)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut at = 0.0;
    (0..count)
        .map(|_| {
            at += -(1.0 - rng.random::<f64>()).ln() / per_s * S as f64;
            (at as u64, lognormal(&mut rng, cv))
        })
        .collect()
}

fn lognormal(rng: &mut SmallRng, cv: f64) -> f64 {
    let variance = (1.0 + cv * cv).ln();
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    (normal * variance.sqrt() - variance / 2.0).exp()
}

/// Requests per second that the replicas can serve.
pub fn capacity(replicas: &[Replica]) -> f64 {
    replicas.iter().map(|r| f64::from(r.places) * S as f64 / (r.first_ns + r.rest_ns)).sum()
}

/// Mean in seconds.
pub fn mean(values: &[u64]) -> f64 {
    values.iter().map(|&v| v as f64).sum::<f64>() / values.len() as f64 / S as f64
}

/// Quantile in seconds.
pub fn quantile(values: &[u64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * q).round() as usize] as f64 / S as f64
}

/// Latencies of all requests.
pub fn latencies(requests: &[Request]) -> Vec<u64> {
    requests.iter().map(Request::latency).collect()
}

/// Requests per peer.
pub fn shares<'a>(requests: impl IntoIterator<Item = &'a Request>, peers: usize) -> Vec<usize> {
    let mut counts = vec![0; peers];
    for request in requests {
        if let Some(count) = counts.get_mut(request.peer) {
            *count += 1;
        }
    }
    counts
}
