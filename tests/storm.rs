//! Everything at once: clients that leave, replicas that fail, live changes, reloads with other
//! numbers of workers, workers and a control plane that are killed. Afterwards every count is zero,
//! every record is whole, and requests are served as if nothing had been.
//!
//! `PINCER_STORM_SEED` and `PINCER_STORM_S` (seconds) make another storm of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::client::{raw, sse};
use harness::nginx::{Builder, Status};
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, load};
use hyper::Method;
use pincer_proto::v1;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

const CLIENTS: u64 = 40;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Two upstreams, with and without slots, that fall back on each other; keepalive, retries,
/// mirrored subrequests, streams.
fn built(pincerd: &Pincerd, replicas: &[Replica]) -> Builder {
    let servers = |parameters| harness::conf::servers(Replica::servers(replicas), parameters);
    let location = |path: &str, upstream: &str, more: &str| {
        format!("location {path} {{ proxy_pass http://{upstream}; {more} }}\n")
    };
    Nginx::builder()
        .workers(3)
        .http("pincer_zone pincer:1m state=state/last; pincer_allow_peers 127.0.0.0/8;")
        .http(pincerd.directives("edge-1"))
        .http(format!(
            "upstream u {{ pincer_balance; pincer_queue size=60 timeout=2s; {} keepalive 8; }}
             upstream v {{ pincer_balance affinity=$arg_k signal=header; {} keepalive 8; }}",
            servers("max_conns=3 max_fails=2 fail_timeout=1s"),
            servers("")
        ))
        .server(
            "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_connect_timeout 500ms; proxy_read_timeout 1s;
             proxy_next_upstream error timeout http_500 http_502 http_503 non_idempotent; proxy_next_upstream_tries 3;",
        )
        // nginx 1.22 arms no timer when what has come so far ends with a buffer, so a worker that
        // is to stop for a reload leaves that answer cut off. Over the loopback a large answer
        // comes by 32 KB, of which nginx's 4 KB are a part.
        .server("proxy_buffer_size 5k;")
        .server(location("/", "u", "error_page 502 504 = @other;"))
        .server(location("@other", "v", ""))
        .server(location("/v1/", "u", "proxy_buffering off;"))
        .server(location("/v/", "v/", ""))
        .server(location("/mirrored", "u", "mirror /copy;"))
        .server(location("= /copy", "v", "internal;"))
}

/// One client's requests, each of another kind, until told to stop. Counts the answers that were no
/// error.
async fn client(address: String, seed: u64, stop: Arc<AtomicBool>, fine: Arc<AtomicU64>) {
    let mut random = SmallRng::seed_from_u64(seed);
    let url = format!("http://{address}");
    let (single, pooled) = (Client::single(&url).within(ms(8000)), Client::pooled(&url).within(ms(8000)));
    while !stop.load(SeqCst) {
        let patience = ms(random.random_range(0..60));
        let status = match random.random_range(0..10) {
            0 => leave(&address, patience, false).await,
            1 => leave(&address, patience, true).await,
            2 => sse::chat(&pooled, "/v1/chat/completions", 4, 1.0).await.map_or(0, |stream| stream.status),
            3 => answered(&single, Method::GET, &format!("/v/?k={}", random.random_range(0..9)), 0).await,
            4 => answered(&pooled, Method::GET, "/mirrored", 0).await,
            5 => answered(&pooled, Method::POST, "/echo", random.random_range(0..200_000)).await,
            6 => answered(&pooled, Method::GET, "/late/5000", 0).await,
            7 => answered(&pooled, Method::HEAD, "/bytes/100", 0).await,
            _ => answered(&pooled, Method::GET, "/", 0).await,
        };
        fine.fetch_add(u64::from(status == 200), SeqCst);
    }
}

async fn leave(address: &str, patience: Duration, reset: bool) -> u16 {
    // A connection that a dying worker had taken may be cut while the request is sent.
    let address = address.to_owned();
    let request = tokio::spawn(async move { raw::send(&address, "/", &[]).await }).await;
    let Ok(mut request) = request else { return 0 };
    let came = request.something(patience).await;
    if reset {
        request.reset();
    }
    if came { 200 } else { 0 }
}

async fn answered(client: &Client, method: Method, path: &str, body_bytes: usize) -> u16 {
    client.call(method, path).body(vec![b'x'; body_bytes]).send().await.map_or(0, |reply| reply.status)
}

/// A change by an operator; refusals are part of the storm.
async fn change(pincerd: &Pincerd, random: &mut SmallRng, replicas: &[Replica], spare: &Replica) {
    let Ok(mut control) = pincer_control::client::connect(&pincerd.dev()).await else { return };
    let upstream = if random.random_bool(0.5) { "u" } else { "v" };
    let replica = &replicas[random.random_range(0..replicas.len())];
    let name = |address: &str| format!("upstreams/{upstream}/peers/{address}");
    let update = |peer: v1::Peer| v1::UpdatePeerRequest { peer: Some(peer), update_mask: None, validate_only: false };
    let peer = v1::Peer { name: name(replica.server()), ..v1::Peer::default() };
    match random.random_range(0..6) {
        0 | 1 => drop(control.update_peer(update(v1::Peer { weight: Some(random.random_range(0..4)), ..peer })).await),
        2 => drop(control.update_peer(update(v1::Peer { max_conns: Some(random.random_range(0..5)), ..peer })).await),
        3 => drop(control.update_peer(update(v1::Peer { state: random.random_range(1..4), ..peer })).await),
        4 => {
            let (parent, peer_id) = (format!("upstreams/{upstream}"), spare.server().to_owned());
            let request = v1::CreatePeerRequest { parent, peer_id, peer: None, validate_only: false };
            drop(control.create_peer(request).await);
        }
        _ => {
            let (name, etag) = (name(spare.server()), String::new());
            drop(control.delete_peer(v1::DeletePeerRequest { name, etag, validate_only: false }).await);
        }
    }
}

fn fault(random: &mut SmallRng) -> Fault {
    let faults = [Fault::Status(500), Fault::Status(429), Fault::Hang, Fault::Refuse, Fault::Cut];
    if random.random_bool(0.5) { Fault::None } else { faults[random.random_range(0..faults.len())] }
}

/// No record is lost: each is free or some upstream's.
fn is_whole(status: &Status) -> bool {
    let upstreams = status.0["upstreams"].as_array().cloned().unwrap_or_default();
    let linked: usize = upstreams.iter().filter_map(|upstream| upstream["peers"].as_array().map(Vec::len)).sum();
    status.number("/peer_records/free") + linked as f64 == status.number("/peer_records/size")
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_of_everything_all_counts_are_zero_and_all_requests_are_served() {
    let (seed, time) = (setting("PINCER_STORM_SEED", 1), Duration::from_secs(setting("PINCER_STORM_S", 12)));
    let mut pincerd = Pincerd::start().await;
    let replicas = Replica::several(4, Settings { service_ms: 4.0, ..Settings::chat(5.0, 10.0) }).await;
    let spare = Replica::named("spare").service(ms(4)).start().await;
    let mut nginx = built(&pincerd, &replicas).start().await;
    nginx.connected().await;
    let (stop, fine) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(nginx.address(), seed * CLIENTS + number, Arc::clone(&stop), Arc::clone(&fine)));
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let (start, mut done) = (Instant::now(), [0_u32; 5]);
    while start.elapsed() < time {
        let kind = match random.random_range(0..100) {
            0..50 => {
                change(&pincerd, &mut random, &replicas, &spare).await;
                0
            }
            50..80 => {
                replicas[random.random_range(0..replicas.len())].fault(fault(&mut random)).await;
                1
            }
            80..92 => {
                let workers = nginx.workers();
                if let Some(pid) = workers.get(random.random_range(0..workers.len().max(1))) {
                    nginx.kill_worker(*pid);
                }
                2
            }
            92..98 => {
                let workers = random.random_range(1..5);
                nginx.reconfigure(|builder| builder.workers(workers)).await;
                3
            }
            _ => {
                pincerd.kill();
                pincerd.start_again().await;
                4
            }
        };
        done[kind] += 1;
        tokio::time::sleep(ms(random.random_range(0..25))).await;
    }
    for replica in replicas.iter().chain([&spare]) {
        replica.fault(Fault::None).await;
    }
    stop.store(true, SeqCst);
    clients.join_all().await;
    let [changes, faults, kills, reloads, restarts] = done;
    println!(
        "seed {seed}: {changes} changes, {faults} faults, {kills} kills, {reloads} reloads, {restarts} restarts; {} requests answered 200",
        fine.load(SeqCst)
    );
    let settled = || async {
        let status = nginx.status().await;
        status.in_flight() == 0 && status.waiting() == 0 && is_whole(&status) && nginx.draining().is_empty()
    };
    eventually("all counts are zero and all records whole", 10.0, settled).await;
    all_is_well(&nginx, &pincerd, &replicas).await;
}

/// Nothing went wrong inside, and after the operators' settings are taken back every replica
/// serves.
async fn all_is_well(nginx: &Nginx, pincerd: &Pincerd, replicas: &[Replica]) {
    let status = nginx.status().await;
    for counter in ["unbalanced", "faults", "fail_open", "workers_refused"] {
        assert_eq!(status.number(&format!("/counters/{counter}")), 0.0, "{counter}: {:#}", status.0["counters"]);
    }
    nginx.connected().await;
    let file = pincerd.path("nothing.yaml");
    std::fs::write(&file, "upstreams: { u: { peers: {} }, v: { peers: {} } }").expect("write");
    pincerd.must(&["--wait", "10s", "apply", "-f", &file.display().to_string()]).await;
    let client = nginx.client();
    eventually("every replica serves", 40.0, || async {
        let shares = load::shares(&load::gets(&client, "/", 40, 8).await);
        replicas.iter().all(|replica| shares.contains_key(replica.name()))
    })
    .await;
    let replies = load::gets(&client, "/", 200, 8).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
}
