//! How requests spread over peers: shares, weights, slots, the queue's order and bounds, retries,
//! backups, the breaker.

use std::time::{Duration, Instant};

use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, conf, eventually, load, ports};
use hyper::Method;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn share(replies: &[harness::Reply], name: &str) -> f64 {
    let own = replies.iter().filter(|reply| reply.replica() == name).count();
    f64::from(u32::try_from(own).unwrap()) / f64::from(u32::try_from(replies.len()).unwrap())
}

fn statuses(replies: &[harness::Reply], status: u16) -> usize {
    replies.iter().filter(|reply| reply.status == status).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_proxied_and_counted() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder().workers(2).balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let replies = load::gets(&nginx.client(), "/", 100, 4).await;
    assert_eq!(statuses(&replies, 200), 100);
    assert_eq!(replicas.iter().map(|replica| replica.seen().requests).sum::<u64>(), 100);
    let upstream = nginx.status().await.upstream("u");
    for replica in &replicas {
        let counted = upstream.peer(replica.server()).number("/requests");
        assert_eq!(counted, replica.seen().requests as f64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_equal_peers_share_1500_requests_within_a_fifth() {
    let replicas = Replica::several(5, Settings::served_in(8.0)).await;
    let nginx = Nginx::builder().workers(2).balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let replies = load::gets(&nginx.client(), "/", 1500, 10).await;
    for (name, count) in load::shares(&replies) {
        assert!((240..=360).contains(&count), "{name} got {count} of 1500: {:?}", load::shares(&replies));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_equal_peers_with_slots_and_a_queue_share_evenly_too() {
    let replicas = Replica::several(5, Settings::served_in(8.0)).await;
    let nginx = Nginx::builder()
        .workers(2)
        .balanced("pincer_balance; pincer_queue size=100 timeout=10s;", Replica::servers(&replicas), "max_conns=4")
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 1500, 15).await;
    assert_eq!(statuses(&replies, 200), 1500);
    for (name, count) in load::shares(&replies) {
        assert!((240..=360).contains(&count), "{name} got {count} of 1500: {:?}", load::shares(&replies));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_nine_to_one_give_nine_in_ten_alone_and_in_a_crowd() {
    let replicas = Replica::several(2, Settings::served_in(8.0)).await;
    let servers = format!("server {} weight=9; server {} weight=1;", replicas[0].server(), replicas[1].server());
    let nginx = Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; {servers}"))
        .start()
        .await;
    for clients in [1, 20] {
        let replies = load::gets(&nginx.client(), "/", 600, clients).await;
        let nine = share(&replies, "a");
        assert!((0.87..=0.93).contains(&nine), "{clients} clients: {nine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_of_one_percent_gets_one_percent() {
    let replicas = Replica::several(2, Settings::served_in(8.0)).await;
    let servers = format!("server {} weight=99; server {} weight=1;", replicas[0].server(), replicas[1].server());
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; {servers}"))
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 600, 1).await;
    let canary = share(&replies, "b");
    assert!((0.005..=0.02).contains(&canary), "{canary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_peer_ever_has_more_requests_than_max_conns() {
    let replicas = Replica::several(3, Settings::served_in(4.0)).await;
    let nginx = Nginx::builder()
        .workers(4)
        .balanced("pincer_balance; pincer_queue size=500 timeout=30s;", Replica::servers(&replicas), "max_conns=2")
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 1200, 60).await;
    assert_eq!(statuses(&replies, 200), 1200, "{:?}", load::shares(&replies));
    for replica in &replicas {
        assert!(replica.seen().running_max <= 2, "{} had {}", replica.name(), replica.seen().running_max);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_peers_are_preferred_to_slow_ones() {
    let fast = Replica::several(2, Settings::served_in(5.0)).await;
    let slow = Replica::named("slow").service(ms(250)).start().await;
    let servers = Replica::servers(fast.iter().chain([&slow]));
    let nginx = Nginx::builder().workers(2).balanced("pincer_balance;", servers, "").start().await;
    let replies = load::gets(&nginx.client(), "/", 600, 4).await;
    assert!(share(&replies, "slow") <= 0.05, "{:?}", load::shares(&replies));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_slow_gets_its_share_again_when_it_is_healed() {
    let replicas = Replica::several(3, Settings::served_in(5.0)).await;
    let nginx = Nginx::builder().workers(2).balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let client = nginx.client();
    load::gets(&client, "/", 300, 4).await;
    replicas[0].change(|settings| settings.slow_factor = 40.0);
    let replies = load::gets(&client, "/", 300, 4).await;
    assert!(share(&replies, "a") <= 0.15, "{:?}", load::shares(&replies));
    replicas[0].change(|settings| settings.slow_factor = 1.0);
    eventually("the healed replica has 80 % of a third", 15.0, || async {
        share(&load::gets(&client, "/", 150, 4).await, "a") >= 0.8 / 3.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_are_served_first_in_first_out_across_workers() {
    let replica = Replica::named("a").service(ms(20)).start().await;
    let nginx = Nginx::builder()
        .workers(3)
        .balanced("pincer_balance; pincer_queue size=100 timeout=30s;", [replica.server()], "max_conns=1")
        .start()
        .await;
    replica.fault(Fault::Hang).await;
    let mut calls = tokio::task::JoinSet::new();
    let single = Client::single(&nginx.url());
    for number in 0..24_u64 {
        calls.spawn(single.call(Method::GET, "/").header("x-id", number).must());
        eventually("it waits", 5.0, || async {
            let status = nginx.status().await;
            status.in_flight() == 1 && status.waiting() == number
        })
        .await;
    }
    replica.fault(Fault::None).await;
    for reply in calls.join_all().await {
        assert_eq!(reply.status, 200);
    }
    let expected: Vec<String> = (0..24).map(|number| number.to_string()).collect();
    assert_eq!(replica.seen().order, expected);
    assert_eq!(replica.seen().running_max, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_over_its_time_ends_with_504_and_a_full_queue_with_502() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .logging("$status $pincer_queue_time")
        .balanced("pincer_balance; pincer_queue size=2 timeout=400ms;", [replica.server()], "max_conns=1")
        .start()
        .await;
    replica.fault(Fault::Hang).await;
    let single = Client::single(&nginx.url());
    let held = tokio::spawn(single.call(Method::GET, "/").must());
    eventually("one is in flight", 5.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let waiters =
        [tokio::spawn(single.call(Method::GET, "/").must()), tokio::spawn(single.call(Method::GET, "/").must())];
    eventually("two wait", 5.0, || async { nginx.status().await.waiting() == 2 }).await;
    let refused = single.get("/").await;
    assert_eq!(refused.status, 502, "the queue is full");
    for waiter in waiters {
        let late = waiter.await.expect("no panic");
        assert_eq!(late.status, 504);
        assert!(late.total_time >= ms(390), "{:?}", late.total_time);
    }
    let queue = nginx.status().await.upstream("u");
    assert_eq!((queue.number("/queue/timeouts"), queue.number("/queue/overflows")), (2.0, 1.0));
    replica.fault(Fault::None).await;
    assert_eq!(held.await.expect("no panic").status, 200);
    let lines = nginx.logged(4).await;
    let waits: Vec<f64> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("504 "))
        .map(|time| time.parse().unwrap_or_else(|_| panic!("{time:?} is no time")))
        .collect();
    assert!(waits.len() == 2 && waits.iter().all(|wait| (0.39..2.0).contains(wait)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_queue_full_peers_mean_502_at_once() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder().balanced("pincer_balance;", [replica.server()], "max_conns=1").start().await;
    replica.fault(Fault::Hang).await;
    let single = Client::single(&nginx.url());
    let held = tokio::spawn(single.call(Method::GET, "/").must());
    eventually("one is in flight", 5.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let start = Instant::now();
    assert_eq!(single.get("/").await.status, 502);
    assert!(start.elapsed() < ms(300));
    replica.fault(Fault::None).await;
    assert_eq!(held.await.expect("no panic").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_peer_costs_no_request_with_retries() {
    let replica = Replica::named("a").service(ms(2)).start().await;
    let refusing = ports::refusing_addr().to_string();
    let servers = [replica.server(), refusing.as_str()];
    let nginx = Nginx::builder().workers(2).balanced("pincer_balance;", servers, "").start().await;
    let replies = load::gets(&nginx.client(), "/", 200, 4).await;
    assert_eq!(statuses(&replies, 200), 200);
    let peer = nginx.status().await.upstream("u").peer(&refusing);
    assert!(peer.number("/failures") >= 3.0 && peer.text("/breaker") != "closed", "{:#}", peer.0);
    assert!(peer.number("/requests") <= 20.0, "the breaker keeps requests away: {:#}", peer.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_answers_500_at_once_is_seen_by_few_without_and_by_none_with_a_retry() {
    let replicas = Replica::several(4, Settings::served_in(10.0)).await;
    let body = |name: &str| {
        let servers = conf::servers(Replica::servers(&replicas), "");
        format!("upstream {name} {{ pincer_balance; {servers} }}")
    };
    let nginx = Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m; {} {}", body("plain"), body("retried")))
        .server("location /plain { proxy_pass http://plain; }")
        .server("location /retried { proxy_pass http://retried; proxy_next_upstream error timeout http_500; }")
        .start()
        .await;
    let client = nginx.client();
    load::gets(&client, "/plain", 100, 8).await;
    replicas[0].fault(Fault::Status(500)).await;
    let replies = load::gets(&client, "/plain", 1000, 8).await;
    let failed = statuses(&replies, 500);
    assert!((1..=15).contains(&failed), "{failed} of 1000 saw the 500");
    let replies = load::gets(&client, "/retried", 500, 8).await;
    assert_eq!(statuses(&replies, 200), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healed_peer_comes_back_through_one_trial() {
    let replicas = Replica::several(2, Settings::served_in(3.0)).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let client = nginx.client();
    replicas[0].fault(Fault::Status(503)).await;
    load::gets(&client, "/", 60, 2).await;
    let peer = || async { nginx.status().await.upstream("u").peer(replicas[0].server()) };
    assert_eq!(peer().await.text("/breaker"), "open");
    replicas[0].fault(Fault::None).await;
    eventually("the breaker closes", 10.0, || async {
        load::gets(&client, "/", 20, 2).await;
        peer().await.text("/breaker") == "closed"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_answers_404_at_once_does_not_look_fast() {
    let replicas = Replica::several(2, Settings::served_in(30.0)).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let client = nginx.client();
    load::gets(&client, "/", 20, 1).await;
    replicas[0].fault(Fault::Status(404)).await;
    let replies = load::gets(&client, "/", 100, 1).await;
    let refused = statuses(&replies, 404);
    assert!((30..=70).contains(&refused), "{refused} of 100 went to the peer that refuses");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_429_is_not_a_failure() {
    let replicas = Replica::several(2, Settings::served_in(3.0)).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    replicas[0].fault(Fault::Status(429)).await;
    let replies = load::gets(&nginx.client(), "/", 60, 2).await;
    assert!(statuses(&replies, 429) > 0);
    let peer = nginx.status().await.upstream("u").peer(replicas[0].server());
    assert_eq!((peer.number("/failures"), peer.text("/breaker")), (0.0, "closed"));
    assert!(peer.number("/neutral") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_serves_only_while_every_primary_is_out() {
    let primary = Replica::named("primary").start().await;
    let backup = Replica::named("backup").start().await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .upstream("u", format!("pincer_balance; server {}; server {} backup;", primary.server(), backup.server()))
        .start()
        .await;
    let client = nginx.client();
    assert_eq!(share(&load::gets(&client, "/", 50, 4).await, "primary"), 1.0);
    primary.fault(Fault::Refuse).await;
    let replies = load::gets(&client, "/", 50, 4).await;
    assert_eq!(share(&replies, "backup"), 1.0, "{:?}", load::shares(&replies));
    primary.fault(Fault::None).await;
    eventually("the primary serves again", 10.0, || async { client.get("/").await.replica() == "primary" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_marked_down_gets_nothing() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .upstream(
            "u",
            format!("pincer_balance; server {}; server {} down;", replicas[0].server(), replicas[1].server()),
        )
        .start()
        .await;
    load::gets(&nginx.client(), "/", 50, 4).await;
    assert_eq!(replicas[1].seen().requests, 0);
    assert_eq!(nginx.status().await.upstream("u").peer(replicas[1].server()).text("/state"), "down");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_fails_0_never_takes_a_peer_out() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder().balanced("pincer_balance;", Replica::servers(&replicas), "max_fails=0").start().await;
    replicas[0].fault(Fault::Status(500)).await;
    let replies = load::gets(&nginx.client(), "/", 100, 1).await;
    assert!(statuses(&replies, 500) >= 10, "{}", statuses(&replies, 500));
    assert_eq!(nginx.status().await.upstream("u").peer(replicas[0].server()).text("/breaker"), "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_fails_and_fail_timeout_have_nginx_meaning() {
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = Nginx::builder()
        .balanced("pincer_balance;", Replica::servers(&replicas), "max_fails=2 fail_timeout=60s")
        .start()
        .await;
    replicas[0].fault(Fault::Status(500)).await;
    let replies = load::gets(&nginx.client(), "/", 60, 1).await;
    assert_eq!(statuses(&replies, 500), 2);
    assert_eq!(nginx.status().await.upstream("u").peer(replicas[0].server()).text("/breaker"), "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_keeps_a_key_on_its_peer() {
    let replicas = Replica::several(4, Settings::default()).await;
    let nginx = Nginx::builder()
        .workers(2)
        .balanced("pincer_balance affinity=$http_x_session;", Replica::servers(&replicas), "")
        .start()
        .await;
    let client = nginx.client();
    let mut used = std::collections::BTreeSet::new();
    for session in 0..40 {
        let first = client.call(Method::GET, "/").header("x-session", session).must().await;
        let again = client.call(Method::GET, "/").header("x-session", session).must().await;
        assert_eq!(first.replica(), again.replica(), "session {session}");
        used.insert(first.replica().to_owned());
    }
    assert_eq!(used.len(), 4, "sessions spread over all peers");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_kept_over_a_reload() {
    let fast = Replica::named("fast").service(ms(3)).start().await;
    let slow = Replica::named("slow").service(ms(200)).start().await;
    let nginx =
        Nginx::builder().workers(2).balanced("pincer_balance;", [fast.server(), slow.server()], "").start().await;
    load::gets(&nginx.client(), "/", 100, 4).await;
    let before = nginx.status().await.upstream("u");
    nginx.reload().await;
    let after = nginx.status().await.upstream("u");
    for replica in [&fast, &slow] {
        let (before, after) = (before.peer(replica.server()), after.peer(replica.server()));
        assert_eq!(before.number("/requests"), after.number("/requests"));
        let (before_ms, after_ms) = (before.number("/service_ms"), after.number("/service_ms"));
        assert!((0.9..=1.1).contains(&(after_ms / before_ms)), "{before_ms} ms, then {after_ms} ms");
    }
    let replies = load::gets(&nginx.client(), "/", 100, 2).await;
    assert!(share(&replies, "slow") <= 0.1, "{:?}", load::shares(&replies));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_with_names_unix_sockets_and_ipv6_are_balanced() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let unix = Replica::named("unix").unix(folder.path().join("a.sock")).start().await;
    let named = Replica::named("named").start().await;
    let v6 = Replica::named("v6").ip(std::net::Ipv6Addr::LOCALHOST).try_start().await.ok();
    let port = named.server().rsplit_once(':').expect("a port").1.to_owned();
    let by_name = format!("localhost:{port}");
    let mut servers = vec![unix.server(), by_name.as_str()];
    servers.extend(v6.as_ref().map(Replica::server));
    let nginx = Nginx::builder().balanced("pincer_balance;", servers, "").start().await;
    let shares = load::shares(&load::gets(&nginx.client(), "/", 60, 1).await);
    assert!(shares.contains_key("unix") && shares.contains_key("named"), "{shares:?}");
    assert!(v6.is_none() || shares.contains_key("v6"), "{shares:?}");
}
