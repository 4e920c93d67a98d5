//! Sends one plan of arrivals to every lane: open loop, latency from the planned moment, so no lane
//! can slow its own measurement down.
//!
//! A request that has not ended some seconds after the last arrival is given up and counts with the
//! time it had waited: a lower bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::client::sse;
use harness::{Client, load};
use tokio::task::JoinSet;

use crate::cluster::{Lane, TOKENS};
use crate::screen::Progress;

/// How long after the last arrival answers are awaited.
const GRACE: Duration = Duration::from_secs(4);
/// Coefficient of variation of the requests' work.
const WORK_CV: f64 = 0.8;
/// The same arrivals and work in every run.
const SEED: u64 = 7;

/// When requests come, and how much work each is.
pub struct Plan {
    arrivals: Vec<Duration>,
    work: Vec<f64>,
}

/// One request of one lane.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which lane.
    pub lane: usize,
    /// To the first token; the time waited when there was none.
    pub ttft: Duration,
    /// To the end of the answer, as above.
    pub total: Duration,
    /// The whole answer came.
    pub done: bool,
    /// It was given up at the end, rather than broken by someone.
    pub given_up: bool,
}

impl Plan {
    /// Exponential gaps and lognormal work.
    pub fn new(per_second: f64, time: Duration) -> Self {
        let arrivals = load::poisson(SEED, per_second, time);
        let work = load::lognormal(SEED, WORK_CV, arrivals.len());
        Self { arrivals, work }
    }

    fn time(&self) -> Duration {
        self.arrivals.last().copied().unwrap_or_default()
    }
}

/// Runs the plan on all lanes at once.
pub async fn run<'a>(lanes: impl IntoIterator<Item = &'a Lane>, plan: &Plan) -> Vec<Outcome> {
    let clients: Vec<Client> = lanes.into_iter().map(|lane| lane.client.clone()).collect();
    let start = Instant::now();
    let deadline = start + plan.time() + GRACE;
    let progress = Arc::new(Progress::new(plan.arrivals.len() * clients.len(), plan.time() + GRACE));
    let mut running = JoinSet::new();
    for (at, work) in plan.arrivals.iter().zip(&plan.work) {
        tokio::time::sleep_until((start + *at).into()).await;
        for (lane, client) in clients.iter().enumerate() {
            running.spawn(one(lane, client.clone(), *work, start + *at, deadline, Arc::clone(&progress)));
        }
    }
    let outcomes = running.join_all().await;
    progress.end();
    outcomes
}

async fn one(
    lane: usize,
    client: Client,
    work: f64,
    planned: Instant,
    deadline: Instant,
    progress: Arc<Progress>,
) -> Outcome {
    let late = planned.elapsed();
    let asked = sse::chat(&client, "/v1/chat/completions", TOKENS, work);
    let answer = tokio::time::timeout_at(deadline.into(), asked).await;
    progress.one();
    let waited = planned.elapsed();
    match answer {
        Ok(Ok(stream)) => Outcome {
            lane,
            ttft: late + stream.ttft(),
            total: late + stream.total_time,
            done: stream.done && stream.status == 200,
            given_up: false,
        },
        not_ended => Outcome { lane, ttft: waited, total: waited, done: false, given_up: not_ended.is_err() },
    }
}
