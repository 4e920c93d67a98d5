//! Streams whose headers come at once: by the headers three replicas are equal, but one of them
//! makes every client wait 4 s for a token.

use std::time::Duration;

use anyhow::Result;

use super::seeds::seeds;
use crate::contender::{Contender, Options};
use crate::pool::Pool;
use crate::replica::Behaviour;
use crate::report::{Measure, Verdicts, find, print, rows};
use crate::run::{Experiment, Stage};

const STREAM: Duration = Duration::from_secs(6);

/// Times to the first token of the three replicas.
const FIRST_TOKEN_MS: [u64; 3] = [100, 100, 4_000];

/// Streams a replica carries at once. The two good ones can carry all: 4/s × 6 s = 24 of 32.
const SLOTS: usize = 16;

/// Arrivals per second.
const RATE_PER_S: f64 = 4.0;

/// `sse`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let (span_s, rounds) = if stage.quick { (40, 1) } else { (100, 3) };
    let pool = Pool::of(&[(FIRST_TOKEN_MS.len(), SLOTS, STREAM)]);
    let mut experiment = Experiment::of_work(pool, 0.5, 0.0, Duration::from_secs(span_s));
    experiment.shape.rate_per_s = RATE_PER_S;
    experiment.behaviours = FIRST_TOKEN_MS
        .map(|first_ms| Behaviour::Stream { first: Duration::from_millis(first_ms), length: STREAM })
        .to_vec();
    experiment.warm_up = Duration::from_secs(15);
    experiment.options = Options { unbuffered: true, ..Options::default() };
    experiment.contenders = stage.programs.available(&[
        Contender::Pincer,
        Contender::PincerNoSlots,
        Contender::NginxRoundRobin,
        Contender::NginxLeastConn,
        Contender::NginxRandomTwo,
        Contender::LeastTimeHeader,
        Contender::LeastTimeLastByte,
        Contender::LeastTimeInflight,
        Contender::Haproxy,
        Contender::HaproxyQueue,
        Contender::Envoy,
    ]);
    // Three rounds at once: 12 streams begin a second per contender, which costs nearly nothing.
    let heats = experiment.run(stage, &seeds(rounds), 3).await?;
    println!("  time to the first token:");
    let rows = rows(&heats, experiment.warm_up, Measure::FirstByte);
    print(&rows);
    for contender in [Contender::Pincer, Contender::PincerNoSlots] {
        if let Some(pincer) = find(&rows, contender.name()) {
            let what = format!("{}: p90 of the time to the first token, s", contender.name());
            verdicts.at_most(&what, pincer.median(|s| s.p90), 0.2);
        }
    }
    Ok(())
}
