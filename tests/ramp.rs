//! Peers that are new or come back: they take requests as fast as they show that they can, and hold
//! nobody back.

use std::time::Duration;

use harness::client::{sse, ws};
use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, eventually, load};
use tokio::task::JoinSet;

const QUEUED: &str = "pincer_balance; pincer_queue size=100 timeout=30s;";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// So many streams of `tokens` tokens, at once.
fn streams(nginx: &Nginx, count: usize, tokens: u32) -> JoinSet<sse::Stream> {
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let client = Client::single(&nginx.url());
        streams.spawn(async move { sse::chat(&client, "/v1/chat/completions", tokens, 1.0).await.expect("a stream") });
    }
    streams
}

async fn in_flight(nginx: &Nginx, count: u64) {
    eventually(&format!("{count} in flight, none waits"), 10.0, || async {
        let status = nginx.status().await;
        (status.in_flight(), status.waiting()) == (count, 0)
    })
    .await;
}

/// Lets the only replica fail until its breaker is open, and heals it.
async fn ejected_and_healed(nginx: &Nginx, replica: &Replica) {
    replica.fault(Fault::Status(500)).await;
    load::gets(&nginx.client(), "/", 3, 1).await;
    let peer = nginx.status().await.upstream("u").peer(replica.server());
    assert_eq!(peer.text("/breaker"), "open");
    replica.fault(Fault::None).await;
}

/// The next request is the trial.
async fn half_open(nginx: &Nginx, replica: &Replica) {
    eventually("the breaker is half open", 10.0, || async {
        nginx.status().await.upstream("u").peer(replica.server()).text("/breaker") == "half_open"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_joins_by_a_reload_takes_its_slots_with_first_tokens_not_with_ends() {
    let replicas = Replica::several(2, Settings::chat(20.0, 200.0)).await;
    let old = format!("server {} max_conns=2;", replicas[0].server());
    let with = |builder: Builder, servers: &str| {
        let builder = builder.http("pincer_zone pincer:1m;").server("proxy_buffering off;");
        builder.upstream("u", format!("{QUEUED} {servers}"))
    };
    let mut nginx = with(Nginx::builder(), &old).start().await;
    let first = streams(&nginx, 2, 40);
    in_flight(&nginx, 2).await;
    let both = format!("{old} server {} max_conns=8;", replicas[1].server());
    nginx.reconfigure(|builder| with(builder.clear(), &both)).await;
    let more = streams(&nginx, 8, 25);
    for stream in more.join_all().await {
        assert!(stream.done && stream.ttft() < ms(3_000), "a first token after {:?}", stream.ttft());
    }
    assert_eq!(replicas[1].seen().running_max, 8);
    first.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_to_new_ports_serves_at_full_width_at_once() {
    let old = Replica::several(2, Settings::served_in(5.0)).await;
    let new = Replica::several(2, Settings::served_in(5.0)).await;
    let mut nginx = Nginx::builder().balanced(QUEUED, Replica::servers(&old), "max_conns=8").start().await;
    load::gets(&nginx.client(), "/", 50, 4).await;
    for replica in &new {
        replica.fault(Fault::Hang).await;
    }
    nginx.reconfigure(|builder| builder.clear().balanced(QUEUED, Replica::servers(&new), "max_conns=8")).await;
    let client = Client::single(&nginx.url());
    let calls = tokio::spawn(load::closed(16, 16, move |_| {
        let client = client.clone();
        async move { client.get("/").await.status }
    }));
    in_flight(&nginx, 16).await;
    for replica in &new {
        replica.fault(Fault::None).await;
    }
    assert_eq!(calls.await.expect("no panic"), [200; 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_streams_for_long_holds_nothing_back() {
    let replica = Replica::named("a").chat(ms(20), ms(200), 50).start().await;
    let builder = Nginx::builder().server("proxy_buffering off;");
    let nginx = builder.balanced(QUEUED, [replica.server()], "max_conns=8").start().await;
    ejected_and_healed(&nginx, &replica).await;
    half_open(&nginx, &replica).await;
    let trial = streams(&nginx, 1, 50);
    in_flight(&nginx, 1).await;
    let more = streams(&nginx, 7, 10);
    for stream in more.join_all().await {
        assert!(stream.done && stream.ttft() < ms(3_000), "a first token after {:?}", stream.ttft());
    }
    assert_eq!(nginx.status().await.in_flight(), 1, "the trial still streams");
    trial.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_is_open_ends_the_trial_and_holds_nothing_back() {
    // It says nothing by itself for a long time.
    let replica = Replica::named("a").service(ms(60_000)).start().await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ {QUEUED} server {} max_conns=8; }}", replica.server()))
        .server(
            "location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection upgrade; }",
        )
        .start()
        .await;
    ejected_and_healed(&nginx, &replica).await;
    half_open(&nginx, &replica).await;
    let mut sockets = vec![ws::Socket::open(&nginx.url(), "/ws").await.expect("a WebSocket")];
    for _ in 0..7 {
        sockets.push(ws::Socket::open(&nginx.url(), "/ws").await.expect("another WebSocket"));
    }
    in_flight(&nginx, 8).await;
    let peer = nginx.status().await.upstream("u").peer(replica.server());
    assert_eq!(peer.text("/breaker"), "closed");
    assert!(peer.0["service_ms"].is_null(), "a session is no sample: {:#}", peer.0);
    drop(sockets);
}
