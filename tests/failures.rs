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
    let replicas = Replica::several(2, Settings::served_in(20.0)).await;
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
    let replicas = Replica::several(2, Settings::served_in(20.0)).await;
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

/// Replicas whose breakers are not closed, by name.
async fn out(nginx: &Nginx, replicas: &[Replica]) -> Vec<String> {
    let mut out = Vec::new();
    for replica in replicas {
        if breaker(nginx, replica).await != "closed" {
            out.push(replica.name().to_owned());
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_every_replica_fails_takes_none_of_them_out() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder().workers(2).balanced("pincer_balance;", Replica::servers(&replicas), "max_conns=4");
    let nginx = nginx.server("location /again { proxy_pass http://u/; proxy_next_upstream http_500; }").start().await;
    for path in ["/status/500", "/again/status/500", "/status/500?prompt=2"] {
        load::gets(&nginx.client(), path, 12, 1).await;
        assert_eq!(out(&nginx, &replicas).await, [""; 0], "{path}");
    }
    for replica in &replicas {
        let peer = nginx.status().await.upstream("u").peer(replica.server());
        assert_eq!(peer.number("/slots"), 4.0);
        assert!(peer.number("/failures") >= 6.0, "failures are counted all the same: {:#}", peer.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_one_length_are_told_apart_by_their_digest() {
    for (hash, expected) in [("", 0), ("pincer_body_hash blake3;", 1)] {
        let replicas = Replica::several(2, Settings::default()).await;
        let servers = Replica::servers(&replicas);
        let nginx = Nginx::builder().balanced("pincer_balance;", servers, "").server(hash).start().await;
        for replica in &replicas {
            replica.fault(Fault::Status(500)).await;
        }
        let client = nginx.client();
        for prompt in 100..112 {
            assert_eq!(client.post("/echo", format!("prompt {prompt}")).await.status, 500);
        }
        assert_eq!(out(&nginx, &replicas).await.len(), expected, "{hash:?}: the pool keeps the other one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_pool_stays_in_unless_another_replica_answers() {
    for (broken, expected) in [(4, 2), (3, 3)] {
        // Long enough that the machine's noise makes none of them the slower one.
        let replicas = Replica::several(4, Settings::served_in(20.0)).await;
        let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
        load::gets(&nginx.client(), "/", 40, 2).await;
        for replica in &replicas[..broken] {
            replica.fault(Fault::Status(500)).await;
        }
        for number in 0..40 {
            nginx.client().get(&format!("/{number}")).await;
        }
        let out = out(&nginx, &replicas).await;
        assert_eq!(out.len(), expected, "{broken} of 4 are broken: {out:?}");
        assert!(!out.contains(&"d".to_owned()) || broken == 4, "{out:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_refuse_connections_fail_by_themselves_whatever_they_were_to_be_asked() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    for replica in &replicas {
        replica.fault(Fault::Refuse).await;
    }
    load::gets(&nginx.client(), "/", 12, 1).await;
    assert_eq!(out(&nginx, &replicas).await.len(), 1, "half of the pool");
}
