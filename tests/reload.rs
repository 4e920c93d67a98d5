//! Reloads under load and while requests wait, binary upgrades, and configurations that change what
//! there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::client::sse;
use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, load, stats};
use hyper::Method;
use tokio::task::{JoinHandle, JoinSet};

const RELOADS: usize = 20;
/// Load before and during reloads: clients at once, one request after the other.
const CLIENTS: usize = 8;
/// What is measured before the reloads, and after the last of them.
const WINDOW: Duration = Duration::from_secs(2);
/// The aim is 1.1 on an idle machine; here others may compute beside us.
const P95_RATIO_MAX: f64 = 1.5;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A closed loop over connections of their own, that notes when each request ended and how long it
/// took.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<(Instant, Duration, u16)>>,
}

impl Load {
    fn start(nginx: &Nginx, clients: usize) -> Self {
        let mut load = Self { stop: Arc::default(), clients: JoinSet::new() };
        for _ in 0..clients {
            let (client, stop) = (Client::single(&nginx.url()), Arc::clone(&load.stop));
            load.clients.spawn(async move {
                let mut ends = Vec::new();
                while !stop.load(SeqCst) {
                    let reply = client.call(Method::GET, "/").send().await;
                    let (took, status) = reply.map_or((Duration::ZERO, 0), |reply| (reply.total_time, reply.status));
                    ends.push((Instant::now(), took, status));
                }
                ends
            });
        }
        load
    }

    async fn end(self) -> Vec<(Instant, Duration, u16)> {
        self.stop.store(true, SeqCst);
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

fn p95_ms(ends: &[(Instant, Duration, u16)], from: Instant, to: Instant) -> f64 {
    let within = ends.iter().filter(|(end, ..)| (from..to).contains(end));
    stats::percentile_s(&within.map(|(_, took, _)| *took).collect::<Vec<_>>(), 95.0) * 1e3
}

fn lost(ends: &[(Instant, Duration, u16)]) -> usize {
    ends.iter().filter(|(.., status)| *status != 200).count()
}

fn queued(replicas: &[Replica], parameters: &str) -> Builder {
    let directives = "pincer_balance; pincer_queue size=500 timeout=20s;";
    Nginx::builder().balanced(directives, Replica::servers(replicas), parameters)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_under_load_lose_no_request_and_nothing_that_was_learned() {
    let mut replicas = Replica::several(2, Settings::served_in(40.0)).await;
    for name in ["slow1", "slow2"] {
        replicas.push(Replica::named(name).service(ms(600)).start().await);
    }
    let nginx = queued(&replicas, "max_conns=8").workers(2).start().await;
    // Learn first.
    load::gets(&nginx.client(), "/", 200, CLIENTS).await;
    let load = Load::start(&nginx, CLIENTS);
    let learning = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let learned = nginx.status().await.upstream("u");
    let first = Instant::now();
    for _ in 0..RELOADS {
        nginx.reload().await;
        tokio::time::sleep(WINDOW / 10).await;
    }
    let last = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let ends = load.end().await;
    let (before, during) = (p95_ms(&ends, learning, first), p95_ms(&ends, first, last));
    let after = p95_ms(&ends, last, last + WINDOW);
    println!(
        "{} requests over {RELOADS} reloads in {:.1} s, {} lost; p95 {before:.1} ms before, {during:.1} ms during, {after:.1} ms after: {:.2}x and {:.2}x",
        ends.len(),
        last.duration_since(first).as_secs_f64(),
        lost(&ends),
        during / before,
        after / before,
    );
    assert_eq!(lost(&ends), 0, "{}", nginx.tail());
    let now = nginx.status().await.upstream("u");
    for replica in &replicas {
        let (then, now) = (learned.peer(replica.server()), now.peer(replica.server()));
        assert!(now.number("/requests") >= then.number("/requests"), "counters are kept");
        let drift = now.number("/service_ms") / then.number("/service_ms");
        assert!((0.5..2.0).contains(&drift), "{}: {drift}", replica.name());
    }
    assert!(during <= before * P95_RATIO_MAX && after <= before * P95_RATIO_MAX, "p95 {before} {during} {after}");
    eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
    assert_eq!(nginx.status().await.0["workers"].as_array().map(Vec::len), Some(2));
}

fn ask(client: &Client, id: usize) -> JoinHandle<u16> {
    let call = client.call(Method::GET, "/").header("x-id", id);
    tokio::spawn(async move { call.send().await.map_or(0, |reply| reply.status) })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_through_four_two_six_one_and_four_workers() {
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let mut nginx = queued(&replicas, "max_conns=2").workers(4).start().await;
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let client = Client::single(&nginx.url());
    let mut pending = Vec::new();
    for workers in [2, 6, 1, 4] {
        for _ in 0..20 {
            pending.push(ask(&client, pending.len()));
        }
        let all = pending.len() as u64;
        let there = || async { nginx.status().await.waiting() + 4 == all };
        eventually("four hold slots, all others wait", 5.0, there).await;
        nginx.reconfigure(|builder| builder.workers(workers)).await;
        assert_eq!(nginx.status().await.in_flight(), 4);
    }
    pending.extend((0..20).map(|_| ask(&client, 0)));
    assert!(nginx.draining().len() >= 4, "workers of four generations hold requests");
    for replica in &replicas {
        replica.fault(Fault::None).await;
    }
    for request in pending {
        assert_eq!(request.await.expect("no panic"), 200, "{}", nginx.tail());
    }
    eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
    for replica in &replicas {
        assert_eq!(replica.seen().running_max, 2, "slots are a bound over all generations");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_with_a_queue_goes_on_while_the_number_of_workers_changes() {
    let replicas = Replica::several(2, Settings::served_in(4.0)).await;
    let mut nginx = queued(&replicas, "max_conns=2").workers(4).start().await;
    let load = Load::start(&nginx, 24);
    for workers in [2, 6, 1, 4, 1, 6, 2, 4] {
        nginx.reconfigure(|builder| builder.workers(workers)).await;
    }
    let ends = load.end().await;
    assert_eq!(lost(&ends), 0, "of {}: {}", ends.len(), nginx.tail());
    let slowest = ends.iter().map(|(_, took, _)| *took).max().unwrap_or_default();
    println!("{} requests while workers came and went, the slowest took {slowest:?}", ends.len());
    for replica in &replicas {
        assert_eq!(replica.seen().running_max, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_upgrade_loses_no_request_and_no_stream_and_is_fed() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings { service_ms: 3.0, ..Settings::chat(10.0, 50.0) }).await;
    let mut nginx = queued(&replicas, "max_conns=20")
        .workers(2)
        .http(pincerd.directives("edge-1"))
        .server("proxy_buffering off;")
        .detached()
        .start()
        .await;
    nginx.connected().await;
    let peer = ["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--weight"];
    pincerd.must(&[&peer[..], &["3"]].concat()).await;
    let load = Load::start(&nginx, 6);
    let client = nginx.client();
    let stream =
        tokio::spawn(async move { sse::chat(&client, "/v1/chat/completions", 40, 1.0).await.expect("a stream") });
    eventually("the stream runs", 5.0, || async {
        replicas.iter().map(|replica| replica.seen().running).sum::<u64>() > 0
    })
    .await;
    let old = nginx.master();
    nginx.upgrade().await;
    assert_ne!(nginx.master(), old);
    let ends = load.end().await;
    assert_eq!(lost(&ends), 0, "of {}: {}", ends.len(), nginx.tail());
    let stream = stream.await.expect("no panic");
    assert!(stream.done && stream.events.len() == 40, "{stream:?}");
    nginx.connected().await;
    let weight = || async { nginx.status().await.upstream("u").peer(replicas[0].server()).number("/weight/effective") };
    eventually("the new zone has the changes", 5.0, || async { weight().await == 3.0 }).await;
    pincerd.must(&[&peer[..], &["5"]].concat()).await;
    assert_eq!(weight().await, 5.0);
    nginx.reload().await;
    assert_eq!(nginx.client().get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_module_may_be_removed_at_a_reload_and_added_again() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let servers = harness::conf::servers(Replica::servers(&replicas), "max_conns=50");
    let with = |builder: Builder| {
        builder
            .module(true)
            .clear()
            .http("pincer_zone pincer:1m state=state/last;")
            .http(pincerd.directives("edge-1"))
            .upstream("u", format!("pincer_balance; pincer_queue size=100 timeout=10s; {servers}"))
    };
    let without = |builder: Builder| builder.module(false).clear().upstream("u", &servers);
    let mut nginx = with(Nginx::builder()).workers(2).start().await;
    let load = Load::start(&nginx, 6);
    for weight in ["2", "3"] {
        nginx.connected().await;
        let peer = ["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--weight", weight];
        pincerd.must(&peer).await;
        nginx.reconfigure(without).await;
        eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
        nginx.reconfigure(with).await;
        let peer = nginx.status().await.upstream("u").peer(replicas[0].server());
        assert_eq!(peer.number("/weight/effective").to_string(), weight, "the last good revision");
    }
    assert_eq!(lost(&load.end().await), 0, "{}", nginx.tail());
    nginx.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_added_removed_and_renamed_under_load() {
    let replicas = Replica::several(3, Settings::served_in(3.0)).await;
    let upstream = |name: &str, replicas: &[Replica]| {
        let servers = harness::conf::servers(Replica::servers(replicas), "max_conns=2");
        format!("upstream {name} {{ pincer_balance; pincer_queue size=200 timeout=10s; {servers} }}")
    };
    let shape = |upstreams: String, used: &str| {
        let location = format!("location / {{ proxy_pass http://{used}; }}");
        move |builder: Builder| builder.clear().http("pincer_zone pincer:1m;").http(&upstreams).server(&location)
    };
    let mut nginx = shape(upstream("first", &replicas), "first")(Nginx::builder()).workers(2).start().await;
    let load = Load::start(&nginx, 12);
    let names = |status: &harness::nginx::Status| -> Vec<String> {
        let upstreams = status.0["upstreams"].as_array().cloned().unwrap_or_default();
        upstreams.iter().filter_map(|upstream| upstream["name"].as_str().map(str::to_owned)).collect()
    };
    for round in 0..3 {
        let two = upstream("first", &replicas[..2]) + &upstream("second", &replicas[1..]);
        nginx.reconfigure(shape(two, "second")).await;
        assert!(names(&nginx.status().await).contains(&"second".to_owned()), "round {round}");
        let renamed = format!("renamed{round}");
        nginx.reconfigure(shape(upstream(&renamed, &replicas), &renamed)).await;
        nginx.reconfigure(shape(upstream("first", &replicas), "first")).await;
    }
    assert_eq!(lost(&load.end().await), 0, "{}", nginx.tail());
    eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
    nginx.reload().await;
    assert_eq!(names(&nginx.status().await), ["first"], "what no configuration has is not shown");
}

/// The revision in the state file: 8 bytes, little endian, at the end of its header.
fn saved_revision(nginx: &Nginx) -> Option<f64> {
    let file = std::fs::read(nginx.path("state/last")).ok()?;
    file.get(24..32).and_then(|bytes| bytes.try_into().ok()).map(|bytes| u64::from_le_bytes(bytes) as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_may_change_its_size_while_requests_wait_and_keeps_what_operators_said() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(3.0)).await;
    let servers = harness::conf::servers(Replica::servers(&replicas), "max_conns=2");
    let sized = |size: &str| {
        let zone = format!("pincer_zone pincer:{size} state=state/last;");
        let (plane, servers) = (pincerd.directives("edge-1"), &servers);
        move |builder: Builder| {
            let upstream = format!("pincer_balance; pincer_queue size=200 timeout=10s; {servers}");
            builder.clear().http(&zone).http(&plane).upstream("u", upstream)
        }
    };
    let mut nginx = sized("1m")(Nginx::builder()).workers(2).start().await;
    nginx.connected().await;
    pincerd.must(&["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--state", "down"]).await;
    let revision = nginx.status().await.number("/revision");
    eventually("the revision is on disk", 5.0, || async { saved_revision(&nginx) == Some(revision) }).await;
    replicas[0].forget();
    let load = Load::start(&nginx, 10);
    for size in ["2m", "512k", "1m"] {
        nginx.reconfigure(sized(size)).await;
        let state = nginx.status().await.upstream("u").peer(replicas[0].server()).text("/state").to_owned();
        assert_eq!(state, "down", "size {size}");
    }
    assert_eq!(lost(&load.end().await), 0, "{}", nginx.tail());
    assert_eq!(replicas[0].seen().requests, 0, "what is down stays down");
    nginx.connected().await;
}
