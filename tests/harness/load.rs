//! Traffic: closed loops (so many clients, each with its next request after its last answer) and
//! open loops (arrivals planned beforehand, latency from the planned moment, so that a slow server
//! cannot slow its own measurement down).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::stats;
use crate::{Client, Reply};

/// Runs `count` requests with `clients` at once; `job` gets the request's number. Results in the
/// order of completion.
///
/// # Panics
/// When a job panics.
pub async fn closed<T, F, Fut>(count: usize, clients: usize, job: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + Send,
{
    let job = Arc::new(job);
    let next = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (job, next) = (Arc::clone(&job), Arc::clone(&next));
        running.spawn(async move {
            let mut results = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return results;
                }
                results.push(job(number).await);
            }
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

/// `count` GETs of `path` with `clients` at once; every one must be answered.
pub async fn gets(client: &Client, path: &str, count: usize, clients: usize) -> Vec<Reply> {
    let (client, path) = (client.clone(), path.to_owned());
    closed(count, clients, move |_| {
        let (client, path) = (client.clone(), path.clone());
        async move { client.get(&path).await }
    })
    .await
}

/// How many of the replies each replica gave; nginx itself counts as the empty name.
#[must_use]
pub fn shares(replies: &[Reply]) -> std::collections::BTreeMap<String, usize> {
    stats::counts(replies.iter().map(Reply::replica))
}

/// Arrivals with exponential gaps for `time` at `per_second`, the same for the same `seed`.
#[must_use]
pub fn poisson(seed: u64, per_second: f64, time: Duration) -> Vec<Duration> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    loop {
        at -= (1.0 - random.random::<f64>()).ln() / per_second;
        if at >= time.as_secs_f64() {
            return arrivals;
        }
        arrivals.push(Duration::from_secs_f64(at));
    }
}

/// Lognormal factors of mean 1 and this coefficient of variation, the same for the same `seed`.
#[must_use]
pub fn lognormal(seed: u64, cv: f64, count: usize) -> Vec<f64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let variance = (1.0 + cv * cv).ln();
    let mut normal = || {
        let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    };
    (0..count).map(|_| (normal() * variance.sqrt() - variance / 2.0).exp()).collect()
}

/// Starts `job(number, planned)` at each planned moment after now, and waits for all.
///
/// # Panics
/// When a job panics.
pub async fn open<T, F, Fut>(arrivals: &[Duration], job: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(usize, Instant) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (number, at) in arrivals.iter().enumerate() {
        tokio::time::sleep_until((start + *at).into()).await;
        running.spawn(job(number, start + *at));
    }
    running.join_all().await
}
