//! Each configuration of `nginx-conf/` loads as it is written and does what its comments say.

use std::time::Duration;

use harness::client::{sse, ws};
use harness::replica::Settings;
use harness::{Fault, Nginx, Pincerd, Replica, eventually, load, paths};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Replacements of `127.0.0.1:9001` and so on by these replicas.
fn places(replicas: &[Replica]) -> Vec<(String, String)> {
    (9001..).zip(replicas).map(|(port, replica)| (format!("127.0.0.1:{port}"), replica.server().to_owned())).collect()
}

fn borrowed(replacements: &[(String, String)]) -> Vec<(&str, &str)> {
    replacements.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect()
}

#[test]
fn every_configuration_is_tested_here() {
    let tests = std::fs::read_to_string(paths::repository().join("tests/nginx_conf.rs")).expect("this file");
    for entry in std::fs::read_dir(paths::repository().join("nginx-conf")).expect("nginx-conf").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        assert!(tests.contains(&format!("example(\"{name}\"")), "{name} has no test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn balance_conf_queues_retries_and_logs() {
    let replicas = Replica::several(4, Settings::served_in(5.0)).await;
    let nginx = Nginx::builder().example("balance.conf", &borrowed(&places(&replicas))).start().await;
    replicas[1].fault(Fault::Status(503)).await;
    let client = nginx.client();
    let replies = load::closed(300, 30, move |_| {
        let client = client.clone();
        async move { client.post("/predict", vec![0; 2_000_000]).await }
    })
    .await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    for (replica, slots) in replicas.iter().zip([4, 4, 2, 2]) {
        assert!(replica.seen().running_max <= slots, "{}: {}", replica.name(), replica.seen().running_max);
    }
    let lines = nginx.logged(300).await;
    assert!(
        lines.iter().all(|line| line.contains(" 200 upstream=127.0.0.1:") && line.contains("first_byte=")),
        "{}",
        lines[0]
    );
    assert_eq!(nginx.status().await.upstream("inference").number("/queue/size"), 500.0);
    assert!(nginx.metrics().await.contains("pincer_queue_wait_seconds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_conf_passes_tokens_as_they_come_and_websockets() {
    let replicas = Replica::several(3, Settings::chat(40.0, 30.0)).await;
    replicas[1].change(|settings| settings.ttft_ms = 900.0);
    let nginx = Nginx::builder().example("streaming.conf", &borrowed(&places(&replicas))).start().await;
    let client = nginx.client();
    let streams = load::closed(60, 3, move |_| {
        let client = client.clone();
        async move { sse::chat(&client, "/v1/chat/completions", 4, 1.0).await.expect("a stream") }
    })
    .await;
    assert!(streams.iter().all(|stream| stream.done && stream.events.len() == 4));
    let spread = |stream: &sse::Stream| stream.events[3].saturating_sub(stream.events[0]);
    assert!(streams.iter().all(|stream| spread(stream) >= ms(60)), "tokens come one by one");
    let late = streams.iter().filter(|stream| stream.replica == "b").count();
    assert!(late <= 8, "{late} of 60 had to wait for the late one");
    assert_eq!(replicas[2].seen().requests, 0, "the backup");
    let mut socket = ws::Socket::open(&nginx.url(), "/ws").await.expect("a WebSocket");
    assert!(socket.hear().await.is_some());
    socket.say("hello").await;
    assert_eq!(socket.hear().await.as_deref(), Some("hello"));
    socket.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_conf_follows_the_control_plane() {
    let replicas = Replica::several(4, Settings::served_in(10.0)).await;
    let added = Replica::named("added").service(ms(10)).start().await;
    let pincerd = Pincerd::start().await;
    let (endpoint, dev) = (pincerd.endpoint(), format!("{}/", pincerd.dev().display()));
    let mut replacements = places(&replicas);
    for (from, to) in [
        ("pincer_control_plane 127.0.0.1:9443", format!("pincer_control_plane {endpoint}")),
        ("/etc/pincer/", dev),
        ("/var/lib/pincer/", "state/".to_owned()),
        ("pincer_allow_peers 10.0.0.0/8", "pincer_allow_peers 127.0.0.0/8".to_owned()),
    ] {
        replacements.push((from.to_owned(), to));
    }
    let nginx = Nginx::builder().example("live.conf", &borrowed(&replacements)).start().await;
    eventually("the control plane is connected", 10.0, || async {
        nginx.status().await.0["control_plane"]["connected"] == true
    })
    .await;
    let client = nginx.client();
    let shares = || async { load::shares(&load::gets(&client, "/", 200, 1).await) };
    let even = shares().await;
    assert!(even.values().all(|count| (30..=70).contains(count)), "{even:?}");
    let before = nginx.status().await.number("/revision");
    pincerd.must(&["--wait", "5s", "peer", "set", "chat", replicas[0].server(), "--weight", "9"]).await;
    let weighted = shares().await;
    assert!((135..=165).contains(&weighted["a"]), "nine in twelve: {weighted:?}");
    pincerd.must(&["--wait", "5s", "peer", "set", "chat", replicas[0].server(), "--state", "draining"]).await;
    let drained = shares().await;
    assert!(!drained.contains_key("a"), "{drained:?}");
    pincerd.must(&["--wait", "5s", "peer", "add", "chat", added.server(), "--max-conns", "4"]).await;
    let grown = shares().await;
    assert!(grown["added"] >= 20, "{grown:?}");
    assert_eq!(nginx.status().await.number("/revision"), before + 3.0);
    let lines = nginx.logged(800).await;
    assert!(lines[799].ends_with(&format!("revision={}", before + 3.0)), "{}", lines[799]);
}
