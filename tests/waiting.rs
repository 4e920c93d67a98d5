//! Requests that wait for a slot: clients that leave, peers that refuse afterwards, timers,
//! reloads, dying workers, the cache.

use std::time::{Duration, Instant};

use harness::client::raw;
use harness::nginx::Builder;
use harness::{Client, Fault, Nginx, Replica, eventually, load, ports};
use hyper::Method;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// One peer with one slot and a queue.
fn one_slot(replica: &Replica) -> Builder {
    Nginx::builder().balanced("pincer_balance; pincer_queue size=50 timeout=20s;", [replica.server()], "max_conns=1")
}

async fn waiting(nginx: &Nginx, count: u64) {
    eventually(&format!("{count} wait"), 10.0, || async { nginx.status().await.waiting() == count }).await;
}

async fn in_flight(nginx: &Nginx, count: u64) {
    eventually(&format!("{count} in flight"), 10.0, || async { nginx.status().await.in_flight() == count }).await;
}

type Pending = tokio::task::JoinHandle<harness::Reply>;

fn get(client: &Client, id: &str) -> Pending {
    tokio::spawn(client.call(Method::GET, "/").header("x-id", id).must())
}

async fn status(pending: Pending) -> u16 {
    pending.await.expect("no panic").status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_while_waiting_leaves_the_queue_and_never_reaches_the_peer() {
    let replica = Replica::named("a").start().await;
    let nginx = one_slot(&replica).workers(2).start().await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = get(&client, "holder");
    in_flight(&nginx, 1).await;
    let mut leavers = Vec::new();
    for _ in 0..4 {
        leavers.push(raw::send(&nginx.address(), "/", &[("x-id", "leaver")]).await);
    }
    waiting(&nginx, 4).await;
    let patient = get(&client, "patient");
    waiting(&nginx, 5).await;
    for (number, leaver) in leavers.into_iter().enumerate() {
        if number % 2 == 0 { leaver.give_up() } else { leaver.reset() }
    }
    waiting(&nginx, 1).await;
    replica.fault(Fault::None).await;
    assert_eq!((status(holder).await, status(patient).await), (200, 200));
    assert_eq!(replica.seen().order, ["holder", "patient"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_refuses_after_the_wait_hands_over_to_the_next() {
    let replica = Replica::named("a").start().await;
    let backup = Replica::named("backup").start().await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .upstream(
            "u",
            format!(
                "pincer_balance; pincer_queue size=50 timeout=20s; server {} max_conns=1; server {} backup;",
                replica.server(),
                backup.server()
            ),
        )
        .start()
        .await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = get(&client, "holder");
    in_flight(&nginx, 1).await;
    let waiters: Vec<_> = (0..3).map(|_| get(&client, "waiter")).collect();
    waiting(&nginx, 3).await;
    // The listener closes, the request inside is finished.
    replica.fault(Fault::Refuse).await;
    assert_eq!(status(holder).await, 200);
    for waiter in waiters {
        let reply = waiter.await.expect("no panic");
        assert_eq!((reply.status, reply.replica()), (200, "backup"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_refuses_after_the_wait_without_another_means_502() {
    let replica = Replica::named("a").start().await;
    let nginx = one_slot(&replica).start().await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = get(&client, "holder");
    in_flight(&nginx, 1).await;
    let waiters: Vec<_> = (0..5).map(|_| get(&client, "waiter")).collect();
    waiting(&nginx, 5).await;
    replica.fault(Fault::Refuse).await;
    assert_eq!(status(holder).await, 200);
    for waiter in waiters {
        assert_eq!(status(waiter).await, 502);
    }
    assert_eq!(nginx.status().await.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_timeout_shorter_than_the_wait_does_not_end_it() {
    let replica = Replica::named("a").service(ms(600)).start().await;
    let nginx = one_slot(&replica).server("proxy_connect_timeout 100ms;").start().await;
    let replies = load::gets(&Client::single(&nginx.url()), "/", 3, 3).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    let slowest = replies.iter().map(|reply| reply.total_time).max().unwrap_or_default();
    assert!(slowest >= ms(1700), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_timeout_starts_after_the_wait() {
    let replica = Replica::named("a").service(ms(400)).start().await;
    let nginx = one_slot(&replica).server("proxy_read_timeout 700ms; proxy_send_timeout 700ms;").start().await;
    let replies = load::gets(&Client::single(&nginx.url()), "/", 4, 4).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_answer_after_the_wait_times_out_on_its_own() {
    let replica = Replica::named("a").service(ms(300)).start().await;
    let nginx = one_slot(&replica).server("proxy_read_timeout 1500ms;").start().await;
    let client = Client::single(&nginx.url());
    let holder = get(&client, "holder");
    in_flight(&nginx, 1).await;
    let waiter = get(&client, "waiter");
    waiting(&nginx, 1).await;
    replica.change(|settings| settings.service_ms = 30_000.0);
    assert_eq!((status(holder).await, status(waiter).await), (200, 504));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_outlive_a_reload_and_keep_their_order() {
    let replica = Replica::named("a").service(ms(30)).start().await;
    let mut nginx = one_slot(&replica).workers(2).start().await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = get(&client, "0");
    in_flight(&nginx, 1).await;
    let mut waiters = Vec::new();
    for number in 1..=8_u64 {
        waiters.push(get(&client, &number.to_string()));
        waiting(&nginx, number).await;
        if number % 3 == 0 {
            nginx.reconfigure(|builder| builder.workers(usize::try_from(number / 3).expect("small") + 1)).await;
        }
    }
    assert!(!nginx.draining().is_empty(), "old workers hold the first waiters");
    replica.fault(Fault::None).await;
    assert_eq!(status(holder).await, 200);
    for waiter in waiters {
        assert_eq!(status(waiter).await, 200);
    }
    let expected: Vec<String> = (0..=8).map(|number| number.to_string()).collect();
    assert_eq!(replica.seen().order, expected);
    eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
    assert_eq!(replica.seen().running_max, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_hits_do_not_wait_while_the_queue_is_full() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http("proxy_cache_path cache keys_zone=c:1m; proxy_cache_valid 200 10m;")
        .server("proxy_cache c; proxy_cache_key $uri; add_header X-Cache $upstream_cache_status always;")
        .balanced("pincer_balance; pincer_queue size=2 timeout=20s;", [replica.server()], "max_conns=1")
        .start()
        .await;
    let client = Client::single(&nginx.url());
    assert_eq!(client.get("/bytes/100").await.header("x-cache"), "MISS");
    replica.fault(Fault::Hang).await;
    let fetch = |path: &'static str| tokio::spawn(client.call(Method::GET, path).must());
    let held = fetch("/bytes/1");
    in_flight(&nginx, 1).await;
    let waiters = [fetch("/bytes/2"), fetch("/bytes/3")];
    waiting(&nginx, 2).await;
    let start = Instant::now();
    let hit = client.get("/bytes/100").await;
    assert_eq!((hit.status, hit.header("x-cache"), hit.body.len()), (200, "HIT", 100));
    assert!(start.elapsed() < ms(500), "{:?}", start.elapsed());
    assert_eq!(client.get("/bytes/4").await.status, 502, "a miss finds the queue full");
    replica.fault(Fault::None).await;
    for pending in [held].into_iter().chain(waiters) {
        assert_eq!(status(pending).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_killed_worker_is_reclaimed_and_nobody_waiting_is_forgotten() {
    let replica = Replica::named("a").service(ms(20)).start().await;
    let nginx = one_slot(&replica).workers(2).start().await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    for round in 0..3_u64 {
        replica.fault(Fault::Hang).await;
        let _holder = raw::send(&nginx.address(), "/", &[]).await;
        in_flight(&nginx, 1).await;
        let holds = |status: &harness::nginx::Status| {
            let workers = status.0["workers"].as_array().cloned().unwrap_or_default();
            workers.iter().find(|worker| worker["in_flight"] == 1).and_then(|worker| worker["pid"].as_i64())
        };
        let victim = holds(&nginx.status().await).expect("one worker holds the slot");
        let waiters: Vec<_> =
            (0..6).map(|_| tokio::spawn(client.call(Method::GET, "/").header("x-id", round).send())).collect();
        waiting(&nginx, 6).await;
        replica.fault(Fault::None).await;
        replica.fault(Fault::Hang).await;
        let survivors = {
            let status = nginx.status().await;
            let workers = status.0["workers"].as_array().cloned().unwrap_or_default();
            let of_others = workers.iter().filter(|worker| worker["pid"].as_i64() != Some(victim));
            of_others.filter_map(|worker| worker["waiting"].as_u64()).sum::<u64>()
        };
        nginx.kill_worker(i32::try_from(victim).expect("a pid"));
        replica.fault(Fault::None).await;
        let mut served = 0;
        for waiter in waiters {
            if let Ok(reply) = waiter.await.expect("no panic") {
                assert_eq!(reply.status, 200);
                served += 1;
            }
        }
        assert!(served >= survivors, "{served} served, {survivors} waited in the other worker");
        in_flight(&nginx, 0).await;
        waiting(&nginx, 0).await;
        eventually("the worker is replaced", 10.0, || async { nginx.workers().len() == 2 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact_after_clients_came_and_went_at_random() {
    let replicas = Replica::several(2, harness::replica::Settings::served_in(4.0)).await;
    let nginx = Nginx::builder()
        .workers(3)
        .balanced("pincer_balance; pincer_queue size=200 timeout=20s;", Replica::servers(&replicas), "max_conns=2")
        .start()
        .await;
    let address = nginx.address();
    let results = load::closed(1000, 40, move |number| {
        let address = address.clone();
        async move {
            let mut sent = raw::send(&address, "/", &[]).await;
            if number % 4 == 0 {
                let patience = u64::try_from(number).unwrap_or(0) * 7 % 40;
                return sent.something(ms(patience)).await || {
                    sent.give_up();
                    true
                };
            }
            raw::status(&sent.read_all().await) == 200
        }
    })
    .await;
    assert!(results.iter().all(|fine| *fine), "{} failed", results.iter().filter(|fine| !**fine).count());
    in_flight(&nginx, 0).await;
    waiting(&nginx, 0).await;
    assert_eq!(Client::single(&nginx.url()).get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_busy_peer_is_waited_for_rather_than_a_slow_idle_one_taken() {
    let fast = Replica::named("fast").service(ms(20)).start().await;
    let slow = Replica::named("slow").service(ms(1500)).start().await;
    let nginx = Nginx::builder()
        .balanced("pincer_balance; pincer_queue size=100 timeout=20s;", [fast.server(), slow.server()], "max_conns=1")
        .start()
        .await;
    let client = Client::single(&nginx.url());
    // Both are known once each has answered.
    load::gets(&client, "/", 20, 2).await;
    slow.forget();
    let replies = load::gets(&client, "/", 200, 3).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(slow.seen().requests <= 4, "the slow one got {} of 200", slow.seen().requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_peers_while_others_wait_leave_no_one_behind() {
    let replica = Replica::named("a").service(ms(5)).start().await;
    let refusing = ports::refusing_addr().to_string();
    let nginx = Nginx::builder()
        .workers(2)
        .balanced(
            "pincer_balance; pincer_queue size=100 timeout=20s;",
            [replica.server(), refusing.as_str()],
            "max_conns=2",
        )
        .start()
        .await;
    let replies = load::gets(&nginx.client(), "/", 300, 20).await;
    let fine = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(fine, 300, "{}", nginx.tail());
}
