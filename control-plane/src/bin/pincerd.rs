//! The control plane's service. Exit status: 0 ended by a signal, 1 failed, 2 wrong command line.

use std::{io, process::ExitCode};

use clap::Parser as _;
use pincer_control::daemon::{self, Args, LogFormat};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("PINCER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    match daemon::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "pincer: pincerd ends");
            ExitCode::from(error.exit_code())
        }
    }
}
