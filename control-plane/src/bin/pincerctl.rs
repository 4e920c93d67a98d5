//! The operators' command. Exit status: see `pincer_control::ctl`.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ExitCode::from(pincer_control::ctl::main().await)
}
