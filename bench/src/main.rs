//! Measures Pincer side by side with nginx, HAProxy, Envoy and an oracle. See README.md beside this
//! crate's manifest for the method.
//!
//! One runtime thread drives clients and replicas; the contenders are processes of their own. At
//! the end it prints the promises kept and broken; the exit status is 1 if a full run broke one.

mod client;
mod contender;
mod http;
mod oracle;
mod pool;
mod process;
mod replica;
mod report;
mod run;
mod scenario;
mod stats;
mod timer;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Parser;

use report::Verdicts;
use run::Stage;
use scenario::Scenario;

/// File descriptors asked for: two per request in flight, and collapsing contenders hold many.
const DESCRIPTORS: u64 = 65_536;

/// Measures Pincer beside its peers. Without scenarios: all but `pool6s`, about 70 minutes.
#[derive(Parser)]
struct Arguments {
    /// What to measure, in this order.
    scenarios: Vec<Scenario>,
    /// Short runs, which prove nothing; broken promises don't count.
    #[arg(long)]
    quick: bool,
    /// Write every request of every lane to a file of its own in this folder: at, work, status,
    /// fate, latency, first byte, replica.
    #[arg(long, value_name = "FOLDER")]
    dump: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::raise_descriptor_limit(DESCRIPTORS);
    // An interrupt drops the work, which stops every process that it started.
    let done = tokio::select! {
        done = measure(&arguments) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match done {
        Ok(verdicts) => {
            println!("\n{} promises looked at, {} broken", verdicts.judged, verdicts.broken);
            let failed = verdicts.broken > 0 && !arguments.quick;
            if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("pincer-bench: {}", error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "));
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<Verdicts> {
    let stage = Stage::new(arguments.quick, arguments.dump.clone())?;
    let scenarios = if arguments.scenarios.is_empty() { &Scenario::DEFAULT[..] } else { &arguments.scenarios };
    let mut verdicts = Verdicts::default();
    for scenario in scenarios {
        let start = Instant::now();
        println!("\n== {scenario:?}");
        scenario.run(&stage, &mut verdicts).await?;
        println!("  ({:.0} s)", start.elapsed().as_secs_f64());
    }
    Ok(verdicts)
}
