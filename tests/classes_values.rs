//! What a class is told at run time, over what nginx.conf says of it: which value holds, in every
//! worker, for requests that come, run and wait.

use harness::client::pinned::{self, Pinned};
use harness::client::raw;
use harness::nginx::Builder;
use harness::{Client, Fault, Nginx, Pincerd, Replica, Reply, eventually};
use hyper::Method;
use tokio::task::JoinHandle;

const WAIT: [&str; 2] = ["--wait", "5s"];

/// Fed by `pincerd`; four workers, each of which can be asked by itself.
fn fed(pincerd: &Pincerd, classes: &str) -> Builder {
    Nginx::builder()
        .workers(4)
        .listen("reuseport")
        .http(format!("pincer_zone pincer:1m; {classes}"))
        .http(pincerd.directives("edge-1"))
        .server(pinned::LOCATION)
}

async fn class(pincerd: &Pincerd, arguments: &[&str]) {
    pincerd.must(&[&WAIT, &["class"][..], arguments].concat()).await;
}

/// The class that was applied to a request in each worker, and the statuses of `count` requests of
/// one key over all of them.
async fn asked(workers: &mut [Pinned], class: &str, key: &str, count: usize) -> (Vec<String>, Vec<u16>) {
    let (mut applied, mut statuses) = (Vec::new(), Vec::new());
    for number in 0..count {
        let worker = &mut workers[number % 4];
        let (status, name, _) = worker.get(&format!("/?class={class}&key={key}")).await.expect("an answer");
        applied.push(name);
        statuses.push(status);
    }
    applied.dedup();
    (applied, statuses)
}

/// That in all workers together `passed` requests of a new key are let in as ones of the class
/// `applied`, and not one more.
async fn assert_lets_in(workers: &mut [Pinned], class: &str, key: &str, applied: &str, passed: usize) {
    let (names, statuses) = asked(workers, class, key, passed + 4).await;
    assert_eq!(names, [applied], "{class} {key}");
    assert_eq!(statuses, [vec![200; passed], vec![429; 4]].concat(), "{class} {key}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_made_at_run_time_holds_in_every_worker_at_once_and_without_it_the_default_does() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "pincer_class default rate=1r/m burst=1 nodelay;")
        .server("location / { pincer_limit class=$arg_class key=$arg_key; add_header X-Replica $pincer_class always; empty_gif; }")
        .start()
        .await;
    nginx.connected().await;
    let mut workers = Pinned::to_all(&nginx).await;
    assert_lets_in(&mut workers, "gold", "a", "default", 2).await;
    for round in 0..3 {
        class(&pincerd, &["set", "gold", "--rate", "1r/m", "--burst", "7", "--delay", "nodelay"]).await;
        assert_lets_in(&mut workers, "gold", &format!("b{round}"), "gold", 8).await;
        assert_eq!(nginx.status().await.class("gold").0["added"], true);
        class(&pincerd, &["delete", "gold"]).await;
        assert_lets_in(&mut workers, "gold", &format!("c{round}"), "default", 2).await;
    }
    assert_eq!(nginx.status().await.0["classes"].as_array().map(Vec::len), Some(1));
    // One that is made again owes nothing of its last life, and counts anew.
    class(&pincerd, &["set", "gold", "--rate", "1r/m", "--burst", "3", "--delay", "nodelay"]).await;
    assert_lets_in(&mut workers, "gold", "b0", "gold", 4).await;
    assert_eq!(nginx.status().await.class("gold").number("/requests/passed"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_not_set_is_that_of_nginx_conf_and_so_are_all_of_a_class_that_is_deleted() {
    let pincerd = Pincerd::start().await;
    let declared = "pincer_class free rate=1r/m burst=2 nodelay concurrency=5 priority=50 share=7 bandwidth=1m queue=9 queue_timeout=3s;";
    let nginx = fed(&pincerd, declared)
        .server("location / { pincer_limit class=free key=$arg_key; add_header X-Replica $pincer_class always; empty_gif; }")
        .start()
        .await;
    nginx.connected().await;
    let mut workers = Pinned::to_all(&nginx).await;
    let effective = async || {
        let class = nginx.status().await.class("free");
        let fields =
            ["rate", "burst", "delay", "concurrency", "bandwidth", "priority", "share", "queue", "queue_timeout_ms"];
        fields.map(|field| class.0[field]["effective"].to_string()).join(" ")
    };
    let declared = r#""1r/m" 2 "nodelay" 5 1048576 50 7 9 3000"#;
    assert_eq!(effective().await, declared);
    class(&pincerd, &["set", "free", "--burst", "5", "--priority", "3"]).await;
    assert_eq!(effective().await, r#""1r/m" 5 "nodelay" 5 1048576 3 7 9 3000"#);
    assert_lets_in(&mut workers, "", "a", "free", 6).await;
    let burst = nginx.status().await.class("free").0["burst"].clone();
    assert_eq!((&burst["configured"], &burst["live"]), (&2.into(), &5.into()));
    class(&pincerd, &["set", "free", "--burst", "unset", "--rate", "unlimited", "--concurrency", "0"]).await;
    assert_eq!(effective().await, r#""unlimited" 2 "nodelay" 0 1048576 3 7 9 3000"#);
    assert_eq!(asked(&mut workers, "", "b", 40).await.1, [200; 40]);
    class(&pincerd, &["set", "free", "--rate", "unset"]).await;
    assert_eq!(effective().await, r#""1r/m" 2 "nodelay" 0 1048576 3 7 9 3000"#);
    assert_lets_in(&mut workers, "", "c", "free", 3).await;
    let every = ["--delay", "0", "--bandwidth", "2m", "--share", "1", "--queue", "0", "--queue-timeout", "0"];
    class(&pincerd, &[&["set", "free"], &every[..]].concat()).await;
    assert_eq!(effective().await, r#""1r/m" 2 "0" 0 2097152 3 1 0 0"#);
    class(&pincerd, &["delete", "free"]).await;
    assert_eq!(effective().await, declared);
    assert_lets_in(&mut workers, "", "d", "free", 3).await;
    assert!(nginx.status().await.class("free").0["burst"]["live"].is_null());
}

/// Requests of one class that are at a replica which does not answer, and clients that may give up.
async fn held(nginx: &Nginx, replica: &Replica, count: u64) -> Vec<raw::Sent> {
    let before = replica.seen().requests;
    let mut sent = Vec::new();
    for _ in 0..count {
        sent.push(raw::send(&nginx.address(), "/", &[]).await);
    }
    let there = || async { replica.seen().requests == before + count };
    eventually(&format!("{count} more are there"), 5.0, there).await;
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrency_set_below_what_is_in_flight_lets_in_nobody_until_fewer_are() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let nginx = fed(&pincerd, "pincer_class c concurrency=6;")
        .server(format!("pincer_limit class=c; location / {{ proxy_pass http://{}; }}", replica.server()))
        .start()
        .await;
    nginx.connected().await;
    replica.fault(Fault::Hang).await;
    let mut sent = held(&nginx, &replica, 6).await;
    let client = Client::single(&nginx.url());
    assert_eq!(client.get("/").await.status, 429, "six of six");
    pincerd.must(&["--wait", "5s", "class", "set", "c", "--concurrency", "2"]).await;
    for left in (2..6).rev() {
        sent.pop().expect("one of six").give_up();
        eventually("it has left", 5.0, || async {
            nginx.status().await.class("c").number("/in_flight") == f64::from(left)
        })
        .await;
        assert_eq!(client.get("/").await.status, 429, "{left} of two");
    }
    sent.pop().expect("the last but one").give_up();
    eventually("it has left", 5.0, || async { nginx.status().await.class("c").number("/in_flight") == 1.0 }).await;
    let second = held(&nginx, &replica, 1).await;
    eventually("two are in flight", 5.0, || async { nginx.status().await.class("c").number("/in_flight") == 2.0 })
        .await;
    assert_eq!(client.get("/").await.status, 429, "two of two");
    pincerd.must(&["--wait", "5s", "class", "set", "c", "--concurrency", "0"]).await;
    let unbounded = held(&nginx, &replica, 9).await;
    eventually("no bound", 5.0, || async { nginx.status().await.class("c").number("/in_flight") == 11.0 }).await;
    pincerd.must(&["--wait", "5s", "class", "set", "c", "--concurrency", "3"]).await;
    // Who came while there was no bound has no seat; the two from before have theirs.
    let third = held(&nginx, &replica, 1).await;
    eventually("three seats", 5.0, || async { nginx.status().await.class("c").number("/in_flight") == 12.0 }).await;
    assert_eq!(client.get("/").await.status, 429, "three of three");
    replica.fault(Fault::None).await;
    for pending in sent.into_iter().chain(second).chain(unbounded).chain(third) {
        assert_eq!(raw::status(&pending.read_all().await), 200);
    }
    eventually("none is left", 5.0, || async { nginx.status().await.class("c").number("/in_flight") == 0.0 }).await;
    replica.fault(Fault::Hang).await;
    let all = held(&nginx, &replica, 3).await;
    assert_eq!(client.get("/").await.status, 429, "three of three, as before");
    replica.fault(Fault::None).await;
    for pending in all {
        assert_eq!(raw::status(&pending.read_all().await), 200);
    }
}

/// One more request, which waits in the queue when this returns.
async fn join(nginx: &Nginx, client: &Client, id: &str, class: &str) -> JoinHandle<Reply> {
    let waiting = nginx.status().await.waiting();
    let call = client.call(Method::GET, "/").header("x-id", id).header("x-class", class);
    let pending = tokio::spawn(call.must());
    eventually("it waits", 10.0, || async { nginx.status().await.waiting() == waiting + 1 }).await;
    pending
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_changed_while_requests_wait_decides_who_is_next_and_a_removed_class_loses_nobody() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let classes = "pincer_class vip priority=1; pincer_class free priority=100;";
    let nginx = fed(&pincerd, classes)
        .upstream(
            "u",
            format!("pincer_balance; pincer_queue size=50 timeout=20s; server {} max_conns=1;", replica.server()),
        )
        .server("pincer_limit class=$http_x_class;")
        .start()
        .await;
    nginx.connected().await;
    pincerd.must(&["--wait", "5s", "class", "set", "extra", "--priority", "200"]).await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = tokio::spawn(client.call(Method::GET, "/").must());
    eventually("the slot is held", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let mut waiting = vec![holder];
    for (id, class) in [("f1", "free"), ("e1", "extra"), ("v1", "vip"), ("f2", "free"), ("v2", "vip"), ("e2", "extra")]
    {
        waiting.push(join(&nginx, &client, id, class).await);
    }
    // Free goes before vip now, and a class that is gone last: its record stays until its requests
    // have ended.
    pincerd.must(&["--wait", "5s", "class", "set", "vip", "--priority", "150"]).await;
    pincerd.must(&["--wait", "5s", "class", "delete", "extra"]).await;
    assert_eq!(nginx.status().await.waiting(), 6);
    replica.fault(Fault::None).await;
    for pending in waiting {
        assert_eq!(pending.await.expect("no panic").status, 200, "{}", nginx.tail());
    }
    assert_eq!(replica.seen().order, ["f1", "f2", "v1", "v2", "e1", "e2"]);
    let settled = || async { nginx.status().await.0["class_records"]["free"] == 62 };
    eventually("its record is free again", 5.0, settled).await;
}
