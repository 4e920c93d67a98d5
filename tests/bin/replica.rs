//! One inference replica as a process of its own: for the demo, for benches, and to try a
//! configuration by hand.
//!
//! Prints `replica NAME listens on ADDRESS` when it accepts. Ends on SIGINT or SIGTERM. Settings
//! change over `/_control`:
//! `curl -d '{"slow_factor":10}' -H content-type:application/json ADDRESS/_control`; a replica that
//! refuses connections cannot be reached there either.

use std::net::SocketAddr;

use clap::Parser;
use harness::Replica;
use harness::replica::Settings;

/// A small inference replica: chat with SSE, /predict, WebSocket; slots, speed and faults that can
/// change.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Name in every body and in X-Replica.
    #[arg(long, default_value = "replica")]
    name: String,
    /// Requests in service at once; 0 = no limit.
    #[arg(long, default_value_t = 0)]
    slots: usize,
    /// Mean service time of /predict and plain requests, ms.
    #[arg(long, default_value_t = 0.0)]
    service_ms: f64,
    /// Chat: time to the first token, ms.
    #[arg(long, default_value_t = 0.0)]
    ttft_ms: f64,
    /// Chat: time between tokens, ms.
    #[arg(long, default_value_t = 0.0)]
    token_interval_ms: f64,
    /// Chat: tokens, unless the request says max_tokens.
    #[arg(long, default_value_t = 20)]
    tokens: u32,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let settings = Settings {
        slots: options.slots,
        service_ms: options.service_ms,
        ttft_ms: options.ttft_ms,
        token_interval_ms: options.token_interval_ms,
        tokens: options.tokens,
        ..Settings::default()
    };
    let replica = Replica::named(&options.name).addr(options.listen).settings(settings).try_start().await?;
    println!("replica {} listens on {}", replica.name(), replica.server());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
