//! The rate limiter's own benchmark, which is the core's `limit_bench`: checks a second beside a
//! mutex and a tree, instructions of one check, and a flood of random keys.
//!
//! The benchmark prints sentences; this scenario reads the numbers in them and checks the promises.
//! The best of several runs counts, since other load of the machine only makes a run worse.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::contender::{on_path, root_folder};
use crate::report::Verdicts;
use crate::run::Stage;

const EXAMPLE: &str = "limit_bench";

/// Runs of all that is timed.
const RUNS: usize = 3;

/// Checks of the two runs whose difference is counted.
const CHECKS: [u32; 2] = [10_000, 110_000];

/// Checks a second, over those of a mutex and a tree; on two cores.
const FASTER_MIN: f64 = 8.0;

/// Instructions of a check of a rate whose key's hash is ready.
const INSTRUCTIONS_MAX: f64 = 150.0;

/// Of a look-up in the flood, 99th percentile.
const LOOK_UP_NS_MAX: f64 = 1_000.0;

/// The part of its rate that a key gets in the flood.
const RATE_MIN: f64 = 0.99;

/// The figures of one run of the whole benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    /// Two threads' checks over those of the mutex and the tree.
    faster: f64,
    /// The worst p99 of a look-up among random keys, ns, the clock's cost with it.
    look_up_ns: f64,
    /// The least part of its rate that the key got.
    rate: f64,
}

/// `limiter`.
pub fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    if !root_folder().join("ngx-module/core/examples").join(EXAMPLE).with_extension("rs").exists() {
        println!("  left out: pincer-core has no example {EXAMPLE}");
        return Ok(());
    }
    let mut runs = Vec::new();
    for _ in 0..if stage.quick { 1 } else { RUNS } {
        let text = example(&[])?;
        text.lines().for_each(|line| println!("  {line}"));
        runs.push(Said::read(&text).with_context(|| format!("{EXAMPLE} said: {text}"))?);
    }
    let best =
        |figure: fn(&Said) -> f64, better: fn(f64, f64) -> f64| runs.iter().map(figure).reduce(better).unwrap_or(0.0);
    verdicts.at_least(
        "checks a second of a rate, its key's hash ready, over a mutex and a tree's, two threads",
        best(|s| s.faster, f64::max),
        FASTER_MIN,
    );
    verdicts.at_most("a look-up among 10^7 random keys, p99, ns", best(|s| s.look_up_ns, f64::min), LOOK_UP_NS_MAX);
    verdicts.at_least("part of its rate that a key gets among them", best(|s| s.rate, f64::min), RATE_MIN);
    instructions(verdicts)
}

impl Said {
    /// Reads the output of the benchmark; None if the output has another form.
    fn read(text: &str) -> Option<Self> {
        let threads = text.lines().find(|line| line.starts_with("2 threads"))?;
        // Three ratios: of the check of a rate whose hash is ready, which is what is promised; of
        // all that a request takes; and of that with the hash.
        let faster = threads.split_whitespace().rev().nth(2)?.strip_suffix('x')?.parse().ok()?;
        let floods: Vec<&str> = text.lines().filter(|line| line.contains("random keys of")).collect();
        let mut said = Said { faster, look_up_ns: 0.0, rate: 1.0 };
        for flood in &floods {
            let (_, got) = flood.split_once("the key got ")?;
            let [admitted, _, due] = [0, 1, 2].map(|word| got.split([' ', ',']).nth(word));
            said.rate = said.rate.min(admitted?.parse::<f64>().ok()? / due?.parse::<f64>().ok()?);
            let (_, times) = flood.split_once('(')?;
            let p99 = times.split_once(')')?.0.split(", ").nth(1)?;
            said.look_up_ns = said.look_up_ns.max(p99.parse().ok()?);
        }
        (!floods.is_empty()).then_some(said)
    }
}

fn example(arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--release", "-p", "pincer-core", "--example", EXAMPLE, "--"]).args(arguments);
    let output = command.current_dir(root_folder()).output().with_context(|| format!("running {EXAMPLE}"))?;
    if !output.status.success() {
        bail!("{EXAMPLE} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Instructions of a check by callgrind: the difference of two runs over the difference of their
/// checks.
fn instructions(verdicts: &mut Verdicts) -> Result<()> {
    if on_path("valgrind").is_none() {
        println!("  left out: instructions; no valgrind, run `make setup`");
        return Ok(());
    }
    // Beside this program: both are built with the release profile.
    let program = std::env::current_exe()?.with_file_name("examples").join(EXAMPLE);
    let each = |mode| -> Result<f64> {
        let [few, many] = CHECKS.map(|checks| counted(&program, mode, checks));
        Ok((many? - few?) / f64::from(CHECKS[1] - CHECKS[0]))
    };
    let the_loop = each("loop")?;
    for (mode, what, promised) in [
        ("rate", "instructions of a check of a rate, its key's hash ready", true),
        ("rates", "with counters, the headers' values and the request's end", false),
        ("checks", "and with a concurrency", false),
    ] {
        let each = each(mode)? - the_loop;
        if promised {
            verdicts.at_most(what, each, INSTRUCTIONS_MAX);
        } else {
            println!("          {what}: {each:.0}");
        }
    }
    Ok(())
}

fn counted(program: &Path, mode: &str, checks: u32) -> Result<f64> {
    let profile = tempfile::NamedTempFile::new()?;
    let out = format!("--callgrind-out-file={}", profile.path().display());
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &out])
        .arg(program)
        .args([mode, &checks.to_string()])
        .output()
        .context("running valgrind")?;
    if !output.status.success() {
        bail!("{EXAMPLE} under callgrind: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    super::instructions::total(profile.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_read_from_the_sentences() {
        let text = "1 threads, 1000 keys, million checks a second: rate alone 60.0, with x 30.0, mutex and tree 5.00: 12.0x 6.0x 4.0x
2 threads, 1000 keys, million checks a second: rate alone 99.0, with x 50.0, mutex and tree 3.00: 33.0x 16.5x 11.5x
10000000 random keys of its own class: the key got 1009 of 1011, evictions 12, ns p50/p99 with the clock's own cost (60, 400), of the key (50, 90)
10000000 random keys of another class: the key got 1011 of 1011, evictions 12, ns p50/p99 with the clock's own cost (60, 300), of the key (50, 90)";
        let said = Said::read(text).unwrap();
        assert_eq!(said, Said { faster: 33.0, look_up_ns: 400.0, rate: 1009.0 / 1011.0 });
        assert_eq!(Said::read("2 threads: fast"), None);
    }
}
