//! `make demo`: a chat service over four replicas, balanced by nginx itself and by Pincer at the
//! same time, then changed while it runs.
//!
//! Starts a control plane, replicas and three nginx, all on the loopback; sends every request to
//! all three with the same work; prints a table side by side; sets a weight and drains a replica
//! with `pincerctl`; sends images and prompts again and again to a cache; overloads two replicas
//! with two classes of callers; stops everything. Takes about a minute and a half. With `--keep` it
//! goes on until Ctrl-C.

mod cache;
mod cluster;
mod live;
mod overload;
mod screen;
mod table;
mod traffic;

use std::time::Duration;

use clap::Parser;
use cluster::Cluster;
use traffic::Plan;

/// Shows nginx's own balancing and Pincer's side by side, then live changes.
#[derive(Parser)]
struct Options {
    /// Leave everything running until Ctrl-C, and print commands to try.
    #[arg(long)]
    keep: bool,
    /// Seconds of traffic for the comparison.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = show(&options) => {}
        _ = tokio::signal::ctrl_c() => println!("\nstopping"),
        _ = terminate.recv() => println!("\nstopping"),
    }
    Ok(())
}

async fn show(options: &Options) {
    screen::step("Starting a control plane, three times four replicas, and three nginx in front of them");
    let cluster = Cluster::start().await;
    cluster.describe();

    screen::step("The same requests to all three, at the same moments, with the same work");
    let plan = Plan::new(cluster::REQUESTS_PER_S, Duration::from_secs(options.seconds));
    let results = traffic::run(&cluster.lanes, &plan).await;
    table::comparison(&cluster.lanes, &results);

    screen::step("Live changes: no reload, no restart, no request lost");
    live::changes(&cluster).await;

    screen::step("The cache: the same image, the same prompt, one call of a replica");
    cache::show().await;

    screen::step("An overload: VIPs go first, the rest is slowed down and told when to come back");
    overload::show().await;

    if options.keep {
        live::keep(&cluster).await;
    }
    screen::step("Stopping");
}
