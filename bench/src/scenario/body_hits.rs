//! Cache hits by the request's body: the cost of the key, compared with nginx's `$request_body` and
//! with a key that ignores the body.
//!
//! Closed loop with wrk, as in [`super::cost`], in turns that rotate; then instructions of one hit
//! under callgrind, as in [`super::instructions`]. Every request is a hit, so the replica gets one
//! request per variant. The instructions are shown and not judged: callgrind does not see the
//! kernel, which does most of a hit. The bodies are random letters, sent again and again.
//!
//! Hits per second are taken with wrk on the other core. Processor time is taken with wrk on the
//! worker's own: a wrk that waits on another core must be woken there, which costs the worker a
//! microsecond or more, and more often the longer a hit takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::bodies::{BODY_BYTES_MAX, Key, body, ensure_cached};
use super::cost::{Slice, slice_from, start_pinned};
use super::cpu::{CLIENT_CORE, PROXY_CORE};
use super::instructions;
use super::plain::Backend;
use crate::client::Client;
use crate::contender::on_path;
use crate::report::Verdicts;
use crate::run::Stage;
use crate::stats::Spread;

/// A body's size, and how many times as many hits as `$request_body` it must give.
const SIZES: [(usize, f64); 2] = [(16 << 10, 4.5), (BODY_BYTES_MAX, 14.0)];

/// Of a hit with a body of the first size: processor time beside that with a constant key.
const OVER_CONSTANT_MAX: f64 = 1.2;

/// Places in [`Key::ALL`].
const CONSTANT: usize = 0;
const REQUEST_BODY: usize = 1;
/// The key that docs/cache.md recommends, and the key that covers as much of a request as
/// `$request_body` does.
const JUDGED: [usize; 2] = [2, 3];

/// `body_hits`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let Some(wrk) = on_path("wrk") else {
        println!("  left out: no wrk; run bench/setup.sh");
        return Ok(());
    };
    let backend = Backend::start(&stage.programs)?;
    for (place, (bytes, hits_min)) in SIZES.into_iter().enumerate() {
        let [hits, cpu] = measure(stage, &backend, &wrk, &body(1, bytes)).await?;
        report(bytes, &hits, &cpu);
        for judged in JUDGED {
            let name = format!("{} KB, {}", bytes >> 10, Key::ALL[judged].name);
            let hits = over(&hits, judged, REQUEST_BODY, |s| s.requests_per_s).median;
            verdicts.at_least(&format!("{name}: hits/s over $request_body's"), hits, hits_min);
            if place == 0 {
                let what = format!("{name}: processor time of a hit over a constant key's");
                verdicts.ratio(&what, over(&cpu, judged, CONSTANT, |s| s.cpu_us_per_request), OVER_CONSTANT_MAX);
            }
        }
    }
    if on_path("valgrind").is_none() {
        println!("  instructions left out: no valgrind; run `make setup`");
        return Ok(());
    }
    let bytes = SIZES[0].0;
    println!("\n  {:<36} {:>14} {:>12}", format!("a hit of {} KB", bytes >> 10), "instructions", "÷ constant");
    let constant = count(stage, &backend, &Key::CONSTANT, bytes).await?;
    for key in &Key::ALL {
        let own = if key.name == Key::CONSTANT.name { constant } else { count(stage, &backend, key, bytes).await? };
        println!("  {:<36} {own:14.0} {:12.3}", key.name, own / constant);
    }
    Ok(())
}

/// The turns of each key.
type Turns = Vec<Vec<Slice>>;

/// The turns with wrk on a core of its own, and on the worker's core.
async fn measure(stage: &Stage, backend: &Backend, wrk: &Path, body: &Arc<[u8]>) -> Result<[Turns; 2]> {
    // Short slices and many: those of a turn, which are compared, are but a few seconds apart, and
    // a shared machine's pace changes from one second to the next.
    let (slice_s, turns) = if stage.quick { (1, 6) } else { (1, 30) };
    let folder = tempfile::tempdir()?;
    let arguments = ["-s".to_owned(), script(folder.path(), body)?.display().to_string()];
    let mut proxies = Vec::new();
    for key in &Key::ALL {
        let running = start_pinned(key.prepare(&stage.programs, backend, true)?)?;
        if body.len() <= key.bytes_max {
            ensure_cached(key.name, &running, body).await?;
        } else {
            println!(
                "  {}: never a hit with bodies of {} KB, every request goes to the replica",
                key.name,
                body.len() >> 10
            );
        }
        proxies.push(running);
    }
    let mut measured = [(); 2].map(|()| -> Turns { proxies.iter().map(|_| Vec::new()).collect() });
    for (core, turns_there) in [CLIENT_CORE, PROXY_CORE].into_iter().zip(&mut measured) {
        for turn in 0..=turns {
            for place in 0..proxies.len() {
                let place = (place + turn) % proxies.len();
                let slice = slice_from(core, wrk, &arguments, &proxies[place], slice_s)?;
                // The first turn opens connections and warms caches.
                if turn > 0 {
                    turns_there[place].push(slice);
                }
            }
            eprintln!("  {} KB, wrk on core {core}: turn {turn} of {turns}", body.len() >> 10);
        }
    }
    Ok(measured)
}

/// The script with which wrk posts the body.
fn script(folder: &Path, body: &[u8]) -> Result<PathBuf> {
    let (path, content) = (folder.join("post.lua"), folder.join("body"));
    std::fs::write(&content, body)?;
    let text = format!(
        "local file = assert(io.open(\"{}\", \"rb\"))\nwrk.method = \"POST\"\nwrk.body = file:read(\"*a\")\nfile:close()\n",
        content.display()
    );
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// A figure of the turns of one key over that of another's in the same turn.
fn over(slices: &[Vec<Slice>], above: usize, below: usize, figure: fn(&Slice) -> f64) -> Spread {
    let pairs = slices[above].iter().zip(&slices[below]);
    Spread::of(pairs.map(|(above, below)| figure(above) / figure(below)))
}

fn report(bytes: usize, hits: &[Vec<Slice>], cpu: &[Vec<Slice>]) {
    let title = format!("key, bodies of {} KB", bytes >> 10);
    println!("\n  {title:<36} {:>9} {:>15} {:>12} {:>11}", "hits/s", "÷ $request_body", "cpu µs/hit", "÷ constant");
    for (place, key) in Key::ALL.iter().enumerate() {
        let median =
            |slices: &[Vec<Slice>], figure: fn(&Slice) -> f64| Spread::of(slices[place].iter().map(figure)).median;
        println!(
            "  {:<36} {:9.0} {:15.2} {:12.2} {:11.3}",
            key.name,
            median(hits, |s| s.requests_per_s),
            over(hits, place, REQUEST_BODY, |s| s.requests_per_s).median,
            median(cpu, |s| s.cpu_us_per_request),
            over(cpu, place, CONSTANT, |s| s.cpu_us_per_request).median,
        );
    }
    println!();
}

async fn count(stage: &Stage, backend: &Backend, key: &Key, bytes: usize) -> Result<f64> {
    let prepare = || key.prepare(&stage.programs, backend, false);
    instructions::per_request(&format!("hit.{}", key.name), prepare, |address| Client::posting(address, body(1, bytes)))
        .await
}
