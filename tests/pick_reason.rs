//! `$pincer_pick_reason` and the counters of `pincer_status` and `pincer_metrics` say why a peer
//! was picked, and which peers were full.

use std::time::Duration;

use harness::client::raw;
use harness::metrics::Metrics;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, conf, eventually, load, ports};

const FORMAT: &str = "$uri|$upstream_addr|$pincer_pick_reason";

/// The reason that was logged of the request of this URI; waits until it is.
async fn reason(nginx: &Nginx, uri: &str) -> String {
    let path = nginx.path("logs/access.log");
    harness::eventually_some(&format!("{uri} is logged"), 10.0, || async {
        let log = std::fs::read_to_string(&path).ok()?;
        let line = log.lines().find_map(|line| line.strip_prefix(&format!("{uri}|")))?;
        line.split_once('|').map(|(_, reason)| reason.to_owned())
    })
    .await
}

/// Asks once, and returns the reason.
async fn asked(nginx: &Nginx, uri: &str) -> String {
    nginx.client().get(uri).await;
    reason(nginx, uri).await
}

/// Picks of this reason, by the metrics.
async fn counted(nginx: &Nginx, reason: &str) -> f64 {
    Metrics::read(&nginx.metrics().await).sum("pincer_picks_total", &[("upstream", "u"), ("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_unknown_then_the_fastest_and_what_is_full_is_named() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let (a, b) = (replicas[0].server(), replicas[1].server());
    let nginx = Nginx::builder()
        .logging(FORMAT)
        .balanced("pincer_balance;", [a, b], "max_conns=1")
        .server("location = /plain { return 200 plain; }")
        .start()
        .await;
    assert_eq!(asked(&nginx, "/plain").await, "-", "no peer was picked");
    assert_eq!(asked(&nginx, "/first").await, "unknown");
    load::gets(&nginx.client(), "/more", 20, 1).await;
    assert_eq!(asked(&nginx, "/known").await, "fastest");
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let held = raw::send(&nginx.address(), "/held", &[]).await;
    eventually("a slot is held", 5.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let busy = replicas.iter().find(|replica| replica.seen().running == 1).expect("one of them").server().to_owned();
    for replica in &replicas {
        if replica.server() != busy {
            replica.fault(Fault::None).await;
        }
    }
    // Of the second one it was the full peer's turn, at the latest.
    nginx.client().get("/first-beside").await;
    assert_eq!(asked(&nginx, "/beside").await, format!("fastest;full={busy}"));
    let free = replicas.iter().find(|replica| replica.server() != busy).expect("the other");
    free.fault(Fault::Hang).await;
    let other = raw::send(&nginx.address(), "/other", &[]).await;
    eventually("both slots are held", 5.0, || async { nginx.status().await.in_flight() == 2 }).await;
    assert_eq!(asked(&nginx, "/none").await, "-", "all are full");
    for replica in &replicas {
        replica.fault(Fault::None).await;
    }
    assert_eq!((raw::status(&held.read_all().await), raw::status(&other.read_all().await)), (200, 200));
    assert!(counted(&nginx, "fastest").await >= 2.0 && counted(&nginx, "unknown").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_stood_in_the_queue_has_waited() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let nginx = Nginx::builder()
        .logging(FORMAT)
        .balanced("pincer_balance; pincer_queue size=9 timeout=30s;", Replica::servers(&replicas), "max_conns=1")
        .start()
        .await;
    load::gets(&nginx.client(), "/more", 20, 1).await;
    let before = counted(&nginx, "waited").await;
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let held = [raw::send(&nginx.address(), "/1", &[]).await, raw::send(&nginx.address(), "/2", &[]).await];
    eventually("both slots are held", 5.0, || async { nginx.status().await.in_flight() == 2 }).await;
    let waiting = raw::send(&nginx.address(), "/waits", &[]).await;
    eventually("it waits", 5.0, || async { nginx.status().await.waiting() == 1 }).await;
    replicas[0].fault(Fault::None).await;
    assert_eq!(raw::status(&waiting.read_all().await), 200);
    assert_eq!(reason(&nginx, "/waits").await, format!("waited;full={}", replicas[1].server()));
    assert_eq!(counted(&nginx, "waited").await - before, 1.0);
    replicas[1].fault(Fault::None).await;
    for held in held {
        held.read_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_a_look_affinity_a_backup_and_the_last_resort_have_words() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let (a, b) = (&replicas[0], &replicas[1]);
    let nginx = Nginx::builder()
        .logging(FORMAT)
        .balanced("pincer_balance;", [a.server()], "max_fails=1 fail_timeout=1s")
        .http(format!("upstream keyed {{ pincer_balance affinity=$arg_s; server {}; }}", a.server()))
        .http(format!("upstream spare {{ pincer_balance; server {} down; server {} backup; }}", a.server(), b.server()))
        .server("location = /keyed { proxy_pass http://keyed; } location = /spare { proxy_pass http://spare; }")
        .start()
        .await;
    nginx.client().get("/keyed?s=1").await;
    assert_eq!(reason(&nginx, "/keyed").await, "affinity");
    assert_eq!(asked(&nginx, "/spare").await, "backup");
    a.fault(Fault::Status(500)).await;
    nginx.client().get("/fails").await;
    assert_eq!(asked(&nginx, "/out").await, "last_resort");
    a.fault(Fault::None).await;
    eventually("the trial is due", 10.0, || async {
        nginx.status().await.upstream("u").peer(a.server()).text("/breaker") == "half_open"
    })
    .await;
    assert_eq!(asked(&nginx, "/back").await, "trial");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_an_idle_peer_has_its_word() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    replicas[1].change(|settings| settings.service_ms = 300.0);
    let servers = Replica::servers(&replicas);
    let nginx = Nginx::builder().logging(FORMAT).balanced("pincer_balance;", servers, "max_conns=4").start().await;
    eventually("a look is logged", 20.0, || async {
        load::gets(&nginx.client(), "/", 20, 2).await;
        counted(&nginx, "explore").await >= 1.0
    })
    .await;
    eventually("it is in the log", 5.0, || async {
        let log = std::fs::read_to_string(nginx.path("logs/access.log")).unwrap_or_default();
        log.lines().any(|line| line.ends_with("|explore") && line.contains(replicas[1].server()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_its_reason_in_the_form_of_upstream_addr() {
    let replica = Replica::named("a").service(Duration::from_millis(5)).start().await;
    let refusing = ports::refusing_addr();
    let nginx = Nginx::builder()
        .logging(FORMAT)
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; server {refusing} weight=1000; server {};", replica.server()))
        .http(format!("upstream other {{ pincer_balance; server {}; }}", replica.server()))
        .server("location = /status/500 { proxy_pass http://u; proxy_intercept_errors on; error_page 500 = @other; }")
        .server("location @other { proxy_pass http://other; }")
        .start()
        .await;
    assert_eq!(Client::single(&nginx.url()).get("/").await.status, 200);
    assert_eq!(reason(&nginx, "/").await, "unknown, unknown");
    nginx.client().get("/status/500").await;
    let line = nginx.logged(2).await.remove(1);
    let fields: Vec<_> = line.split('|').collect();
    assert!(fields[1].contains(" : "), "{line}");
    assert_eq!(fields[2].matches(" : ").count(), 1, "{line}");
    assert_eq!(fields[1].matches(", ").count(), fields[2].matches(", ").count(), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counters_of_an_upstream_do_not_fall_when_a_peer_leaves() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let servers = conf::servers([replicas[0].server()], "");
    let nginx = Nginx::builder()
        .http(format!("pincer_zone pincer:1m; {} pincer_allow_peers 127.0.0.0/8;", pincerd.directives("edge-1")))
        .upstream("u", format!("pincer_balance; {servers}"))
        .start()
        .await;
    nginx.connected().await;
    pincerd.must(&["--wait", "10s", "peer", "add", "u", replicas[1].server()]).await;
    load::gets(&nginx.client(), "/", 60, 4).await;
    assert!(replicas[1].seen().requests > 0);
    let total = || async {
        let sum = Metrics::read(&nginx.metrics().await).sum("pincer_picks_total", &[("upstream", "u")]);
        let picks = nginx.status().await.upstream("u").0["picks"].clone();
        let shown: f64 = picks.as_object().map_or(0.0, |all| all.values().filter_map(serde_json::Value::as_f64).sum());
        assert_eq!(sum, shown, "{picks:#}");
        sum
    };
    assert_eq!(total().await, 60.0);
    pincerd.must(&["--wait", "10s", "peer", "remove", "u", replicas[1].server()]).await;
    assert_eq!(nginx.status().await.upstream("u").0["peers"].as_array().map(Vec::len), Some(1));
    assert_eq!(total().await, 60.0);
    nginx.reload().await;
    assert_eq!(total().await, 60.0);
}
