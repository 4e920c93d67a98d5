//! nginx's start and what it starts from: the last good revision, a damaged one, none; too many
//! workers, one process, a clock that jumps.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::client::pinned::{self, Pinned};
use harness::nginx::{Builder, Signal, Status, workers};
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, limit, load};
use hyper::Method;
use tokio::net::TcpListener;

/// How long nginx may take from its start to its first answer with the control plane away: a
/// second, and what a busy machine needs.
const SERVING_S: f64 = 1.0;
/// Processes that the zone has slots for.
const SLOTS: usize = pincer_core::zone::WORKERS_MAX;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
}

fn fed(pincerd: &Pincerd, state: &Path, replicas: &[Replica]) -> Builder {
    let servers = harness::conf::servers(Replica::servers(replicas), "");
    Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m state={};", state.display()))
        .http(pincerd.directives("edge-1"))
        .upstream("u", format!("pincer_balance; {servers}"))
        .server(pinned::LOCATION)
}

fn weight(status: &Status, replica: &Replica) -> f64 {
    status.upstream("u").peer(replica.server()).number("/weight/effective")
}

/// Sets a weight of 7, has it on disk, and stops nginx.
async fn remembered(pincerd: &Pincerd, state: &Path, replicas: &[Replica]) {
    let nginx = fed(pincerd, state, replicas).start().await;
    nginx.connected().await;
    pincerd.must(&["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--weight", "7"]).await;
    eventually("the revision is on disk", 5.0, || async { state.exists() }).await;
    nginx.quit();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_nginx_serves_at_once_from_the_last_good_revision_or_else_from_nginx_conf() {
    let mut pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let folder = workers::folder();
    let state = folder.path().join("last");
    remembered(&pincerd, &state, &replicas).await;
    pincerd.kill();
    for (expected, left) in [(7.0, true), (1.0, false)] {
        if !left {
            std::fs::remove_file(&state).expect("the state file");
        }
        let start = Instant::now();
        let nginx = fed(&pincerd, &state, &replicas).start().await;
        assert_eq!(nginx.client().get("/").await.status, 200);
        let took = start.elapsed();
        println!("last good revision there: {left}; first answer after {took:?}");
        assert!(took < limit(SERVING_S), "{took:?}");
        let status = nginx.status().await;
        assert_eq!((weight(&status, &replicas[0]), status.number("/revision") > 0.0), (expected, left));
        nginx.reload().await;
        assert_eq!(weight(&nginx.status().await, &replicas[0]), expected, "after a reload");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_dash_t_opens_no_connection_and_leaves_the_state_alone() {
    let mut pincerd = Pincerd::start().await;
    pincerd.kill();
    let listener = TcpListener::bind(pincerd.endpoint()).await.expect("the port");
    let replicas = Replica::several(1, Settings::default()).await;
    let folder = workers::folder();
    let (damaged, missing) = (folder.path().join("damaged"), folder.path().join("missing/last"));
    std::fs::write(&damaged, "damaged").expect("write");
    for state in [&damaged, &missing] {
        let checked = fed(&pincerd, state, &replicas).check().await;
        assert!(checked.ok, "{}", checked.output);
    }
    let called = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(called.is_err(), "nginx -t connected");
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["damaged"], "nothing was moved or made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_file_is_set_aside_and_replaced_by_the_control_planes() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let folder = workers::folder();
    let state = folder.path().join("last");
    remembered(&pincerd, &state, &replicas).await;
    let good = std::fs::read(&state).expect("the state file");
    let mut flipped = good.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    for damage in [&good[..good.len() / 2], &flipped, b""] {
        std::fs::write(&state, damage).expect("write");
        let nginx = fed(&pincerd, &state, &replicas).start().await;
        assert_eq!(nginx.client().get("/").await.status, 200);
        nginx.logs("is damaged", 5.0).await;
        assert_eq!(std::fs::read(folder.path().join("last.damaged")).expect("set aside"), damage);
        nginx.connected().await;
        let is_good = || async { std::fs::read(&state).is_ok_and(|bytes| bytes == good) };
        eventually("the state file is good again", 10.0, is_good).await;
        assert_eq!(weight(&nginx.status().await, &replicas[0]), 7.0);
        nginx.quit();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_does_not_fit_is_no_damage_and_is_kept_for_when_it_does() {
    let mut pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let folder = workers::folder();
    let state = folder.path().join("last");
    let builder = |size: &str| {
        Nginx::builder()
            .http(format!("pincer_zone pincer:{size} state={};", state.display()))
            .http(pincerd.directives("edge-1"))
            .upstream("u", format!("pincer_balance; server {};", replicas[0].server()))
    };
    let (large, small, large_again) = (builder("1m"), builder("64k"), builder("1m"));
    let nginx = large.start().await;
    nginx.connected().await;
    pincerd.must(&["--wait", "5s", "class", "set", "live", "--rate", "5r/s"]).await;
    eventually("the revision is on disk", 5.0, || async { state.exists() }).await;
    nginx.quit();
    pincerd.kill();
    let good = std::fs::read(&state).expect("the state file");
    // A zone of 64 KiB has no room for classes.
    let nginx = small.start().await;
    nginx.logs("does not fit the configuration", 5.0).await;
    assert_eq!(nginx.client().get("/").await.status, 200);
    assert_eq!(nginx.status().await.number("/revision"), 0.0);
    nginx.quit();
    assert_eq!(std::fs::read(&state).expect("the state file"), good);
    let nginx = large_again.start().await;
    assert!(nginx.status().await.number("/revision") > 0.0, "{}", nginx.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_that_cannot_be_written_is_said_once_and_costs_no_change() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let folder = workers::folder();
    mode(folder.path(), 0o500);
    let state = folder.path().join("last");
    let nginx = fed(&pincerd, &state, &replicas).start().await;
    nginx.connected().await;
    for weight in ["3", "4", "5"] {
        let peer = ["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--weight", weight];
        pincerd.must(&peer).await;
    }
    assert_eq!(weight(&nginx.status().await, &replicas[0]), 5.0);
    nginx.logs("cannot write state file", 5.0).await;
    assert_eq!(nginx.log().matches("cannot write state file").count(), 1, "{}", nginx.tail());
    assert!(!state.exists());
    mode(folder.path(), 0o700);
    eventually("it is written once it can be", 15.0, || async { state.exists() }).await;
    nginx.logs("wrote state file again", 5.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_read_stop_a_start_and_refuse_a_reload() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let folder = workers::folder();
    let state = folder.path().join("last");
    let nginx = fed(&pincerd, &state, &replicas).start().await;
    nginx.connected().await;
    let key = pincerd.dev().join("node.key");
    let kept = std::fs::read(&key).expect("the key");
    for content in [None, Some("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")] {
        match content {
            None => std::fs::remove_file(&key).expect("remove"),
            Some(text) => std::fs::write(&key, text).expect("write"),
        }
        let checked = fed(&pincerd, &state, &replicas).check().await;
        assert!(!checked.ok && checked.error().contains("pincer_control_plane"), "{}", checked.output);
        let refused = nginx.try_reload().await.expect_err("refused");
        assert!(refused.contains("pincer_control_plane"), "{refused}");
        assert_eq!(nginx.client().get("/").await.status, 200);
    }
    std::fs::write(&key, kept).expect("write");
    mode(&key, 0o600);
    nginx.reload().await;
    nginx.connected().await;
    let peer = ["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--weight", "2"];
    pincerd.must(&peer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_without_a_master_balances_waits_and_is_fed() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let servers = harness::conf::servers(Replica::servers(&replicas), "max_conns=2");
    let text = format!(
        "master_process off; {{{{load_module}}}} error_log logs/error.log info; events {{ worker_connections 512; }}
         http {{ access_log off; pincer_zone pincer:1m state=state/last; {}
             upstream u {{ pincer_balance; pincer_queue size=100 timeout=20s; {servers} }}
             server {{ listen 127.0.0.1:{{{{port}}}}; location / {{ proxy_pass http://u; }} }}
             server {{ listen 127.0.0.1:{{{{status_port}}}}; location = /pincer_status {{ pincer_status; }} }} }}",
        pincerd.directives("edge-1")
    );
    let nginx = Nginx::builder().whole(text).workers(0).start().await;
    nginx.connected().await;
    let replies = load::gets(&nginx.client(), "/", 200, 20).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    assert!(replicas.iter().all(|replica| replica.seen().running_max == 2));
    pincerd.must(&["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--state", "draining"]).await;
    let replies = load::gets(&nginx.client(), "/", 40, 8).await;
    assert!(replies.iter().all(|reply| reply.replica() == "b"), "{:?}", load::shares(&replies));
    let workers = nginx.status().await.0["workers"].as_array().map(Vec::len);
    assert_eq!(workers, Some(1));
    nginx.quit();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_beyond_the_zones_slots_serve_too_and_take_a_slot_when_one_is_free() {
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let mut nginx = Nginx::builder()
        .workers(SLOTS + 2)
        .listen("reuseport")
        .balanced("pincer_balance;", Replica::servers(&replicas), "")
        .server(pinned::LOCATION)
        .start()
        .await;
    let with_slot = |status: &Status| -> Vec<i64> {
        let workers = status.0["workers"].as_array().cloned().unwrap_or_default();
        workers.iter().filter_map(|worker| worker["pid"].as_i64()).collect()
    };
    nginx.logs("has no slot in the zone", 5.0).await;
    let slots = with_slot(&nginx.status().await);
    assert_eq!(slots.len(), SLOTS);
    let mut beyond = loop {
        let pinned = Pinned::open(&nginx.address()).await.expect("a connection");
        if !slots.contains(&i64::from(pinned.worker())) {
            break pinned;
        }
    };
    for _ in 0..20 {
        assert_eq!(beyond.get("/").await.expect("an answer").0, 200);
    }
    drop(beyond);
    // While the old ones leave, the new ones of a reload find slots taken: they get theirs a little
    // later.
    nginx.reconfigure(|builder| builder.workers(SLOTS / 2 + 10)).await;
    let all = || async {
        let (slots, workers) = (with_slot(&nginx.status().await), nginx.workers());
        workers.iter().all(|pid| slots.contains(&i64::from(*pid)))
    };
    eventually("every worker has a slot", 10.0, all).await;
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_an_hour_changes_nothing() {
    let is_wrapped = std::fs::read(harness::nginx::binary()).is_ok_and(|program| program.starts_with(b"#!"));
    if !Path::new(FAKETIME).exists() || is_wrapped {
        println!("left out: {FAKETIME} is not installed, or nginx runs under a tool that preloads its own");
        return;
    }
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(3, Settings::served_in(3.0)).await;
    let folder = workers::folder();
    let clock = folder.path().join("clock");
    let jump = |to: &str| {
        std::fs::write(folder.path().join("new"), to).expect("write");
        mode(&folder.path().join("new"), 0o644);
        std::fs::rename(folder.path().join("new"), &clock).expect("rename");
    };
    jump("+0");
    let servers = harness::conf::servers(Replica::servers(&replicas), "max_conns=2 max_fails=2 fail_timeout=1s");
    let nginx = Nginx::builder()
        .workers(2)
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_TIMESTAMP_FILE", clock.display().to_string())
        .http("pincer_zone pincer:1m state=state/last;")
        .http(pincerd.directives("edge-1"))
        .upstream("u", format!("pincer_balance; pincer_queue size=100 timeout=5s; {servers}"))
        .server("proxy_next_upstream error timeout http_500; location = /now { return 200 $msec; }")
        .start()
        .await;
    nginx.connected().await;
    let now = || async { nginx.client().get("/now").await.text().parse::<f64>().expect("seconds") };
    let real = || std::time::UNIX_EPOCH.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    let (mut weight_set, client) = (1, Client::single(&nginx.url()));
    for (to, hours) in [("+3600", 1.0), ("+0", 0.0), ("-3600", -1.0), ("+0", 0.0)] {
        // One peer has failed, all slots are held and requests wait when the clock jumps.
        replicas[0].fault(Fault::Status(500)).await;
        load::gets(&nginx.client(), "/", 30, 4).await;
        assert_eq!(nginx.status().await.upstream("u").peer(replicas[0].server()).text("/breaker"), "open");
        for replica in &replicas[1..] {
            replica.fault(Fault::Hang).await;
        }
        let pending: Vec<_> = (0..8).map(|_| tokio::spawn(client.call(Method::GET, "/").must())).collect();
        eventually("four wait", 5.0, || async { nginx.status().await.waiting() == 4 }).await;
        jump(to);
        let jumped = || async { (now().await - real() - hours * 3600.0).abs() < 60.0 };
        eventually("nginx's clock has jumped", 10.0, jumped).await;
        for replica in &replicas {
            replica.fault(Fault::None).await;
        }
        for reply in pending {
            assert_eq!(reply.await.expect("no panic").status, 200, "clock at {to}");
        }
        let start = Instant::now();
        let heals = || async {
            load::gets(&nginx.client(), "/", 20, 4).await;
            nginx.status().await.upstream("u").peer(replicas[0].server()).text("/breaker") == "closed"
        };
        eventually("the peer that failed is back", 10.0, heals).await;
        let back = start.elapsed();
        assert!(back < limit(5.0), "clock at {to}: back after {back:?}");
        weight_set += 1;
        let weight_text = weight_set.to_string();
        pincerd.must(&["--wait", "2s", "peer", "set", "u", replicas[0].server(), "--weight", &weight_text]).await;
        let status = nginx.status().await;
        assert!(status.number("/control_plane/age_ms") < 60_000.0);
        assert_eq!(status.number("/control_plane/reconnects"), 0.0, "clock at {to}");
        for replica in &replicas {
            let service_ms = status.upstream("u").peer(replica.server()).number("/service_ms");
            assert!(service_ms < 2000.0, "clock at {to}: {service_ms}");
        }
        assert_eq!((status.in_flight(), status.waiting()), (0, 0));
    }
    nginx.signal(Signal::HUP);
    eventually("a reload works as ever", 10.0, || async { nginx.draining().is_empty() }).await;
    assert_eq!(nginx.client().get("/").await.status, 200);
}
