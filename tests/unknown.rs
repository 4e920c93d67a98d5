//! Peers of which nothing is known, or nothing new: unknown is not fast, and what is known ages.

use std::time::Duration;

use harness::client::{grpc, sse};
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, conf, eventually, load, ports};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The requests of `count` that a replica saw, in percent.
fn percent(replica: &Replica, count: u64) -> u64 {
    replica.seen().requests * 100 / count
}

/// `a` works in 20 ms, `b` has this fault.
async fn works_and_fails(fault: Fault) -> Vec<Replica> {
    let replicas = Replica::several(2, Settings::served_in(20.0)).await;
    replicas[1].fault(fault).await;
    replicas
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_never_shows_work_gets_its_share_and_no_more() {
    for (status, balance) in [
        (404, "pincer_balance;"),
        (401, "pincer_balance;"),
        (429, "pincer_balance;"),
        (302, "pincer_balance;"),
        (204, "pincer_balance;"),
        (204, "pincer_balance signal=header;"),
        (204, "pincer_balance signal=last_byte;"),
    ] {
        let replicas = works_and_fails(Fault::Status(status)).await;
        let directives = format!("{balance} pincer_queue size=100 timeout=10s;");
        let servers = Replica::servers(&replicas);
        let nginx = Nginx::builder().balanced(&directives, servers, "max_conns=8").start().await;
        load::gets(&nginx.client(), "/", 200, 4).await;
        let part = percent(&replicas[1], 200);
        assert!((45..=55).contains(&part), "{status}, {balance}: {part} %");
        let peer = nginx.status().await.upstream("u").peer(replicas[1].server());
        assert!(peer.0["service_ms"].is_null(), "no sample: {:#}", peer.0);
        assert_eq!(peer.text("/breaker"), "closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_begins_to_refuse_is_unknown_again_and_not_ejected() {
    let replicas = works_and_fails(Fault::None).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let client = nginx.client();
    load::gets(&client, "/", 100, 4).await;
    replicas[1].fault(Fault::Status(404)).await;
    load::gets(&client, "/", 100, 4).await;
    let peer = || async { nginx.status().await.upstream("u").peer(replicas[1].server()) };
    assert!(peer().await.0["service_ms"].is_null(), "{:#}", peer().await.0);
    replicas[1].forget();
    load::gets(&client, "/", 200, 4).await;
    let part = percent(&replicas[1], 200);
    assert!((45..=55).contains(&part), "{part} %");
    assert_eq!((peer().await.number("/failures"), peer().await.text("/breaker")), (0.0, "closed"));
    replicas[1].fault(Fault::None).await;
    load::gets(&client, "/", 20, 2).await;
    assert!(peer().await.number("/service_ms") >= 19.0, "known again by its first sample");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_all_replicas_give_alike_make_none_unknown() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let client = nginx.client();
    for _ in 0..10 {
        load::gets(&client, "/", 20, 2).await;
        load::gets(&client, "/status/404", 20, 2).await;
    }
    let upstream = nginx.status().await.upstream("u");
    assert!(replicas.iter().all(|replica| upstream.peer(replica.server()).number("/service_ms") >= 4.0));
}

/// nginx with `grpc_pass` to these replicas, and a client for it.
async fn with_grpc(replicas: &[Replica]) -> (Nginx, Client) {
    let port = ports::free_port();
    let servers = conf::servers(Replica::servers(replicas), "max_conns=8");
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; pincer_queue size=100 timeout=10s; {servers} keepalive 8; }}"))
        .http(format!("server {{ {} location / {{ grpc_pass grpc://u; }} }}", harness::nginx::http2_listen(port)))
        .start()
        .await;
    (nginx, Client::h2c(&format!("http://127.0.0.1:{port}")))
}

/// The gRPC statuses of so many calls, four at once.
async fn grpc_calls(client: &Client, count: usize) -> Vec<i32> {
    let client = client.clone();
    load::closed(count, 4, move |_| {
        let client = client.clone();
        async move { grpc::call(&client, "/test.Echo/Say", b"hello").await.expect("an answer").grpc_status }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_grpc_calls_fail_is_ejected_wherever_the_status_stands() {
    for fault in [14, 13, 2, 8, 4].into_iter().flat_map(|status| [Fault::Grpc(status), Fault::GrpcBare(status)]) {
        let replicas = works_and_fails(fault).await;
        let (nginx, client) = with_grpc(&replicas).await;
        let statuses = grpc_calls(&client, 100).await;
        let failed = statuses.iter().filter(|status| **status != 0).count();
        assert!((1..=6).contains(&failed), "{fault:?}: {failed} of 100 failed");
        let peer = nginx.status().await.upstream("u").peer(replicas[1].server());
        assert!(peer.number("/failures") >= 3.0 && peer.text("/breaker") != "closed", "{fault:?}: {:#}", peer.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_about_the_call_is_no_failure_and_no_sample() {
    for fault in [Fault::Grpc(5), Fault::GrpcBare(3), Fault::GrpcBare(12)] {
        let replicas = works_and_fails(fault).await;
        let (nginx, client) = with_grpc(&replicas).await;
        grpc_calls(&client, 100).await;
        let part = percent(&replicas[1], 100);
        assert!((45..=55).contains(&part), "{fault:?}: {part} %");
        let peer = nginx.status().await.upstream("u").peer(replicas[1].server());
        assert_eq!((peer.number("/failures"), peer.text("/breaker")), (0.0, "closed"), "{fault:?}");
        assert!(peer.0["service_ms"].is_null(), "{fault:?}: {:#}", peer.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_slow_at_first_carries_like_load_soon_after() {
    let replicas = Replica::several(2, Settings::served_in(20.0)).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "max_conns=50").start().await;
    let client = nginx.client();
    replicas[1].change(|settings| settings.slow_factor = 15.0);
    load::gets(&client, "/", 40, 8).await;
    replicas[1].change(|settings| settings.slow_factor = 1.0);
    let peer = nginx.status().await.upstream("u").peer(replicas[1].server());
    assert!(peer.number("/service_ms") >= 250.0, "{:#}", peer.0);
    eventually("it has 40 % of the requests", 10.0, || async {
        replicas[1].forget();
        load::gets(&client, "/", 20, 1).await;
        percent(&replicas[1], 20) >= 40
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_out_a_stream_beside_a_free_slot_of_like_speed() {
    let replicas = Replica::several(3, Settings { service_ms: 20.0, ..Settings::chat(10.0, 200.0) }).await;
    let [a, b, c] = [0, 1, 2].map(|index| replicas[index].server());
    let servers = format!("server {a} max_conns=8; server {b} max_conns=8; server {c} max_conns=2 weight=3;");
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; pincer_queue size=100 timeout=30s; {servers} }}"))
        .server("location / { proxy_pass http://u; proxy_buffering off; }")
        .start()
        .await;
    // Slots are held for 20 ms, as far as is known, so one of the heavy replica seems to be near.
    load::gets(&nginx.client(), "/", 200, 8).await;
    let client = Client::single(&nginx.url());
    let streams = load::closed(18, 18, move |_| {
        let client = client.clone();
        async move { sse::chat(&client, "/v1/chat/completions", 30, 1.0).await.expect("a stream") }
    })
    .await;
    let slowest = streams.iter().map(sse::Stream::ttft).max().unwrap_or_default();
    assert!(slowest < ms(2_000), "a first token came after {slowest:?}");
}
