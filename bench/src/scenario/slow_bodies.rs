//! A thousand bodies that arrive very slowly (slowhttptest), and their cost: the time of wrk's
//! requests, and the memory of the worker.
//!
//! One worker on a core of its own, started anew for each measurement so that its memory is its
//! own. wrk sends small requests from the other core, first alone, then with the slow bodies there.
//! Lanes: bodies that are not hashed, hashed as they come, and by their parts.
//!
//! slowhttptest sends its thousand pieces in a burst each second, from wrk's core; `nice` lets wrk
//! go first there, since what counts is the wait for nginx. On a shared machine wrk's p99 is either
//! below 1 ms or at the 3 to 4 ms for which something else had the core, with slow bodies and
//! without, in about half of the turns each; their medians are thrown like dice. Such noise only
//! adds, so many short turns are taken and the lower quartiles of both are compared; the medians
//! are shown beside them. slowhttptest is of Debian's package of that name.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bodies::{PASSED, prepare};
use super::cost::{slice, start_pinned};
use super::cpu::{CLIENT_CORE, pinned};
use super::plain::Backend;
use crate::contender::on_path;
use crate::process::Process;
use crate::report::Verdicts;
use crate::run::Stage;
use crate::stats::{Spread, quantile};

/// Slow clients.
const CONNECTIONS: usize = 1_000;
/// The size of nginx's buffer for a body in memory.
const BUFFER_BYTES: usize = 16 << 10;
/// The most memory that a slow client may cost beside its buffer.
const MORE_BYTES_MAX: usize = 8 << 10;
/// wrk's p99 beside the slow bodies over wrk's alone.
const P99_MAX: f64 = 2.0;
/// All slow clients are to be there within this time.
const ARRIVED_WITHIN: Duration = Duration::from_secs(20);

/// Name, directive, content type.
const LANES: [(&str, &str, &str); 3] = [
    ("not hashed", "", "application/octet-stream"),
    ("blake3", "pincer_body_hash blake3;", "application/octet-stream"),
    ("blake3 form=multipart", "pincer_body_hash blake3 form=multipart;", "multipart/form-data; boundary=edge"),
];

struct Turn {
    alone_ms: f64,
    beside_ms: f64,
    grown_bytes: f64,
}

/// `slow_bodies`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let (Some(wrk), Some(slow)) = (on_path("wrk"), on_path("slowhttptest")) else {
        println!("  left out: no wrk or no slowhttptest; run bench/setup.sh");
        return Ok(());
    };
    let (slice_s, turns) = if stage.quick { (2, 1) } else { (2, 15) };
    let backend = Backend::start(&stage.programs)?;
    let mut shown: Vec<Vec<Turn>> = LANES.iter().map(|_| Vec::new()).collect();
    for number in 1..=turns {
        for place in 0..LANES.len() {
            let place = (place + number) % LANES.len();
            shown[place].push(one(stage, &backend, place, &wrk, &slow, slice_s)?);
        }
        eprintln!("  turn {number} of {turns}");
    }
    report(&shown, verdicts);
    Ok(())
}

fn one(stage: &Stage, backend: &Backend, place: usize, wrk: &Path, slow: &Path, slice_s: u32) -> Result<Turn> {
    let (_, hash, kind) = LANES[place];
    let locations = format!(
        "location / {{ return 200 ok; }}
        location = /slow {{ {PASSED} {hash} client_body_buffer_size {BUFFER_BYTES}; client_body_timeout 1h; }}"
    );
    let prepared = prepare(&stage.programs, backend, true, true, &locations)?;
    let folder = tempfile::tempdir()?;
    let running = start_pinned(prepared)?;
    let latency = ["--latency".to_owned()];
    let alone_ms = p99_ms(&slice(wrk, &latency, &running, slice_s)?.said)?;
    let worker = *running.process.children().first().context("the proxy has no worker")?;
    let before = resident_bytes(worker);
    let (connections, url) = (CONNECTIONS.to_string(), format!("http://{}/slow", running.address));
    let mut words = pinned(CLIENT_CORE);
    words.extend(["nice", "-n", "19", &slow.display().to_string()].map(String::from));
    // A body of 8 KB that comes in pieces of up to 64 bytes a second, from clients that come within
    // two seconds.
    words.extend(["-B", "-c", &connections, "-r", "500", "-i", "1", "-x", "32", "-s", "8192"].map(String::from));
    words.extend(["-l", "600", "-v", "0", "-f", kind, "-u", &url].map(String::from));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let slow = Process::start(&words, &folder.path().join("log"))?;
    arrived(worker)?;
    let beside_ms = p99_ms(&slice(wrk, &latency, &running, slice_s)?.said)?;
    let grown_bytes = resident_bytes(worker) - before;
    drop(slow);
    Ok(Turn { alone_ms, beside_ms, grown_bytes })
}

/// Waits until the worker holds a connection of every slow client.
fn arrived(worker: u32) -> Result<()> {
    let start = Instant::now();
    let open = || std::fs::read_dir(format!("/proc/{worker}/fd")).map_or(0, Iterator::count);
    while open() < CONNECTIONS {
        if start.elapsed() > ARRIVED_WITHIN {
            bail!("only {} descriptors are open after {ARRIVED_WITHIN:?}", open());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Memory of the process that is not swapped out; zero when it is gone.
fn resident_bytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().map_or(0.0, |kb: f64| kb * 1024.0)
}

/// wrk's line of the 99th percentile: `99%    1.23ms`.
fn p99_ms(said: &str) -> Result<f64> {
    let text = said.lines().find_map(|line| line.trim().strip_prefix("99%")).map(str::trim).unwrap_or_default();
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let ms = units.iter().find_map(|(unit, ms)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * ms));
    ms.with_context(|| format!("wrk said: {said}"))
}

fn report(shown: &[Vec<Turn>], verdicts: &mut Verdicts) {
    println!("\n  ms, wrk's p99: lower quartile (median) of {} turns", shown.first().map_or(0, Vec::len));
    println!("  {:<24} {:>16} {:>16} {:>8} {:>18}", "", "alone", "beside them", "ratio", "KB for each");
    let [alone, beside] = [|turn: &Turn| turn.alone_ms, |turn: &Turn| turn.beside_ms];
    let each_kb = |turns: &[Turn]| Spread::of(turns.iter().map(|turn| turn.grown_bytes / CONNECTIONS as f64 / 1024.0));
    let ratio = |turns: &[Turn]| quartile(turns, beside) / quartile(turns, alone);
    for ((name, ..), turns) in LANES.iter().zip(shown) {
        let cell =
            |figure| format!("{:.3} ({:.3})", quartile(turns, figure), Spread::of(turns.iter().map(figure)).median);
        let (alone, beside) = (cell(alone), cell(beside));
        println!("  {name:<24} {alone:>16} {beside:>16} {:8.2} {:18.1}", ratio(turns), each_kb(turns).median);
    }
    println!();
    for ((name, ..), turns) in LANES.iter().zip(shown).skip(1) {
        let what = format!("{name}: wrk's p99 beside {CONNECTIONS} slow bodies over wrk's alone, lower quartiles");
        verdicts.at_most(&what, ratio(turns), P99_MAX);
        let what = format!("{name}: KB of memory for each slow body, its buffer included");
        verdicts.at_most(&what, each_kb(turns).high, (BUFFER_BYTES + MORE_BYTES_MAX) as f64 / 1024.0);
    }
}

/// The lower quartile of a figure of the turns.
fn quartile(turns: &[Turn], figure: fn(&Turn) -> f64) -> f64 {
    let mut sorted: Vec<f64> = turns.iter().map(figure).collect();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_wrk_are_read_in_any_unit() {
        for (line, ms) in [("  99%  850.00us", 0.85), ("  99%    1.23ms", 1.23), ("     99%    2.00s ", 2000.0)] {
            assert!((p99_ms(&format!("  90% 1.00us\n{line}\n")).unwrap() - ms).abs() < 1e-9, "{line}");
        }
        assert!(p99_ms("nothing").is_err());
    }
}
