//! Instructions per request, counted by callgrind, which have no noise as times have.
//!
//! A single-process nginx serves a number of requests one after the other on one connection, then
//! more of them in a second run; the difference over the difference in requests is the cost of one
//! request, without start and stop. Profiles stay in target/bench for callgrind_annotate.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::plain::{Backend, PEERS, Prepared, VARIANTS, Variant};
use crate::client::{Client, Fate};
use crate::contender::{Running, on_path, root_folder};
use crate::report::Verdicts;
use crate::run::Stage;

/// Requests of the two runs. The first is past slow start, lazy binding and the opening of
/// connections.
const REQUESTS: [u32; 2] = [1_000, 4_000];

/// Peers of the upstreams measured; the promise is judged with the most, since Pincer looks at
/// each.
const UPSTREAMS: [usize; 2] = [2, PEERS];

/// Instructions that Pincer may add to a request.
const MORE_MAX: f64 = 1_000.0;

/// `instructions`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    if on_path("valgrind").is_none() {
        println!("  left out: no valgrind; run `make setup`");
        return Ok(());
    }
    let backend = Backend::start(&stage.programs)?;
    for peers in UPSTREAMS {
        let bench = Bench { stage, backend: &backend, peers };
        bench.compare(verdicts).await?;
    }
    Ok(())
}

/// Values that all counts of one table share.
struct Bench<'a> {
    stage: &'a Stage,
    backend: &'a Backend,
    peers: usize,
}

impl Bench<'_> {
    async fn compare(&self, verdicts: &mut Verdicts) -> Result<()> {
        println!("  {:<34} {:>14} {:>16}", format!("{} peers", self.peers), "instructions", "more than plain");
        let mut plain = None;
        let mut ours = Vec::new();
        for variant in VARIANTS.iter().filter(|variant| variant.can_run(&self.stage.programs)) {
            let cost = self.per_request(variant).await?;
            let more = cost - *plain.get_or_insert(cost);
            println!("  {:<34} {cost:14.0} {more:16.0}", variant.name);
            if variant.name.starts_with("pincer") {
                ours.push((variant.name, more));
            }
        }
        for (name, more) in ours.iter().filter(|_| self.peers == PEERS) {
            let what = format!("{name}: instructions more than plain nginx, {PEERS} peers");
            verdicts.at_most(&what, *more, MORE_MAX);
        }
        Ok(())
    }

    async fn per_request(&self, variant: &Variant) -> Result<f64> {
        let prepare = || variant.prepare(&self.stage.programs, self.backend, self.peers, false);
        per_request(&format!("{}.{}peers", variant.name, self.peers), prepare, Client::new).await
    }
}

/// Instructions of one request to what `prepare` makes ready, of a single process, asked by what
/// `client` makes; the profiles are called `name`.
pub async fn per_request(
    name: &str,
    prepare: impl Fn() -> Result<Prepared>,
    client: impl Fn(SocketAddr) -> Client,
) -> Result<f64> {
    let mut totals = [0.0; 2];
    for (sum, requests) in totals.iter_mut().zip(REQUESTS) {
        let prepared = prepare()?;
        let kept = root_folder().join("target/bench");
        std::fs::create_dir_all(&kept)?;
        let name: String = name.chars().filter(|c| c.is_alphanumeric() || *c == '.').collect();
        let profile = kept.join(format!("callgrind.{name}.{requests}"));
        let option = format!("--callgrind-out-file={}", profile.display());
        let mut command: Vec<String> = ["valgrind", "--tool=callgrind", &option].map(String::from).to_vec();
        command.extend(prepared.command);
        let running = Running::start(&command, prepared.address, prepared.folder)?;
        let client = client(running.address);
        for _ in 0..requests {
            ensure!(client.ask(1.0).await.fate() == Fate::Succeeded, "{name}: a request failed");
        }
        // Ends the process, which writes the profile.
        drop(running);
        *sum = total(&profile)?;
    }
    Ok((totals[1] - totals[0]) / f64::from(REQUESTS[1] - REQUESTS[0]))
}

/// Instructions of a whole run, by its profile.
pub fn total(profile: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(profile).with_context(|| format!("reading {}", profile.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    line.and_then(|total| total.trim().parse().ok()).with_context(|| format!("no total in {}", profile.display()))
}
