//! Runs a command to its end, bounded in time.

use tokio::process::Command;

use crate::limit;
use crate::pincerd::Told;

/// Runs it and collects what it says; it is killed when this is dropped.
///
/// # Panics
/// When it cannot be started or takes over `seconds`.
pub async fn run(command: &mut Command, seconds: f64) -> Told {
    let running = command.kill_on_drop(true).stdin(std::process::Stdio::null()).output();
    let output = tokio::time::timeout(limit(seconds), running).await;
    let output = output.expect("the command ends in its time").expect("the command starts");
    Told {
        code: output.status.code().unwrap_or(-1),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
