//! The scenarios: each sets up a comparison, prints its table, and judges the promises that it can
//! show.
//!
//! A scenario does not stop at a broken promise: it prints the promise and goes on. Promises are
//! the project's; their numbers are constants here.

mod bodies;
mod body_hits;
mod cost;
mod cpu;
mod equal;
mod faults;
mod instructions;
mod limiter;
mod overload;
mod plain;
mod pools;
mod seeds;
mod slow_bodies;
mod sse;
mod upload_stall;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Verdicts;
use crate::run::Stage;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 2 replicas of 4 slots at 100 ms and 6 of 2 slots at 1 s, load 0.7, every contender.
    #[value(name = "pool100ms")]
    Pool100ms,
    /// The same with 6 s and 60 s, in real time: about 20 minutes.
    #[value(name = "pool6s")]
    Pool6s,
    /// Equal replicas: nothing to gain, nothing to lose.
    Equal,
    /// Streams whose headers come at once and whose first token does not.
    Sse,
    /// One replica of four responds with 500 at once.
    Fail500,
    /// A replica that is slow for ten seconds and heals.
    Heal,
    /// Requests per second and processor time against plain nginx, closed loop.
    Throughput,
    /// Instructions per request against plain nginx, under callgrind.
    Instructions,
    /// Cache hits by the request's body: the key's cost.
    #[value(name = "body_hits")]
    BodyHits,
    /// Small requests beside a large upload that is hashed.
    #[value(name = "upload_stall")]
    UploadStall,
    /// Small requests beside a thousand bodies that arrive very slowly.
    #[value(name = "slow_bodies")]
    SlowBodies,
    /// The micro-benchmark of a pick.
    Pick,
    /// Three times what the pool can serve, a fifth of it of VIPs.
    Overload,
    /// The rate limiter's own benchmark.
    Limiter,
}

impl Scenario {
    /// All scenarios except those that take very long.
    pub const DEFAULT: [Scenario; 13] = [
        Scenario::Pick,
        Scenario::Limiter,
        Scenario::Instructions,
        Scenario::Throughput,
        Scenario::BodyHits,
        Scenario::UploadStall,
        Scenario::SlowBodies,
        Scenario::Sse,
        Scenario::Fail500,
        Scenario::Heal,
        Scenario::Equal,
        Scenario::Overload,
        Scenario::Pool100ms,
    ];

    /// Runs it and judges its promises.
    pub async fn run(self, stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
        match self {
            Scenario::Pool100ms => pools::at_100_ms(stage, verdicts).await,
            Scenario::Pool6s => pools::at_6_s(stage, verdicts).await,
            Scenario::Equal => equal::run(stage, verdicts).await,
            Scenario::Sse => sse::run(stage, verdicts).await,
            Scenario::Fail500 => faults::failing(stage, verdicts).await,
            Scenario::Heal => faults::healing(stage, verdicts).await,
            Scenario::Throughput => cost::throughput(stage, verdicts).await,
            Scenario::Instructions => instructions::run(stage, verdicts).await,
            Scenario::BodyHits => body_hits::run(stage, verdicts).await,
            Scenario::UploadStall => upload_stall::run(stage, verdicts).await,
            Scenario::SlowBodies => slow_bodies::run(stage, verdicts).await,
            Scenario::Pick => cost::pick(verdicts),
            Scenario::Overload => overload::run(stage, verdicts).await,
            Scenario::Limiter => limiter::run(stage, verdicts),
        }
    }
}
