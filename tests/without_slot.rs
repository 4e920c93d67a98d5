//! `pincer_slot off`: heartbeats, lists of models and idle WebSockets take no slot, wait for none,
//! and say nothing of their peer; a drain waits for them.

use harness::client::{raw, sse, ws};
use harness::metrics::Metrics;
use harness::nginx::Builder;
use harness::nginx::Status;
use harness::replica::Settings;
use harness::{Fault, Nginx, Pincerd, Replica, conf, eventually, load, ports};

const FREE: &str = "location /free/ {
    pincer_slot off;
    proxy_pass http://u/;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    location /free/bound/ { pincer_slot on; proxy_pass http://u/; }
    location /free/deep/ { proxy_pass http://u/; }
}";

fn balanced(replicas: &[Replica], directives: &str, parameters: &str) -> Builder {
    Nginx::builder().workers(2).balanced(directives, Replica::servers(replicas), parameters).server(FREE)
}

async fn peer(nginx: &Nginx, replica: &Replica) -> Status {
    nginx.status().await.upstream("u").peer(replica.server())
}

#[tokio::test(flavor = "multi_thread")]
async fn such_a_request_passes_while_all_slots_are_taken_and_others_wait() {
    let replicas = Replica::several(1, Settings::chat(5.0, 20.0)).await;
    let directives = "pincer_balance; pincer_queue size=9 timeout=30s;";
    let nginx = balanced(&replicas, directives, "max_conns=1").server("proxy_buffering off;").start().await;
    let client = nginx.client();
    let stream = tokio::spawn({
        let client = client.clone();
        async move { sse::chat(&client, "/v1/chat/completions", 100, 1.0).await.expect("a stream") }
    });
    eventually("the slot is taken", 5.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let waiting = raw::send(&nginx.address(), "/", &[]).await;
    let bound = raw::send(&nginx.address(), "/free/bound/", &[]).await;
    eventually("two wait", 5.0, || async { nginx.status().await.waiting() == 2 }).await;
    for _ in 0..20 {
        assert_eq!(client.get("/free/models").await.status, 200);
    }
    assert_eq!(nginx.status().await.waiting(), 2, "and the others still wait");
    assert!(stream.await.expect("no panic").done);
    assert_eq!(raw::status(&waiting.read_all().await), 200);
    assert_eq!(raw::status(&bound.read_all().await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_take_no_slot_from_others_and_a_full_pool_without_a_queue_is_none_for_them() {
    let replicas = Replica::several(1, Settings::default()).await;
    let nginx = balanced(&replicas, "pincer_balance;", "max_conns=1").start().await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = ws::Socket::open(&nginx.url(), "/free/ws").await.expect("a WebSocket");
        assert!(socket.hear().await.is_some());
        sockets.push(socket);
    }
    let now = peer(&nginx, &replicas[0]).await;
    assert_eq!((now.number("/in_flight"), now.number("/without_slot")), (3.0, 3.0));
    assert_eq!(Metrics::read(&nginx.metrics().await).sum("pincer_peer_without_slot", &[]), 3.0);
    assert_eq!(nginx.client().get("/").await.status, 200, "the one slot is free");
    for socket in sockets {
        socket.close().await;
    }
    eventually("nothing is under way", 5.0, || async { nginx.status().await.in_flight() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_say_nothing_of_their_peer() {
    let replicas = Replica::several(1, Settings::served_in(5.0)).await;
    let nginx = balanced(&replicas, "pincer_balance;", "").start().await;
    let client = nginx.client();
    load::gets(&client, "/free/deep/", 20, 2).await;
    replicas[0].fault(Fault::Status(500)).await;
    load::gets(&client, "/free/", 20, 2).await;
    replicas[0].fault(Fault::Refuse).await;
    load::gets(&client, "/free/", 20, 2).await;
    let now = peer(&nginx, &replicas[0]).await;
    assert!(now.0["service_ms"].is_null() && now.0["first_byte_ms"].is_null(), "no sample: {:#}", now.0);
    assert_eq!((now.number("/failures"), now.text("/breaker")), (0.0, "closed"));
    assert_eq!((now.number("/picks/no_slot"), now.number("/requests"), now.number("/neutral")), (60.0, 60.0, 60.0));
    let metrics = Metrics::read(&nginx.metrics().await);
    assert_eq!(metrics.sum("pincer_first_byte_seconds_count", &[]), 0.0);
    assert_eq!(metrics.sum("pincer_picks_total", &[("reason", "no_slot")]), 60.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_no_trial_and_go_where_the_breaker_is_closed() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let nginx = balanced(&replicas, "pincer_balance;", "max_fails=1 fail_timeout=1s").start().await;
    let b = &replicas[1];
    b.fault(Fault::Status(500)).await;
    eventually("b is out", 5.0, || async {
        nginx.client().get("/").await;
        peer(&nginx, b).await.text("/breaker") != "closed"
    })
    .await;
    b.fault(Fault::None).await;
    eventually("its trial is due", 5.0, || async { peer(&nginx, b).await.text("/breaker") == "half_open" }).await;
    let trials = peer(&nginx, b).await.number("/picks/trial");
    let replies = load::gets(&nginx.client(), "/free/", 40, 2).await;
    assert!(replies.iter().all(|reply| reply.replica() == "a"), "{:?}", load::shares(&replies));
    let now = peer(&nginx, b).await;
    assert_eq!((now.text("/breaker"), now.number("/picks/trial")), ("half_open", trials));
    nginx.client().get("/").await;
    assert_eq!(peer(&nginx, b).await.text("/breaker"), "closed", "the trial is an ordinary request");
    let replies = load::gets(&nginx.client(), "/free/", 200, 2).await;
    let of_b = replies.iter().filter(|reply| reply.replica() == "b").count();
    assert!((50..=150).contains(&of_b), "by chance: {of_b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_them() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let servers = conf::servers([replicas[0].server()], "");
    let nginx = Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m; {} pincer_allow_peers 127.0.0.0/8;", pincerd.directives("edge-1")))
        .upstream("u", format!("pincer_balance; {servers}"))
        .server(FREE)
        .start()
        .await;
    nginx.connected().await;
    let free_peers = || async { Metrics::read(&nginx.metrics().await).sum("pincer_zone_free_peers", &[]) };
    let (before, b) = (free_peers().await, replicas[1].server());
    pincerd.must(&["--wait", "10s", "peer", "add", "u", b]).await;
    let mut sockets = Vec::new();
    while replicas[1].seen().running == 0 {
        let mut socket = ws::Socket::open(&nginx.url(), "/free/ws").await.expect("a WebSocket");
        assert!(socket.hear().await.is_some());
        sockets.push(socket);
    }
    pincerd.must(&["--wait", "10s", "peer", "set", "u", b, "--state", "draining"]).await;
    let now = peer(&nginx, &replicas[1]).await;
    assert_eq!((now.number("/in_flight"), now.number("/without_slot")), (1.0, 1.0));
    let replies = load::gets(&nginx.client(), "/free/", 30, 2).await;
    assert!(replies.iter().all(|reply| reply.replica() == "a"), "{:?}", load::shares(&replies));
    pincerd.must(&["--wait", "10s", "peer", "remove", "u", b]).await;
    assert_eq!(free_peers().await, before - 1.0, "its record is the socket's until that ends");
    for socket in sockets {
        socket.close().await;
    }
    eventually("the record is free", 5.0, || async { free_peers().await == before }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_them_they_are_counted_no_longer() {
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let refusing = ports::refusing_addr();
    let servers = conf::servers(Replica::servers(&replicas), "");
    let nginx = Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; {servers} server {refusing} weight=9;"))
        .server(FREE)
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/free/", 60, 4).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "retries: {:?}", load::shares(&replies));
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let under_way = |count| {
        let nginx = &nginx;
        move || async move { nginx.status().await.in_flight() == count }
    };
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(raw::send(&nginx.address(), "/free/", &[]).await);
    }
    eventually("twelve are under way", 5.0, under_way(12)).await;
    clients.drain(..3).for_each(raw::Sent::give_up);
    clients.drain(..3).for_each(raw::Sent::reset);
    eventually("six are gone", 5.0, under_way(6)).await;
    for worker in nginx.workers() {
        nginx.kill_worker(worker);
    }
    eventually("those of dead workers are taken back", 10.0, || async {
        nginx.workers().len() == 2 && nginx.status().await.in_flight() == 0
    })
    .await;
    let status = nginx.status().await;
    assert_eq!((status.number("/counters/reclaimed_requests"), status.number("/counters/unbalanced")), (6.0, 0.0));
}
