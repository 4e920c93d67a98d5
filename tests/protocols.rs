//! Every way of speaking to a peer works through the balancer, and gives an honest time to the
//! first body byte.

use std::time::Duration;

use harness::client::{CallError, grpc, sse, ws};
use harness::pki::{Pki, SERVER_NAME};
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, conf, eventually, load, ports, stats};
use hyper::Method;

const KEEPALIVE: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The time to the first byte that the zone learned for the only peer, milliseconds.
async fn learned(nginx: &Nginx, replica: &Replica) -> f64 {
    nginx.status().await.upstream("u").peer(replica.server()).number("/first_byte_ms")
}

fn seconds(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no time"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_peers_are_verified_and_their_sessions_reused() {
    let pki = Pki::new();
    let mut replicas = Vec::new();
    for name in ["a", "b"] {
        replicas.push(Replica::named(name).tls(pki.server_config()).start().await);
    }
    let nginx = Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; {} }}", conf::servers(Replica::servers(&replicas), "")))
        .server(format!(
            "location / {{ proxy_pass https://u; proxy_ssl_verify on; proxy_ssl_name {SERVER_NAME};
             proxy_ssl_server_name on; proxy_ssl_trusted_certificate {}; }}",
            pki.ca().display()
        ))
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 100, 4).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{:?}", nginx.tail());
    assert_eq!(load::shares(&replies).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalive_connections_are_reused() {
    let replicas = Replica::several(2, Settings::default()).await;
    let servers = conf::servers(Replica::servers(&replicas), "");
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; {servers} keepalive 16; }}"))
        .server(format!("location / {{ proxy_pass http://u; {KEEPALIVE} }}"))
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 300, 4).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let connections: u64 = replicas.iter().map(|replica| replica.seen().connections).sum();
    assert!(connections <= 16, "{connections} connections for 300 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keepalive_connection_that_the_peer_closed_is_not_held_against_it() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; server {}; keepalive 16; }}", replica.server()))
        .server(format!("location / {{ proxy_pass http://u; {KEEPALIVE} }}"))
        .start()
        .await;
    let client = nginx.client();
    load::gets(&client, "/", 20, 4).await;
    for _ in 0..5 {
        replica.fault(Fault::Refuse).await;
        replica.fault(Fault::None).await;
        assert_eq!(client.get("/").await.status, 200);
    }
    let peer = nginx.status().await.upstream("u").peer(replica.server());
    assert_eq!((peer.number("/failures"), peer.text("/breaker")), (0.0, "closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalive_and_tls_and_a_queue_go_together() {
    let pki = Pki::new();
    let replica = Replica::named("a").tls(pki.server_config()).service(ms(3)).start().await;
    let nginx = Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m;")
        .http(format!(
            "upstream u {{ pincer_balance; pincer_queue size=100 timeout=10s; server {} max_conns=2; keepalive 4; }}",
            replica.server()
        ))
        .server(format!("location / {{ proxy_pass https://u; {KEEPALIVE} }}"))
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 300, 12).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    assert!(replica.seen().running_max <= 2);
    assert!(replica.seen().connections <= 40, "{} connections", replica.seen().connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_proxied_and_hold_their_slot_until_they_close() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; server {} max_conns=1; }}", replica.server()))
        .server(
            "location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection upgrade; }",
        )
        .start()
        .await;
    let mut socket = ws::Socket::open(&nginx.url(), "/ws").await.expect("a WebSocket");
    assert_eq!(socket.hear().await.as_deref(), Some("a"));
    for text in ["one", "two", "three"] {
        socket.say(text).await;
        assert_eq!(socket.hear().await.as_deref(), Some(text));
    }
    assert_eq!(nginx.status().await.in_flight(), 1);
    assert!(ws::Socket::open(&nginx.url(), "/ws").await.is_err_and(|error| error.contains("502")));
    socket.close().await;
    eventually("the slot is free", 5.0, || async { nginx.status().await.in_flight() == 0 }).await;
    let peer = nginx.status().await.upstream("u").peer(replica.server());
    assert_eq!(peer.number("/failures"), 0.0);
    let mut socket = ws::Socket::open(&nginx.url(), "/ws").await.expect("another WebSocket");
    assert_eq!(socket.hear().await.as_deref(), Some("a"));
    socket.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_judged_by_its_first_token_not_by_its_header() {
    for buffering in ["on", "off"] {
        let slow = Replica::named("slow").chat(ms(800), ms(5), 4).start().await;
        let mut replicas = Replica::several(2, Settings::chat(30.0, 5.0)).await;
        replicas.push(slow);
        let nginx = Nginx::builder()
            .workers(2)
            .http("pincer_zone pincer:1m;")
            .http(format!("upstream u {{ pincer_balance; {} }}", conf::servers(Replica::servers(&replicas), "")))
            .server(format!("location / {{ proxy_pass http://u; proxy_buffering {buffering}; }}"))
            .start()
            .await;
        let client = nginx.client();
        let streams = load::closed(120, 4, move |_| {
            let client = client.clone();
            async move { sse::chat(&client, "/v1/chat/completions", 4, 1.0).await.expect("a stream") }
        })
        .await;
        assert!(streams.iter().all(|stream| stream.done && stream.events.len() == 4));
        let slow = streams.iter().filter(|stream| stream.replica == "slow").count();
        assert!(slow <= 8, "buffering {buffering}: {slow} of 120 went to the replica with the late first token");
        let ttft: Vec<_> = streams.iter().map(sse::Stream::ttft).collect();
        assert!(stats::percentile_s(&ttft, 90.0) <= 0.2, "buffering {buffering}: {}", stats::percentile_s(&ttft, 90.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_body_byte_is_timed_whatever_the_framing() {
    let replica = Replica::named("a").service(ms(80)).start().await;
    let nginx = Nginx::builder()
        .logging("$uri $pincer_ttft")
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; server {}; }}", replica.server()))
        .server("gzip on; gzip_types text/plain; gzip_proxied any;")
        .server("location / { proxy_pass http://u; }")
        .server("location /chunked11/ { proxy_pass http://u/late/; proxy_http_version 1.1; }")
        .server("location /chunked11off/ { proxy_pass http://u/late/; proxy_http_version 1.1; proxy_buffering off; }")
        .start()
        .await;
    let client = nginx.client();
    let paths = ["/bytes/5", "/bytes/500000", "/late/5", "/late/50000", "/chunked11/20000", "/chunked11off/20000"];
    for path in paths {
        let reply = client.call(Method::GET, path).header("accept-encoding", "gzip").must().await;
        assert_eq!(reply.status, 200, "{path}");
    }
    for line in nginx.logged(paths.len()).await {
        let (path, time) = line.split_once(' ').expect("two fields");
        assert!((0.07..0.6).contains(&seconds(time)), "{path}: {time}");
    }
    let mean = learned(&nginx, &replica).await;
    assert!((70.0..600.0).contains(&mean), "{mean}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_give_no_time_to_the_first_byte() {
    let replica = Replica::named("a").start().await;
    let nginx =
        Nginx::builder().logging("$pincer_ttft").balanced("pincer_balance;", [replica.server()], "").start().await;
    let client = nginx.client();
    assert_eq!(client.call(Method::HEAD, "/").must().await.status, 200);
    assert_eq!(client.get("/status/204").await.status, 204);
    assert_eq!(client.get("/status/304").await.status, 304);
    assert_eq!(client.get("/bytes/0").await.status, 200);
    assert_eq!(nginx.logged(4).await, ["-", "-", "-", "-"]);
    let peer = nginx.status().await.upstream("u").peer(replica.server());
    assert_eq!((peer.number("/requests"), peer.number("/failures")), (4.0, 0.0));
    assert!(peer.0["first_byte_ms"].is_null(), "{:#}", peer.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_in_both_directions() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder()
        .workers(2)
        .server("client_max_body_size 8m;")
        .balanced("pincer_balance;", Replica::servers(&replicas), "")
        .start()
        .await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    for _ in 0..4 {
        let reply = nginx.client().post("/echo", body.clone()).await;
        assert!(reply.status == 200 && reply.body == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_balanced_and_timed_by_its_first_message() {
    let replicas = Replica::several(2, Settings::served_in(60.0)).await;
    let port = ports::free_port();
    let http2 = if harness::nginx::version() >= (1, 25, 1) { "; http2 on" } else { " http2" };
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; {} }}", conf::servers(Replica::servers(&replicas), "")))
        .http(format!("server {{ listen 127.0.0.1:{port}{http2}; location / {{ grpc_pass grpc://u; }} }}"))
        .start()
        .await;
    let client = Client::h2c(&format!("http://127.0.0.1:{port}"));
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let answer = grpc::call(&client, "/test.Echo/Say", b"hello").await.expect("an answer");
        assert_eq!((answer.http_status, answer.grpc_status), (200, 0));
        names.insert(answer.message);
    }
    assert_eq!(names.len(), 2);
    let mean = learned(&nginx, &replicas[0]).await;
    assert!((50.0..400.0).contains(&mean), "{mean}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_are_served() {
    let replica = Replica::named("a").service(ms(5)).start().await;
    let port = ports::free_port();
    let http2 = if harness::nginx::version() >= (1, 25, 1) { "; http2 on" } else { " http2" };
    let nginx = Nginx::builder()
        .balanced("pincer_balance; pincer_queue size=100 timeout=10s;", [replica.server()], "max_conns=4")
        .http(format!("server {{ listen 127.0.0.1:{port}{http2}; location / {{ proxy_pass http://u; }} }}"))
        .start()
        .await;
    let client = Client::h2c(&format!("http://127.0.0.1:{port}"));
    let replies = load::gets(&client, "/", 100, 20).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(replica.seen().running_max <= 4);
    drop(nginx);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_a_failure_of_the_peer() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder().balanced("pincer_balance;", [replica.server()], "").start().await;
    replica.fault(Fault::Cut).await;
    for _ in 0..2 {
        let broken = nginx.client().call(Method::GET, "/bytes/100000").send().await;
        assert!(matches!(broken, Err(CallError::Cut(_) | CallError::NoAnswer(_))), "{broken:?}");
    }
    eventually("both are failures", 5.0, || async {
        nginx.status().await.upstream("u").peer(replica.server()).number("/failures") == 2.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_stream_frees_the_slot_and_says_nothing_of_the_peer() {
    let replica = Replica::named("a").service(ms(20_000)).start().await;
    let nginx = Nginx::builder().balanced("pincer_balance;", [replica.server()], "max_conns=4").start().await;
    for path in ["/", "/late/10"] {
        let sent = harness::client::raw::send(&nginx.address(), path, &[]).await;
        eventually("it is in flight", 5.0, || async { nginx.status().await.in_flight() == 1 }).await;
        eventually("the replica has it", 5.0, || async { replica.seen().running == 1 }).await;
        sent.give_up();
        eventually("it is not any more", 5.0, || async { nginx.status().await.in_flight() == 0 }).await;
    }
    let peer = nginx.status().await.upstream("u").peer(replica.server());
    assert_eq!((peer.number("/failures"), peer.number("/neutral")), (0.0, 2.0), "{:#}", peer.0);
    assert!(peer.0["service_ms"].is_null(), "no sample: {:#}", peer.0);
    eventually("the replica sees both leave", 5.0, || async { replica.seen().aborts == 2 }).await;
}
