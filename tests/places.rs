//! Retries and waits: what they are owed by the queue, by nginx's bounds on attempts, and when no
//! peer is left.

use std::time::Duration;

use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, Reply, conf, eventually};
use hyper::Method;

const NEXT: &str = "proxy_next_upstream error timeout http_503 http_404;";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

type Pending = tokio::task::JoinHandle<Reply>;

fn get(nginx: &Nginx, path: &str) -> Pending {
    tokio::spawn(Client::single(&nginx.url()).call(Method::GET, path).must())
}

async fn done(pending: Pending) -> Reply {
    pending.await.expect("no panic")
}

async fn in_flight(nginx: &Nginx, count: u64) {
    eventually(&format!("{count} in flight"), 5.0, || async { nginx.status().await.in_flight() == count }).await;
}

async fn waiting(nginx: &Nginx, count: u64) {
    eventually(&format!("{count} wait"), 5.0, || async { nginx.status().await.waiting() == count }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_in_the_queue_is_not_a_part_of_the_time_for_retries() {
    let replica = Replica::named("a").start().await;
    let spare = Replica::named("spare").start().await;
    let servers = format!("server {} max_conns=1; server {} backup;", replica.server(), spare.server());
    let nginx = Nginx::builder()
        .logging("$upstream_status $pincer_queue_time $upstream_response_time")
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; pincer_queue size=9 timeout=20s; {servers}"))
        .server(format!("{NEXT} proxy_next_upstream_timeout 400ms;"))
        .start()
        .await;
    replica.change(|settings| settings.service_ms = 900.0);
    let holder = get(&nginx, "/");
    in_flight(&nginx, 1).await;
    let waiter = get(&nginx, "/");
    waiting(&nginx, 1).await;
    replica.fault(Fault::Status(503)).await;
    assert_eq!(done(holder).await.replica(), "a");
    let reply = done(waiter).await;
    assert_eq!((reply.status, reply.replica()), (200, "spare"));
    let lines = nginx.logged(2).await;
    let times: Vec<f64> = lines[1].split([' ', ',']).filter_map(|time| time.parse().ok()).collect();
    assert!(lines[1].starts_with("503, 200 ") && times[2] > 0.4, "{lines:?}");
    assert!(times.iter().rev().take(2).all(|time| *time < 0.4), "times of responses are the peers' own: {lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_line_that_is_repeated_is_one_peer_and_as_many_tries() {
    let replica = Replica::named("a").start().await;
    let a = replica.server();
    let body = |name: &str, last: &str| {
        format!("upstream {name} {{ pincer_balance; server {a}; server {a} {last}; server {a} {last}; }}")
    };
    let nginx = Nginx::builder()
        .logging("$upstream_status")
        .http(format!("pincer_zone pincer:1m; {} {}", body("u", ""), body("backed", "backup")))
        .server(format!("{NEXT} location /status {{ proxy_pass http://u; }}"))
        .server("location /two/ { proxy_pass http://u/; proxy_next_upstream_tries 2; }")
        .server("location /backed/ { proxy_pass http://backed/; }")
        .start()
        .await;
    let paths = ["/status/404", "/two/status/404", "/backed/status/404", "/status/503"];
    for path in paths {
        nginx.client().get(path).await;
    }
    let lines = nginx.logged(paths.len()).await;
    assert_eq!(lines, ["404, 404, 404", "404, 404", "404, 404, 404", "503, 503, 503"]);
    let upstream = nginx.status().await.upstream("u");
    assert_eq!(upstream.0["peers"].as_array().map(Vec::len), Some(1));
    assert_eq!(upstream.peer(a).number("/weight/configured"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_that_is_passed_on_goes_to_another_replica() {
    let replicas = Replica::several(2, Settings::default()).await;
    let (a, b) = (replicas[0].server(), replicas[1].server());
    let servers = format!("server {a}; server {b} backup;");
    let nginx = Nginx::builder()
        .logging("$upstream_addr")
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; {servers}"))
        .server(NEXT)
        .start()
        .await;
    nginx.client().get("/status/404").await;
    assert_eq!(nginx.logged(1).await, [format!("{a}, {b}")]);
}

/// Two replicas of one slot, both held: the first by a request that it answers 503 once it may.
struct Held {
    nginx: Nginx,
    first: Replica,
    second: Replica,
    refused: Pending,
    other: Pending,
}

async fn held(queue: &str) -> Held {
    let replicas = Replica::several(2, Settings::default()).await;
    let servers = conf::servers(Replica::servers(&replicas), "max_conns=1");
    let nginx = Nginx::builder()
        .logging("$status $upstream_status")
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; {queue} {servers}"))
        .server(NEXT)
        .start()
        .await;
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let refused = Client::single(&nginx.url()).call(Method::GET, "/status/503").header("x-id", "refused");
    let refused = tokio::spawn(refused.must());
    in_flight(&nginx, 1).await;
    let other = get(&nginx, "/");
    for replica in &replicas {
        eventually("each has a request", 5.0, || async { replica.seen().running == 1 }).await;
    }
    let [a, b] = <[Replica; 2]>::try_from(replicas).unwrap_or_else(|_| panic!("two replicas"));
    let (first, second) = if a.seen().order == ["refused"] { (a, b) } else { (b, a) };
    Held { nginx, first, second, refused, other }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_finds_the_queue_full_waits_all_the_same_and_nobody_gives_way() {
    let Held { nginx, first, second, refused, other } = held("pincer_queue size=1 timeout=20s;").await;
    let waiter = get(&nginx, "/");
    waiting(&nginx, 1).await;
    first.fault(Fault::None).await;
    assert_eq!((done(waiter).await.status, nginx.status().await.upstream("u").number("/queue/overflows")), (200, 0.0));
    waiting(&nginx, 1).await;
    second.fault(Fault::None).await;
    assert_eq!((done(other).await.status, done(refused).await.status), (200, 503));
    let lines = nginx.logged(3).await;
    assert!(lines.contains(&"503 503, 503".to_owned()), "both replicas were asked: {lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_waits_too_long_gets_what_its_replica_answered() {
    let Held { nginx, first, second, refused, other } = held("pincer_queue size=1 timeout=500ms;").await;
    first.fault(Fault::None).await;
    waiting(&nginx, 1).await;
    assert_eq!(done(refused).await.status, 503);
    second.fault(Fault::None).await;
    assert_eq!(done(other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_finds_every_other_replica_full_gets_what_its_replica_answered() {
    let Held { nginx: _nginx, first, second, refused, other } = held("").await;
    first.fault(Fault::None).await;
    assert_eq!(done(refused).await.status, 503);
    second.fault(Fault::None).await;
    assert_eq!(done(other).await.status, 200);
}

fn fed(pincerd: &Pincerd, replicas: &[Replica]) -> Builder {
    let servers = conf::servers(Replica::servers(replicas), "max_conns=1");
    Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m;")
        .http(pincerd.directives("edge-1"))
        .upstream("u", format!("pincer_balance; pincer_queue size=50 timeout=20s; {servers}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_weight_0_on_all_peers_waiting_requests_are_answered_503_at_once() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = fed(&pincerd, &replicas).start().await;
    nginx.connected().await;
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let holders: Vec<_> = (0..2).map(|_| get(&nginx, "/")).collect();
    in_flight(&nginx, 2).await;
    let waiters: Vec<_> = (0..12).map(|_| get(&nginx, "/")).collect();
    waiting(&nginx, 12).await;
    for replica in &replicas {
        pincerd.must(&["--wait", "10s", "peer", "set", "u", replica.server(), "--weight", "0"]).await;
    }
    for waiter in waiters {
        let reply = tokio::time::timeout(ms(5_000), done(waiter)).await.expect("at once");
        assert_eq!(reply.status, 503);
        assert!(!reply.header("retry-after").is_empty());
    }
    for replica in &replicas {
        replica.fault(Fault::None).await;
    }
    for holder in holders {
        assert_eq!(done(holder).await.status, 200, "what runs is finished");
    }
}
