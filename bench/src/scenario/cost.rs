//! The cost of Pincer per request: requests per second and processor time against plain nginx, and
//! the time of one pick.
//!
//! Closed loop with wrk, since only a saturated worker shows its cost. The proxy's single worker
//! has a core of its own; wrk and the replicas, an nginx that responds from memory, share the
//! other. Variants take turns in short slices, in an order that rotates, so that other load of the
//! machine affects all of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpu::{CLIENT_CORE, PROXY_CORE, pinned};
use super::plain::{Backend, PEERS, Prepared, VARIANTS, Variant};
use crate::contender::{Programs, Running, root_folder};
use crate::process::cpu_time;
use crate::report::Verdicts;
use crate::run::Stage;
use crate::stats::Spread;

/// Connections that wrk keeps busy.
const CONNECTIONS: usize = 64;

/// The result of a proxy over some seconds.
pub struct Slice {
    /// Responses per second.
    pub requests_per_s: f64,
    /// Processor time of its worker per request, µs.
    pub cpu_us_per_request: f64,
    /// The output of wrk.
    pub said: String,
}

/// `throughput`.
pub async fn throughput(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let Some(wrk) = crate::contender::on_path("wrk") else {
        println!("  left out: no wrk; run bench/setup.sh");
        return Ok(());
    };
    let (slice_s, turns) = if stage.quick { (2, 3) } else { (5, 12) };
    let backend = Backend::start(&stage.programs)?;
    let mut proxies = Vec::new();
    for variant in VARIANTS.iter().filter(|variant| variant.can_run(&stage.programs)) {
        proxies.push((variant, start(variant, &stage.programs, &backend)?));
    }
    println!("  {turns} turns of {slice_s} s each for {} variants, {CONNECTIONS} connections", proxies.len());
    let mut slices: Vec<Vec<Slice>> = proxies.iter().map(|_| Vec::new()).collect();
    for turn in 0..=turns {
        for place in 0..proxies.len() {
            let place = (place + turn) % proxies.len();
            let slice = slice(&wrk, &[], &proxies[place].1, slice_s)?;
            // The first turn opens connections and warms caches.
            if turn > 0 {
                slices[place].push(slice);
            }
        }
        eprintln!("  turn {turn} of {turns}");
    }
    let names: Vec<&str> = proxies.iter().map(|(variant, _)| variant.name).collect();
    report(&names, &slices, verdicts);
    Ok(())
}

fn start(variant: &Variant, programs: &Programs, backend: &Backend) -> Result<Running> {
    start_pinned(variant.prepare(programs, backend, PEERS, true)?)
}

/// Starts a proxy on its core.
pub fn start_pinned(prepared: Prepared) -> Result<Running> {
    let mut command = pinned(PROXY_CORE);
    command.extend(prepared.command);
    Running::start(&command, prepared.address, prepared.folder)
}

/// Lets wrk, on a core of its own, keep the proxy busy, with these further arguments. A response
/// other than 2xx or 3xx is an error.
pub fn slice(wrk: &Path, arguments: &[String], proxy: &Running, seconds: u32) -> Result<Slice> {
    slice_from(CLIENT_CORE, wrk, arguments, proxy, seconds)
}

/// As [`slice`], with wrk on this core.
pub fn slice_from(core: usize, wrk: &Path, arguments: &[String], proxy: &Running, seconds: u32) -> Result<Slice> {
    let worker = *proxy.process.children().first().context("the proxy has no worker")?;
    let mut words = pinned(core);
    words.extend([&wrk.display().to_string(), "-t1", &format!("-c{CONNECTIONS}")].map(String::from));
    words.push(format!("-d{seconds}s"));
    words.extend_from_slice(arguments);
    words.push(format!("http://{}/", proxy.address));
    let before = cpu_time(worker);
    let output = Command::new(&words[0]).args(&words[1..]).output().context("running wrk")?;
    let cpu = cpu_time(worker).saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Non-2xx") || text.contains("Socket errors") || !output.status.success() {
        bail!("wrk saw errors: {text}");
    }
    let number_of =
        |find: &dyn Fn(&str) -> Option<String>| text.lines().find_map(find).and_then(|n| n.parse::<f64>().ok());
    let requests = number_of(&|line| line.trim().split_once(" requests in ").map(|(count, _)| count.to_owned()));
    let rate = number_of(&|line| line.strip_prefix("Requests/sec:").map(|rate| rate.trim().to_owned()));
    let (Some(requests), Some(requests_per_s)) = (requests, rate) else { bail!("wrk said: {text}") };
    Ok(Slice { requests_per_s, cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests, said: text.into_owned() })
}

fn report(names: &[&str], slices: &[Vec<Slice>], verdicts: &mut Verdicts) {
    let over_plain = |place: usize, figure: fn(&Slice) -> f64| {
        let pairs = slices[place].iter().zip(&slices[0]);
        Spread::of(pairs.map(|(mine, plain)| figure(mine) / figure(plain)))
    };
    println!("\n  {:<34} {:>12} {:>8} {:>12} {:>8}", "", "requests/s", "÷ plain", "cpu µs/req", "÷ plain");
    for (place, name) in names.iter().enumerate() {
        let median = |figure: fn(&Slice) -> f64| Spread::of(slices[place].iter().map(figure)).median;
        println!(
            "  {name:<34} {:12.0} {:8.3} {:12.2} {:8.3}",
            median(|s| s.requests_per_s),
            over_plain(place, |s| s.requests_per_s).median,
            median(|s| s.cpu_us_per_request),
            over_plain(place, |s| s.cpu_us_per_request).median,
        );
    }
    println!();
    for (place, name) in names.iter().enumerate().filter(|(_, name)| name.starts_with("pincer")) {
        let ratio = over_plain(place, |s| s.requests_per_s);
        let what = format!("{name}: requests/s over plain nginx's (turns {:.3} to {:.3})", ratio.low, ratio.high);
        verdicts.at_least(&what, ratio.median, 0.97);
    }
}

/// The core's micro-benchmarks: the example's name, its arguments, and what its nanoseconds are if
/// a promise is made of them.
const EXAMPLES: [(&str, &[&str], Option<&str>); 2] =
    [("pick_bench", &[], Some("a pick among 8 peers, ns")), ("zone_bench", &["8", "4"], None)];

/// Runs of a micro-benchmark. The least counts, since other load of the machine only adds.
const RUNS: usize = 5;

/// The most that a pick may take.
const PICK_NS_MAX: f64 = 200.0;

/// `pick`: the core's own micro-benchmarks. Only the pick itself is judged, not the claim and the
/// release around it.
pub fn pick(verdicts: &mut Verdicts) -> Result<()> {
    for (name, arguments, promise) in EXAMPLES {
        if !root_folder().join("ngx-module/core/examples").join(format!("{name}.rs")).exists() {
            println!("  left out: pincer-core has no example {name}");
            continue;
        }
        let mut runs = (0..RUNS).map(|_| example(name, arguments)).collect::<Result<Vec<_>>>()?;
        runs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let Some((ns, line)) = runs.first() else { continue };
        println!("  {name}, least of {RUNS} runs: {line}");
        if let Some(promise) = promise {
            verdicts.at_most(promise, *ns, PICK_NS_MAX);
        }
    }
    Ok(())
}

/// Runs one example; gives the nanoseconds of its line about eight peers, and that line.
fn example(name: &str, arguments: &[&str]) -> Result<(f64, String)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--release", "-p", "pincer-core", "--example", name, "--"])
        .args(arguments)
        .current_dir(root_folder())
        .output()
        .with_context(|| format!("running the example {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the example {name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let line = text.lines().find(|line| line.contains("8 peers")).with_context(|| format!("{name} said: {text}"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| word.starts_with("ns"));
    let number = unit.and_then(|unit| words.get(unit.checked_sub(1)?)?.parse().ok());
    Ok((number.with_context(|| format!("no nanoseconds in {line:?}"))?, line.to_owned()))
}
