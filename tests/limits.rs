//! Rates and requests at once, as clients meet them: what is let in over all workers, what is
//! refused and how that is said, and that nothing is counted that did not happen.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::client::raw;
use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, Reply, eventually, limit, load, stats};
use hyper::Method;

/// A location that is answered in the content phase without an upstream.
const GIF: &str = "location / { empty_gif; }";
const ZONE: &str = "pincer_zone pincer:1m;";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A server whose locations are all held to the limits given.
fn limited(classes: &str, limits: &str) -> Builder {
    Nginx::builder().http(format!("{ZONE} {classes}")).server(limits)
}

fn statuses(replies: &[Reply]) -> std::collections::BTreeMap<u16, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.status).or_default() += 1;
    }
    counts
}

/// The statuses of `count` requests, one after the other.
async fn in_turn(client: &Client, path: &str, count: usize) -> Vec<u16> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(client.get(path).await.status);
    }
    found
}

/// Asks with `clients` at once for `time`; every answer with the moment it came, since the start.
async fn ask_for(
    nginx: &Nginx,
    path: &str,
    clients: usize,
    time: Duration,
    keepalive: bool,
) -> (Vec<(u16, Duration)>, Instant) {
    let start = Instant::now();
    let url = nginx.url();
    let path = path.to_owned();
    let asking = (0..clients).map(|_| {
        let client = if keepalive { Client::pooled(&url) } else { Client::single(&url) };
        let path = path.clone();
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while start.elapsed() < time {
                let status = client.get(&path).await.status;
                seen.push((status, start.elapsed()));
                if status == 429 {
                    tokio::time::sleep(ms(2)).await;
                }
            }
            seen
        })
    });
    let seen = futures_util::future::join_all(asking).await;
    (seen.into_iter().flat_map(|seen| seen.expect("no panic")).collect(), start)
}

/// That `admitted` requests in `time` are within 1 % of the rate and the burst.
fn assert_rate(admitted: usize, per_second: f64, burst: f64, time: Duration, what: &str) {
    #[allow(clippy::cast_precision_loss)]
    let (admitted, due) = (admitted as f64, per_second * time.as_secs_f64() + burst);
    assert!((admitted - due).abs() <= due * 0.01, "{what}: {admitted} let in, {due} are due in {time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_ten_seconds_and_four_workers_as_many_are_let_in_as_the_rate_and_the_burst_allow() {
    let nginx = limited("pincer_class c rate=300r/s burst=200 nodelay;", "pincer_limit class=c;")
        .server(GIF)
        .workers(4)
        .listen("reuseport")
        .start()
        .await;
    let (seen, _) = ask_for(&nginx, "/", 16, limit(10.0), false).await;
    let let_in: Vec<_> = seen.iter().filter(|(status, _)| *status == 200).map(|(_, at)| *at).collect();
    let last = let_in.iter().max().expect("some are let in");
    assert!(seen.len() > let_in.len() * 11 / 10, "only {} of {} are refused", seen.len() - let_in.len(), seen.len());
    assert_rate(let_in.len(), 300.0, 200.0, *last, "nodelay");
    let status = nginx.status().await.class("c");
    assert_eq!(status.number("/requests/passed"), let_in.len() as f64);
    assert_eq!(status.number("/requests/rejected_rate"), (seen.len() - let_in.len()) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_without_nodelay_comes_through_at_the_pace_of_the_rate() {
    let nginx = limited("pincer_class c rate=50r/s burst=20; pincer_class d rate=50r/s burst=20 delay=10;", "")
        .server("location /c { pincer_limit class=c; empty_gif; } location /d { pincer_limit class=d; empty_gif; }")
        .logging("$pincer_limit_status")
        .workers(2)
        .start()
        .await;
    for (path, at_once) in [("/c", 1), ("/d", 11)] {
        let client = nginx.client();
        let start = Instant::now();
        let replies = load::closed(40, 40, move |_| {
            let client = client.clone();
            async move {
                let reply = client.get(path).await;
                (reply.status, start.elapsed())
            }
        })
        .await;
        let mut passed: Vec<_> = replies.iter().filter(|(status, _)| *status == 200).map(|(_, at)| *at).collect();
        passed.sort_unstable();
        // While the first ones come, the rate lets in a few more.
        assert!((21..=24).contains(&passed.len()), "{path}: {} of 40", passed.len());
        for (place, at) in passed.iter().enumerate().skip(at_once) {
            let due = ms(20) * u32::try_from(place + 1 - at_once).expect("few");
            assert!(*at + ms(5) >= due, "{path}: number {place} after {at:?}, not before {due:?}");
        }
        let last = passed.last().expect("some");
        assert!(*last < ms(20) * 24 + limit(0.5), "{path}: the last after {last:?}");
    }
    let lines = nginx.logged(80).await;
    let count = stats::counts(lines.iter().map(String::as_str));
    assert!(count["PASSED"] >= 12 && count["DELAYED"] >= 28 && count["REJECTED"] >= 30, "{count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_per_minute_spaces_requests_by_seconds() {
    let nginx =
        limited("pincer_class c rate=30r/m burst=1 nodelay;", "pincer_limit class=c;").server(GIF).start().await;
    let client = nginx.client();
    assert_eq!(in_turn(&client, "/", 3).await, [200, 200, 429]);
    let start = Instant::now();
    eventually("one more after two seconds", 10.0, || async { client.get("/").await.status == 200 }).await;
    assert!(start.elapsed() > ms(1_700), "{:?}", start.elapsed());
    assert_eq!(client.get("/").await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_key_do_not_count_for_another_and_of_none_count_together() {
    let nginx = limited("pincer_class c rate=1r/m burst=2 nodelay;", "pincer_limit class=c key=$arg_who;")
        .server(GIF)
        .workers(2)
        .start()
        .await;
    let client = nginx.client();
    for path in ["/?who=a", "/?who=b", "/?who=", "/?who=A"] {
        let expected = [200, 200, 200, 429, 429];
        assert_eq!(in_turn(&client, path, 5).await, expected, "{path}");
    }
    assert_eq!(in_turn(&client, "/", 1).await, [429], "without a value it is the empty one's");
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_a_day_changes_no_rate() {
    let is_wrapped = std::fs::read(harness::nginx::binary()).is_ok_and(|program| program.starts_with(b"#!"));
    if !Path::new(FAKETIME).exists() || is_wrapped {
        println!("left out: {FAKETIME} is not installed, or nginx runs under a tool that preloads its own");
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("permissions");
    };
    open(folder.path(), 0o777);
    let clock = folder.path().join("clock");
    let jump = |to: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, to).expect("write");
        open(&new, 0o644);
        std::fs::rename(&new, &clock).expect("rename");
    };
    jump("+0");
    let nginx = limited("pincer_class c rate=200r/s burst=100 nodelay bandwidth=10m;", "pincer_limit class=c;")
        .server("location = / { empty_gif; } location /now { pincer_limit class=$arg_none; return 200 $msec; }")
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_TIMESTAMP_FILE", clock.display().to_string())
        .workers(2)
        .start()
        .await;
    let now = || async { nginx.client().get("/now").await.text().parse::<f64>().expect("seconds") };
    let real = || std::time::UNIX_EPOCH.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    let asking = ask_for(&nginx, "/", 8, limit(6.0), true);
    let jumping = async {
        for (to, days) in [("+1d", 1.0), ("+0", 0.0), ("-1d", -1.0), ("+0", 0.0)] {
            jump(to);
            let jumped = || async { (now().await - real() - days * 86_400.0).abs() < 60.0 };
            eventually("nginx's clock has jumped", 5.0, jumped).await;
            tokio::time::sleep(limit(0.7)).await;
        }
    };
    let ((seen, _), ()) = tokio::join!(asking, jumping);
    let let_in: Vec<_> = seen.iter().filter(|(status, _)| *status == 200).map(|(_, at)| *at).collect();
    assert!(seen.iter().all(|(status, _)| [200, 429].contains(status)));
    assert_rate(let_in.len(), 200.0, 100.0, *let_in.iter().max().expect("some"), "over four jumps");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_refuses_gives_back_what_the_others_took() {
    let classes = "pincer_class wide rate=1r/m burst=9 nodelay; pincer_class narrow rate=1r/m burst=1 nodelay;
        pincer_class busy concurrency=1;";
    let nginx = limited(classes, "")
        .server(
            "location /both { pincer_limit class=wide; pincer_limit class=narrow key=$arg_k; empty_gif; }
            location /wide { pincer_limit class=wide; empty_gif; }",
        )
        .start()
        .await;
    let client = nginx.client();
    // Two are let in and eight refused, which leaves eight of the ten.
    assert_eq!(in_turn(&client, "/both", 10).await, [&[200; 2][..], &[429; 8]].concat());
    assert_eq!(in_turn(&client, "/wide", 9).await, [&[200; 8][..], &[429]].concat());
    let status = nginx.status().await;
    let (wide, narrow) = (status.class("wide"), status.class("narrow"));
    assert_eq!(wide.number("/requests/passed"), 10.0);
    assert_eq!(wide.number("/requests/rejected_rate"), 1.0);
    assert_eq!((narrow.number("/requests/passed"), narrow.number("/requests/rejected_rate")), (2.0, 8.0));
    assert_eq!((wide.number("/in_flight"), narrow.number("/in_flight")), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_nobody_and_says_whom_it_would_have() {
    let nginx = limited("pincer_class c rate=1r/m concurrency=1;", "")
        .server("location / { pincer_limit class=c dry_run; empty_gif; }")
        .logging("$pincer_class $pincer_limit_status")
        .start()
        .await;
    let client = nginx.client();
    assert_eq!(in_turn(&client, "/", 5).await, [200; 5]);
    assert_eq!(nginx.logged(5).await, ["c PASSED"].into_iter().chain(["c REJECTED_DRY_RUN"; 4]).collect::<Vec<_>>());
    let status = nginx.status().await.class("c");
    assert_eq!(status.number("/requests/rejected_dry_run"), 4.0);
    assert_eq!(status.number("/requests/rejected_rate"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_class_is_the_default_one_and_without_that_unlimited() {
    let location = "location / { pincer_limit class=$arg_class key=$arg_k; empty_gif; }";
    let vip = "pincer_class vip rate=1r/m burst=4 nodelay;";
    let mut nginx = limited(&format!("{vip} pincer_class default rate=1r/m burst=1 nodelay;"), location)
        .logging("$pincer_class")
        .start()
        .await;
    let client = nginx.client();
    assert_eq!(in_turn(&client, "/?class=vip", 6).await, [200, 200, 200, 200, 200, 429]);
    let long = format!("/?class={}&k=long", "v".repeat(300));
    for path in ["/?class=nobody&k=a", "/?class=&k=b", "/?k=c", "/?class=VIP&k=d", "/?class=vip%00&k=e", &long] {
        assert_eq!(in_turn(&client, path, 3).await, [200, 200, 429], "{path}");
    }
    let lines = nginx.logged(24).await;
    assert_eq!(stats::counts(lines.iter().map(String::as_str)), [("vip".into(), 6), ("default".into(), 18)].into());
    nginx.reconfigure(|builder| builder.clear().http(format!("{ZONE} {vip}")).server(location)).await;
    assert_eq!(in_turn(&client, "/?class=nobody", 20).await, [200; 20]);
    let reply = client.get("/?class=nobody").await;
    assert!(!reply.headers.contains_key("ratelimit") && !reply.headers.contains_key("x-ratelimit-limit-requests"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_within_and_subrequests_count_once() {
    let replica = Replica::named("a").start().await;
    let nginx = limited("pincer_class c rate=1r/m burst=9 nodelay concurrency=1;", "pincer_limit class=c;")
        .server(format!(
            "location /direct {{ empty_gif; }}
            location /rewritten {{ rewrite ^ /direct last; }}
            location /tries {{ try_files /nothing @named; }}
            location @named {{ proxy_pass http://{0}; }}
            location /index/ {{ index /nothing /direct; root /nonexistent; try_files /nothing /direct; }}
            location /guarded {{ auth_request /auth; empty_gif; }}
            location /auth {{ proxy_pass http://{0}; }}
            location /mirrored {{ mirror /auth; proxy_pass http://{0}; }}
            location /status {{ error_page 404 = /direct; proxy_intercept_errors on; proxy_pass http://{0}; }}",
            replica.server()
        ))
        .start()
        .await;
    let client = nginx.client();
    let paths = ["/direct", "/rewritten", "/tries", "/index/x", "/guarded", "/mirrored", "/status/404"];
    for (done, path) in paths.iter().enumerate() {
        assert_eq!(client.get(path).await.status, 200, "{path}");
        #[allow(clippy::cast_precision_loss)]
        let passed = done as f64 + 1.0;
        let settled = || async { nginx.status().await.class("c").number("/in_flight") == 0.0 };
        eventually("nothing is in flight", 5.0, settled).await;
        assert_eq!(nginx.status().await.class("c").number("/requests/passed"), passed, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_http2_connection_are_held_to_rate_and_concurrency() {
    let replica = Replica::named("a").settings(Settings::served_in(100.0)).start().await;
    let port = harness::ports::free_port();
    let nginx = limited("pincer_class c concurrency=3; pincer_class d rate=10r/s burst=5;
        pincer_class e rate=30r/m burst=9;", "")
        .http(format!(
            "server {{ {} location /c {{ pincer_limit class=c; proxy_pass http://{}; }}
                location /d {{ pincer_limit class=d; empty_gif; }} location /e {{ pincer_limit class=e; empty_gif; }} }}",
            harness::nginx::http2_listen(port),
            replica.server()
        ))
        .start()
        .await;
    let client = Client::h2c(&format!("http://127.0.0.1:{port}"));
    let replies = load::gets(&client, "/c", 12, 12).await;
    assert_eq!(statuses(&replies), [(200, 3), (429, 9)].into());
    assert_eq!(replica.seen().running_max, 3);
    let start = Instant::now();
    let replies = load::gets(&client, "/d", 10, 10).await;
    assert_eq!(statuses(&replies), [(200, 6), (429, 4)].into());
    assert!(start.elapsed() >= ms(495), "the burst is delayed: {:?}", start.elapsed());
    let status = nginx.status().await;
    assert_eq!(status.class("d").number("/requests/delayed"), 5.0);
    // A stream that is reset while it waits gives back what it took.
    assert_eq!(client.get("/e").await.status, 200);
    let hasty = client.clone().within(ms(20));
    for _ in 0..20 {
        let sent = hasty.call(Method::GET, "/e").send().await;
        assert!(matches!(sent, Err(harness::client::CallError::Late(_))), "{sent:?}");
        let none = || async { nginx.status().await.class("e").number("/in_flight") == 0.0 };
        eventually("none is in flight", 5.0, none).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_it_is_delayed_gives_back_its_turn() {
    let nginx =
        limited("pincer_class c rate=30r/m burst=3 concurrency=4;", "pincer_limit class=c;").server(GIF).start().await;
    let client = nginx.client();
    assert_eq!(client.get("/").await.status, 200);
    for _ in 0..20 {
        let waiting: Vec<_> =
            futures_util::future::join_all((0..3).map(async |_| raw::send(&nginx.address(), "/", &[]).await)).await;
        let all = || async { nginx.status().await.class("c").number("/in_flight") == 3.0 };
        eventually("three sleep", 5.0, all).await;
        assert_eq!(client.get("/").await.status, 429);
        for (number, sent) in waiting.into_iter().enumerate() {
            if number % 2 == 0 { sent.give_up() } else { sent.reset() }
        }
        let none = || async { nginx.status().await.class("c").number("/in_flight") == 0.0 };
        eventually("all have left", 5.0, none).await;
    }
}

/// Asks with `clients` at once until it is told to stop, over killed workers and refusals; how many
/// were served.
async fn asking(url: &str, clients: usize, stop: Arc<AtomicUsize>) -> usize {
    let clients = (0..clients).map(|_| {
        let (client, stop) = (Client::pooled(url), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut served = 0;
            while stop.load(SeqCst) == 0 {
                match client.call(Method::GET, "/").send().await {
                    Ok(reply) if reply.status == 200 => served += 1,
                    Ok(reply) if reply.status == 429 => tokio::time::sleep(ms(3)).await,
                    Ok(reply) => panic!("{}", reply.status),
                    // Its worker was killed.
                    Err(_) => tokio::time::sleep(ms(5)).await,
                }
            }
            served
        })
    });
    futures_util::future::join_all(clients).await.into_iter().map(|served| served.expect("no panic")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_killed_workers_leak_no_request_in_flight() {
    const KILLS: usize = 50;
    let replica = Replica::named("a").settings(Settings::served_in(20.0)).start().await;
    let nginx = limited("pincer_class c concurrency=5 bandwidth=50m;", "pincer_limit class=c key=$http_x_key;")
        .server(format!("location / {{ proxy_pass http://{}; }}", replica.server()))
        .workers(4)
        .start()
        .await;
    let stop = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn({
        let (url, stop) = (nginx.url(), Arc::clone(&stop));
        async move { asking(&url, 24, stop).await }
    });
    for _ in 0..KILLS {
        let held = || async { nginx.status().await.class("c").number("/in_flight") >= 3.0 };
        eventually("requests are in flight", 10.0, held).await;
        let victim = nginx.workers().into_iter().min().expect("a worker");
        nginx.kill_worker(victim);
        let replaced = || async { nginx.workers().len() == 4 && !nginx.workers().contains(&victim) };
        eventually("it is replaced", 10.0, replaced).await;
    }
    // However few were served between the kills.
    let before = replica.seen().finished;
    eventually("it goes on", 10.0, || async { replica.seen().finished > before + 2 * KILLS as u64 }).await;
    stop.store(1, SeqCst);
    let served = load.await.expect("no panic");
    assert!(served > KILLS, "{served}");
    let none = || async { nginx.status().await.class("c").number("/in_flight") == 0.0 };
    eventually("nothing is in flight", 5.0, none).await;
    // All five seats are there, and not one more.
    replica.forget();
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let pending: Vec<_> = (0..5).map(|_| tokio::spawn(client.call(Method::GET, "/").must())).collect();
    eventually("five run", 5.0, || async { replica.seen().running == 5 }).await;
    assert_eq!(client.get("/").await.status, 429);
    replica.fault(Fault::None).await;
    for reply in pending {
        assert_eq!(reply.await.expect("no panic").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_never_more_are_in_flight_than_the_concurrency_allows() {
    let replica = Replica::named("a").settings(Settings::served_in(4.0)).start().await;
    let nginx = limited("pincer_class c concurrency=7;", "pincer_limit class=c;")
        .server(format!("location / {{ proxy_pass http://{}; }}", replica.server()))
        .workers(4)
        .listen("reuseport")
        .start()
        .await;
    let client = Client::single(&nginx.url());
    let replies = load::gets(&client, "/", 3_000, 40).await;
    let counts = statuses(&replies);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [200, 429]);
    assert_eq!(replica.seen().running_max, 7);
    assert!(counts[&200] > 300, "{counts:?}");
}
