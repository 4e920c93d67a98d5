//! What takes a replica out, what brings it back, and whose fault a failure is.

use harness::replica::Settings;
use harness::{Fault, Nginx, Pincerd, Replica, conf, eventually, load};

/// The state of a replica's breaker.
async fn breaker(nginx: &Nginx, replica: &Replica) -> String {
    nginx.status().await.upstream("u").peer(replica.server()).text("/breaker").to_owned()
}

/// Asks until the replica is out; afterwards it is well again, and nobody goes there.
async fn out_and_well_again(nginx: &Nginx, replica: &Replica) {
    replica.fault(Fault::Status(500)).await;
    eventually("the replica is out", 10.0, || async {
        load::gets(&nginx.client(), "/", 10, 1).await;
        breaker(nginx, replica).await == "open"
    })
    .await;
    replica.fault(Fault::None).await;
    replica.forget();
    load::gets(&nginx.client(), "/", 40, 2).await;
    assert_eq!(replica.seen().requests, 0, "it is out for hours");
}

/// Asks until the replica has its part again.
async fn is_back(nginx: &Nginx, replica: &Replica, why: &str) {
    eventually(&format!("the replica is back after {why}"), 5.0, || async {
        replica.forget();
        load::gets(&nginx.client(), "/", 40, 2).await;
        replica.seen().requests >= 10
    })
    .await;
    assert_eq!(breaker(nginx, replica).await, "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_out_for_hours_is_back_after_a_reload_and_at_an_operators_word() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(2.0)).await;
    let balanced = |parameters: &str| {
        let servers = conf::servers(Replica::servers(&replicas), parameters);
        format!("upstream u {{ pincer_balance; {servers} }}")
    };
    let directives = pincerd.directives("edge-1");
    let http = |parameters: &str| format!("pincer_zone pincer:1m; {directives} {}", balanced(parameters));
    const LOCATION: &str = "location / { proxy_pass http://u; }";
    let strict = http("max_fails=3 fail_timeout=10000s");
    let mut nginx = Nginx::builder().workers(2).http(&strict).server(LOCATION).start().await;
    nginx.connected().await;
    let b = &replicas[1];
    out_and_well_again(&nginx, b).await;
    nginx.reload().await;
    is_back(&nginx, b, "a reload").await;
    for time in ["the first", "the second"] {
        out_and_well_again(&nginx, b).await;
        nginx.connected().await;
        pincerd.must(&["--wait", "10s", "peer", "set", "u", b.server(), "--state", "active"]).await;
        is_back(&nginx, b, &format!("{time} \"active\"")).await;
    }
    out_and_well_again(&nginx, b).await;
    pincerd.must(&["--wait", "10s", "peer", "set", "u", b.server(), "--max-conns", "50"]).await;
    is_back(&nginx, b, "a changed max_conns").await;
    out_and_well_again(&nginx, b).await;
    let shorter = http("max_fails=3 fail_timeout=1s");
    nginx.reconfigure(|builder| builder.clear().http(shorter).server(LOCATION)).await;
    is_back(&nginx, b, "a changed fail_timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_within_fail_timeout_are_counted_whatever_succeeds_in_between() {
    let replicas = Replica::several(2, Settings::default()).await;
    let servers = Replica::servers(&replicas);
    let nginx = Nginx::builder().balanced("pincer_balance;", servers, "max_fails=3 fail_timeout=60s").start().await;
    let a = &replicas[0];
    for failures in 1..=3 {
        for fault in [Fault::None, Fault::Status(500)] {
            a.fault(fault).await;
            let before = a.seen().requests;
            eventually("it was asked once more", 5.0, || async {
                nginx.client().get("/").await;
                a.seen().requests > before
            })
            .await;
        }
        let expected = if failures == 3 { "open" } else { "closed" };
        assert_eq!(breaker(&nginx, a).await, expected, "after {failures} failures");
    }
}
