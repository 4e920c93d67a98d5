//! What `pincer_status` and `pincer_metrics` say is true, in a form that tools read.

use std::time::Duration;

use harness::metrics::Metrics;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, eventually, load};
use hyper::Method;

async fn busy(replicas: &[Replica]) -> Nginx {
    let nginx = Nginx::builder()
        .workers(2)
        .balanced(
            "pincer_balance; pincer_queue size=100 timeout=10s;",
            Replica::servers(replicas),
            "max_conns=2 weight=3",
        )
        .start()
        .await;
    load::gets(&nginx.client(), "/", 200, 12).await;
    nginx
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_what_happened() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let nginx = busy(&replicas).await;
    let status = nginx.status().await;
    assert_eq!(status.number("/revision"), 0.0);
    assert_eq!(status.0["workers"].as_array().map(Vec::len), Some(2));
    assert!(status.0["control_plane"].is_null(), "none is configured");
    let upstream = status.upstream("u");
    assert_eq!((upstream.text("/signal"), upstream.number("/queue/size")), ("first_byte", 100.0));
    let mut requests = 0.0;
    for replica in &replicas {
        let peer = upstream.peer(replica.server());
        assert_eq!((peer.text("/state"), peer.text("/breaker")), ("active", "closed"));
        assert_eq!((peer.number("/weight/effective"), peer.number("/max_conns/effective")), (3.0, 2.0));
        assert_eq!((peer.number("/in_flight"), peer.number("/failures")), (0.0, 0.0));
        for time in ["/service_ms", "/first_byte_ms", "/hold_ms"] {
            assert!((4.0..100.0).contains(&peer.number(time)), "{time}: {:#}", peer.0);
        }
        requests += peer.number("/requests");
    }
    assert_eq!(requests, 200.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_json_for_get_and_head_and_nothing_else() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder().balanced("pincer_balance;", [replica.server()], "").start().await;
    let client = nginx.status_client();
    for path in ["/pincer_status", "/pincer_metrics"] {
        let get = client.get(path).await;
        assert_eq!(get.status, 200);
        let head = client.call(Method::HEAD, path).must().await;
        assert!(head.status == 200 && head.body.is_empty());
        assert_eq!(client.post(path, "x").await.status, 405, "{path}");
    }
    assert_eq!(client.get("/pincer_status").await.header("content-type"), "application/json");
    assert!(client.get("/pincer_metrics").await.header("content-type").starts_with("text/plain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_clean_in_both_dialects() {
    let replicas = Replica::several(3, Settings::served_in(2.0)).await;
    let nginx = busy(&replicas).await;
    replicas[0].fault(Fault::Status(500)).await;
    load::gets(&nginx.client(), "/", 50, 4).await;
    let client = nginx.status_client();
    for accept in ["*/*", "application/openmetrics-text; version=1.0.0"] {
        let reply = client.call(Method::GET, "/pincer_metrics").header("accept", accept).must().await;
        let metrics = Metrics::read(&reply.text());
        assert!(metrics.faults().is_empty(), "{accept}: {:#?}\n{}", metrics.faults(), reply.text());
        assert_eq!(metrics.sum("pincer_peer_requests_total", &[("upstream", "u")]), 250.0);
        let failures = metrics.sum("pincer_peer_failures_total", &[("peer", replicas[0].server())]);
        assert!(failures >= 3.0, "{failures}");
        assert_eq!(metrics.sum("pincer_peer_breaker", &[("peer", replicas[0].server()), ("state", "open")]), 1.0);
        for histogram in ["pincer_first_byte_seconds", "pincer_service_seconds", "pincer_queue_wait_seconds"] {
            assert!(metrics.sum(&format!("{histogram}_count"), &[("upstream", "u")]) > 0.0, "{histogram}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_kept_over_reloads_and_dying_workers() {
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let nginx = busy(&replicas).await;
    let total = || async { Metrics::read(&nginx.metrics().await).sum("pincer_peer_requests_total", &[]) };
    assert_eq!(total().await, 200.0);
    nginx.reload().await;
    assert_eq!(total().await, 200.0);
    nginx.kill_worker(nginx.workers()[0]);
    eventually("the worker is replaced", 10.0, || async { nginx.workers().len() == 2 }).await;
    assert_eq!(total().await, 200.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_from_the_configuration_only() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder().balanced("pincer_balance;", [replica.server()], "").start().await;
    let before = Metrics::read(&nginx.metrics().await);
    let client = nginx.client();
    for number in 0..30 {
        client.call(Method::GET, &format!("/path{number}?q={number}")).header("x-user", number).must().await;
    }
    let text = nginx.metrics().await;
    assert!(!text.contains("path1") && !text.contains("x-user"));
    let after = Metrics::read(&text);
    assert_eq!(before.families().count(), after.families().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variables_have_nginx_form_over_retries() {
    let replica = Replica::named("a").service(Duration::from_millis(50)).start().await;
    let refusing = harness::ports::refusing_addr();
    let nginx = Nginx::builder()
        .logging("$upstream_addr|$upstream_status|$pincer_ttft|$pincer_queue_time|$pincer_revision")
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; server {refusing} weight=1000; server {};", replica.server()))
        .server("location /plain { return 200 plain; }")
        .start()
        .await;
    let client = Client::single(&nginx.url());
    client.get("/plain").await;
    client.get("/").await;
    let lines = nginx.logged(2).await;
    assert_eq!(lines[0], "-|-|-|-|0");
    let fields: Vec<_> = lines[1].split('|').collect();
    assert_eq!(fields[0], format!("{refusing}, {}", replica.server()));
    assert_eq!(fields[1], "502, 200");
    let (first, second) = fields[2].split_once(", ").unwrap_or_else(|| panic!("two attempts in {lines:?}"));
    assert_eq!(first, "-");
    assert!((0.04..1.0).contains(&second.parse::<f64>().unwrap_or(0.0)), "{lines:?}");
    assert_eq!(fields[4], "0");
}
