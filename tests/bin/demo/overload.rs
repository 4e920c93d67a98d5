//! Three times more requests than the replicas can serve, a fifth of them of a VIP: what either
//! class notices. Then the rate of the others is changed live.
//!
//! A control plane, two replicas and an nginx of its own: `nginx-conf/vip.conf` as it stands there.
//! Callers are told apart by API keys that `pincerctl` makes. Open loop: latency counts from the
//! planned moment. Takes some 16 s.

use std::time::{Duration, Instant};

use harness::client::CallError;
use harness::replica::Settings;
use harness::{Client, Nginx, Pincerd, Replica, Reply, eventually, load, stats};
use hyper::Method;

/// Slots of each of the two replicas, as `max_conns` says in vip.conf.
const SLOTS: usize = 4;
/// Mean time of a request, milliseconds: together the replicas serve 40 requests a second.
const SERVICE_MS: f64 = 200.0;
/// Requests a second of the VIP, and of all others together.
const RATES_PER_S: (f64, f64) = (24.0, 96.0);
/// Tenants without a class of their own.
const TENANTS: usize = 6;
/// Variation of the work.
const WORK_CV: f64 = 0.5;
/// VIPs alone, the overload, and the overload with the changed rate.
const PHASES_S: [u64; 3] = [4, 7, 4];
/// The same in every run.
const SEED: u64 = 11;

/// A request to be.
#[derive(Clone, Copy)]
struct Planned {
    at: Duration,
    work: f64,
    /// Which caller; the first is the VIP.
    caller: usize,
}

/// What became of one request.
struct Outcome {
    vip: bool,
    /// From the planned moment.
    time: Duration,
    answer: Result<Reply, CallError>,
}

/// Shows it all.
pub async fn show() {
    let pincerd = Pincerd::start().await;
    let settings = Settings { slots: SLOTS, ..Settings::served_in(SERVICE_MS) };
    let replicas = Replica::several(2, settings).await;
    let nginx = start(&pincerd, &replicas).await;
    let mut keys = vec![key(&pincerd, "acme", "vip").await];
    for tenant in 1..=TENANTS {
        keys.push(key(&pincerd, &format!("tenant-{tenant}"), "default").await);
    }
    println!("  $ pincerctl key create --tenant acme --class vip    (and {TENANTS} tenants of the class \"default\")");
    let (vip, others) = RATES_PER_S;
    let capacity = 2.0 * SLOTS as f64 * 1e3 / SERVICE_MS;
    println!(
        "  Two replicas of {SLOTS} slots: {capacity:.0} requests/s. The VIP sends {vip:.0}/s, the tenants {others:.0}/s.\n"
    );
    println!("  {:<28} {:>24}   tenants, {:.0}/s each", "", "VIP", others / TENANTS as f64);
    println!(
        "  {:<28} {:>8} {:>8} {:>6}   {:>8} {:>8} {:>6} {:>6}",
        "", "p50", "p95", "lost", "served/s", "p50", "429", "503"
    );
    let [alone, overload, changed] = PHASES_S.map(Duration::from_secs);
    phase(&nginx, &keys, "the VIP alone", &plan(alone, 0.0)).await;
    phase(&nginx, &keys, "three times too much", &plan(overload, others)).await;
    let change = ["--wait", "5s", "class", "set", "default", "--rate", "1r/s", "--burst", "1"];
    let said = pincerd.must(&change).await;
    println!("\n  $ pincerctl {}", change.join(" "));
    println!("{}\n", said.lines().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n"));
    phase(&nginx, &keys, "the same, tenants at 1 r/s", &plan(changed, others)).await;
    println!(
        "\n  Lost: the VIP's requests that were not answered with 200. 429: over the rate, or over 4 at once. A refusal says when to come back (Retry-After)."
    );
}

/// `nginx-conf/vip.conf` with the places of this run, connected.
async fn start(pincerd: &Pincerd, replicas: &[Replica]) -> Nginx {
    let (dev, control) = (format!("{}/", pincerd.dev().display()), pincerd.endpoint());
    let replacements = [
        ("127.0.0.1:9001", replicas[0].server()),
        ("127.0.0.1:9002", replicas[1].server()),
        ("127.0.0.1:9443", &control),
        ("/etc/nginx/pincer/", &dev),
        ("/var/lib/pincer/", "state/"),
        ("worker_processes auto", "worker_processes 2"),
    ];
    let mut nginx = Nginx::builder().example("vip.conf", &replacements).start().await;
    // An interrupted demo ends in the middle of requests.
    nginx.leave_in_flight();
    eventually("nginx is connected to the control plane", 10.0, || async {
        nginx.status().await.0["control_plane"]["connected"] == true
    })
    .await;
    nginx
}

/// A new API key, in force.
async fn key(pincerd: &Pincerd, tenant: &str, class: &str) -> String {
    let made = pincerd.json(&["--wait", "5s", "key", "create", "--tenant", tenant, "--class", class]).await;
    made["secret"].as_str().expect("a new key's secret").to_owned()
}

/// The VIP's arrivals, and those of all others together at `others_per_s`; these take turns.
fn plan(time: Duration, others_per_s: f64) -> Vec<Planned> {
    let of = |seed: u64, rate: f64| {
        let arrivals = if rate > 0.0 { load::poisson(seed, rate, time) } else { Vec::new() };
        let work = load::lognormal(seed, WORK_CV, arrivals.len());
        arrivals.into_iter().zip(work)
    };
    let vip = of(SEED, RATES_PER_S.0).map(|(at, work)| Planned { at, work, caller: 0 });
    let others = of(SEED + 1, others_per_s).enumerate();
    let mut planned: Vec<Planned> =
        vip.chain(others.map(|(number, (at, work))| Planned { at, work, caller: 1 + number % TENANTS })).collect();
    planned.sort_by_key(|request| request.at);
    planned
}

/// Sends what is planned, and prints a line of what became of it.
async fn phase(nginx: &Nginx, keys: &[String], what: &str, planned: &[Planned]) {
    let client = nginx.client();
    let arrivals: Vec<Duration> = planned.iter().map(|request| request.at).collect();
    let outcomes = load::open(&arrivals, |number, at| {
        let request = planned[number];
        one(client.clone(), keys[request.caller].clone(), request, at)
    })
    .await;
    print(what, &outcomes, arrivals.last().copied().unwrap_or_default());
}

async fn one(client: Client, key: String, request: Planned, planned: Instant) -> Outcome {
    let call = client.call(Method::POST, "/predict").header("authorization", format!("Bearer {key}"));
    let answer = call.header("x-work", request.work).send().await;
    Outcome { vip: request.caller == 0, time: planned.elapsed(), answer }
}

fn status(outcome: &Outcome) -> u16 {
    outcome.answer.as_ref().map_or(0, |reply| reply.status)
}

fn print(what: &str, outcomes: &[Outcome], length: Duration) {
    let times = |vip: bool| -> Vec<Duration> {
        outcomes.iter().filter(|o| o.vip == vip && status(o) == 200).map(|outcome| outcome.time).collect()
    };
    let (vip, others) = (times(true), times(false));
    let count = |code: u16| outcomes.iter().filter(|o| !o.vip && status(o) == code).count();
    let lost = outcomes.iter().filter(|o| o.vip && status(o) != 200).count();
    let ms = |times: &[Duration], percent| format!("{:5.0} ms", stats::percentile_s(times, percent) * 1e3);
    print!("  {what:<28} {} {} {lost:>6}", ms(&vip, 50.0), ms(&vip, 95.0));
    if outcomes.iter().any(|outcome| !outcome.vip) {
        let served_per_s = others.len() as f64 / length.as_secs_f64();
        print!("   {served_per_s:>8.1} {} {:>6} {:>6}", ms(&others, 50.0), count(429), count(503));
    }
    println!();
    let told = |reply: &Reply| reply.header("retry-after").parse::<u32>().is_ok();
    let silent = |o: &&Outcome| o.answer.as_ref().is_ok_and(|reply| [429, 503].contains(&reply.status) && !told(reply));
    let (silent, broken) =
        (outcomes.iter().filter(silent).count(), outcomes.iter().filter(|o| o.answer.is_err()).count());
    if silent + broken > 0 {
        println!("    but {silent} refusals came without Retry-After, and {broken} requests had no answer");
    }
}
