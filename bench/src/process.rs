//! Child processes that never outlive the benchmark, and their processor time.
//!
//! Children are started through setpriv(1), so that the kernel ends them when this process dies.
//! They are stopped with SIGTERM, awaited, and killed only if they do not end. Only processes that
//! this module started are signalled. Bound: `STOP_WAIT` per child.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A child is given this long to end after SIGTERM.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// A proxy is given this long to listen. Under valgrind a start takes some seconds.
const START_WAIT: Duration = Duration::from_secs(60);

/// The interval at which a condition is polled.
const POLL: Duration = Duration::from_millis(20);

/// SIGTERM is sent again after so many polls.
const TERM_EVERY: u32 = 25;

/// A running child; dropping it stops it.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` (program and arguments) with its output in `log`.
    pub fn start(command: &[&str], log: &Path) -> Result<Self> {
        let output = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Process { child, name: command.join(" ") })
    }

    /// Waits until something accepts connections at `address`; an error with the log's end when the
    /// child ends first.
    pub fn listening(&mut self, address: SocketAddr, log: &Path) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > START_WAIT {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(5).collect();
                bail!("{} does not listen: {}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join(" | "));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The process id. setpriv replaces itself by the program, so the id is the program's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Children of this process: an nginx master's workers.
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{pid}/task/{pid}/children", pid = self.pid());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Stops the child and waits for its end.
    pub fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let start = Instant::now();
        while start.elapsed() < STOP_WAIT {
            // SIGTERM is repeated: an nginx without a master may check for signals just before one
            // comes, and then wait for the next event.
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
            for _ in 0..TERM_EVERY {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(POLL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A free address of the loopback.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Processor time that `pid` has used, in the kernel's ticks of 10 ms; zero when it is gone.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th fields
    // after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// How busy the whole machine was since `Meter::start`.
pub struct Meter {
    at_start: (u64, u64),
}

impl Meter {
    /// Begins measuring.
    pub fn start() -> Self {
        Meter { at_start: machine_ticks() }
    }

    /// Share of all cores' time that was not idle, 0 to 1.
    pub fn busy(&self) -> f64 {
        let (busy, total) = machine_ticks();
        let total = total.saturating_sub(self.at_start.1).max(1);
        busy.saturating_sub(self.at_start.0) as f64 / total as f64
    }
}

/// (not idle, all) ticks since boot.
fn machine_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; the guest fields after these are counted in
    // user already.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let total: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// Raises the limit of file descriptors of this process and its children to the most that the
/// machine allows. If that fails, the limit stays.
pub fn raise_descriptor_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: now.maximum.map(|maximum| maximum.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ends_early_is_an_error_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = Process::start(&["sh", "-c", "echo no such option; exit 1"], &log).unwrap();
        let error = process.listening(free_address().unwrap(), &log).unwrap_err();
        assert!(error.to_string().contains("no such option"), "{error}");
    }

    #[test]
    fn dropping_a_process_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(&["sleep", "1000"], &folder.path().join("log")).unwrap();
        let path = format!("/proc/{}", process.pid());
        assert!(Path::new(&path).exists());
        drop(process);
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn the_processor_time_of_a_busy_process_grows() {
        let start = Instant::now();
        while cpu_time(std::process::id()).is_zero() {
            assert!(start.elapsed() < Duration::from_secs(30));
        }
    }
}
