//! The processes of one nginx: who they are, and signals to them. Read from /proc; never touches a
//! process that is not a child of our master.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A child of the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its pid.
    pub pid: i32,
    /// What it is.
    pub role: Role,
}

/// What a child of the master is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves new requests.
    Worker,
    /// Of the old configuration: finishes its requests, then ends.
    Draining,
    /// Cache manager, cache loader, or not yet named.
    Helper,
}

/// The children of `master`, in the order of their pids.
#[must_use]
pub fn children(master: i32) -> Vec<Child> {
    let mut found: Vec<Child> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(master))
        .map(|pid| Child { pid, role: role(pid) })
        .collect();
    found.sort_by_key(|child| child.pid);
    found
}

/// The fourth field of /proc/PID/stat, after the name in parentheses; None for the dead and the not
/// yet buried.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.next()?.parse().ok()
}

fn role(pid: i32) -> Role {
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    // A program that its loader runs by name (`ld.so … nginx`) has the loader's words before its
    // own.
    match title.trim_end_matches('\0').rsplit('\0').next().unwrap_or_default().trim() {
        "nginx: worker process" => Role::Worker,
        "nginx: worker process is shutting down" => Role::Draining,
        _ => Role::Helper,
    }
}

/// Whether a process runs: neither gone nor waiting to be buried.
#[must_use]
pub fn runs(pid: i32) -> bool {
    parent(pid).is_some()
}

/// Sends a signal; false when there is no such process.
#[must_use]
pub fn signal(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The master's pid from its pid file.
#[must_use]
pub fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
