//! Sends the same bytes to a stock nginx and to one with the module and every directive that should
//! change nothing, and compares what clients get and what the origin receives.
//!
//! Inputs run many at a time; whatever differs is run again alone, three times on each side. A
//! difference counts when each side is like itself all three times and unlike the other; it is made
//! small and printed. A worker that dies, an `[alert]`, a request that stays counted fail the run
//! too, unless stock nginx logs the same at the same request or dies at the same place. Exit
//! status: 0 nothing, 1 something was found. `tools/fuzz-connections.sh` runs it.

mod conf;
mod crash;
mod documented;
mod faults;
mod fuzz;
mod grammar;
mod http2;
mod input;
mod origin;
mod report;
mod response;
mod send;
mod shrink;
mod sides;
mod text;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fuzz::Fuzz;

/// Compares stock nginx with one that has the module, by hostile input.
#[derive(Parser)]
struct Options {
    /// For how long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed; random without it.
    #[arg(long)]
    seed: Option<u64>,
    /// Inputs at a time.
    #[arg(long, default_value_t = 48)]
    parallel: usize,
    /// Stops after so many findings.
    #[arg(long, default_value_t = 5)]
    findings: usize,
    /// Runs only the input of this number, and shows both sides.
    #[arg(long)]
    only: Option<u64>,
    /// Runs only the inputs of these numbers, again and again, all beside each other: for a fault
    /// that none of them causes alone.
    #[arg(long, value_name = "FROM-TO", value_parser = range)]
    again: Option<Range<u64>>,
    /// Prints what is not stable too.
    #[arg(long)]
    unstable: bool,
}

/// `FROM-TO`, both within.
fn range(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (from, to) = text.split_once('-').ok_or("FROM-TO is needed")?;
    let range = number(from)?..number(to)?.saturating_add(1);
    if range.is_empty() { Err("FROM must not be above TO".to_owned()) } else { Ok(range) }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(rand::random::<u64>);
    println!("difference: seed {seed}, {} s", options.seconds);
    let fuzz = Arc::new(Fuzz::start(&options, seed).await);
    match options.only {
        Some(number) => fuzz.show(number).await,
        None => fuzz.run(Duration::from_secs(options.seconds)).await,
    }
    let report = fuzz.report().await;
    print!("{report}");
    if let Ok(fuzz) = Arc::try_unwrap(fuzz) {
        fuzz.stop();
    }
    if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
