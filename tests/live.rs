//! What operators change takes effect in every worker without a reload, or is refused as a whole,
//! and outlives a restart of either side.

use std::process::Stdio;
use std::time::Duration;

use harness::client::pinned::{self, Pinned};
use harness::client::{raw, sse};
use harness::nginx::{Builder, workers};
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, limit, load, paths};
use pincer_proto::v1;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Service time of replicas whose shares are looked at, ms: long enough that the machine's noise
/// makes none of them the slower one.
const SERVICE_MS: f64 = 20.0;
const WAIT: [&str; 2] = ["--wait", "10s"];

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Fed by `pincerd`, with an upstream `u` of these replicas.
fn fed(pincerd: &Pincerd, zone: &str, directives: &str, replicas: &[Replica]) -> Builder {
    let servers = harness::conf::servers(Replica::servers(replicas), "");
    Nginx::builder()
        .http(format!("pincer_zone pincer:1m {zone};"))
        .http(pincerd.directives("edge-1"))
        .http("pincer_allow_peers 127.0.0.0/8;")
        .upstream("u", format!("{directives} {servers}"))
        .server(pinned::LOCATION)
}

/// Four workers, each of which can be asked by itself.
async fn four_workers(pincerd: &Pincerd, replicas: &[Replica]) -> Nginx {
    let nginx = fed(pincerd, "", "pincer_balance;", replicas).workers(4).listen("reuseport").start().await;
    nginx.connected().await;
    nginx
}

/// The replicas that `count` requests in every worker went to, by worker; the workers at once.
async fn used_by_each(workers: &mut [Pinned], count: usize) -> Vec<Vec<String>> {
    let used_by = async |worker: &mut Pinned| {
        let mut used = Vec::new();
        for _ in 0..count {
            let (status, replica, _) = worker.get("/").await.expect("an answer");
            assert_eq!(status, 200);
            used.push(replica);
        }
        used
    };
    futures_util::future::join_all(workers.iter_mut().map(used_by)).await
}

fn has(used: &[String], name: &str) -> bool {
    used.iter().any(|replica| replica == name)
}

async fn set(pincerd: &Pincerd, peer: &str, settings: &[&str]) {
    pincerd.must(&[&WAIT, &["peer", "set", "u", peer][..], settings].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weight_and_state_hold_in_every_worker_at_once_and_without_a_reload() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(SERVICE_MS)).await;
    let nginx = four_workers(&pincerd, &replicas).await;
    let before = nginx.workers();
    let mut workers = Pinned::to_all(&nginx).await;
    let (a, b) = (replicas[0].server(), replicas[1].server());
    for nothing in [["--weight", "0"], ["--state", "draining"], ["--state", "down"]] {
        set(&pincerd, b, &nothing).await;
        for used in used_by_each(&mut workers, 8).await {
            assert!(!has(&used, "b"), "{nothing:?}: {used:?}");
        }
        set(&pincerd, b, &[nothing[0], "unset"]).await;
        let used = used_by_each(&mut workers, 8).await.concat();
        assert!(has(&used, "a") && has(&used, "b"), "{nothing:?} unset: {used:?}");
    }
    set(&pincerd, a, &["--weight", "7"]).await;
    let used = used_by_each(&mut workers, 40).await.concat();
    let share = used.iter().filter(|name| *name == "a").count();
    assert!((130..=150).contains(&share), "seven in eight of 160, not {share}");
    assert_eq!(nginx.workers(), before);
    assert_eq!(nginx.status().await.upstream("u").peer(a).number("/weight/live"), 7.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_conns_is_a_bound_over_all_workers_and_may_rise_while_requests_wait() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(20.0)).await;
    let directives = "pincer_balance; pincer_queue size=100 timeout=20s;";
    let nginx = fed(&pincerd, "", directives, &replicas).workers(3).start().await;
    nginx.connected().await;
    let a = replicas[0].server();
    for slots in [1_u64, 5, 2] {
        set(&pincerd, a, &["--max-conns", &slots.to_string()]).await;
        replicas[0].forget();
        let replies = load::gets(&Client::single(&nginx.url()), "/", 60, 20).await;
        assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
        assert_eq!(replicas[0].seen().running_max, slots);
    }
    replicas[0].fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let pending: Vec<_> = (0..6).map(|_| tokio::spawn(client.call(hyper::Method::GET, "/").must())).collect();
    eventually("four wait", 5.0, || async { nginx.status().await.waiting() == 4 }).await;
    set(&pincerd, a, &["--max-conns", "0"]).await;
    eventually("none waits once there is no limit", 1.0, || async { nginx.status().await.in_flight() == 6 }).await;
    replicas[0].fault(Fault::None).await;
    for reply in pending {
        assert_eq!(reply.await.expect("no panic").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_added_to_and_removed_from_every_worker() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(SERVICE_MS)).await;
    let added = Replica::named("added").settings(Settings::served_in(SERVICE_MS)).start().await;
    let nginx = four_workers(&pincerd, &replicas).await;
    let mut workers = Pinned::to_all(&nginx).await;
    for round in 0..3 {
        pincerd.must(&[&WAIT, &["peer", "add", "u", added.server()][..]].concat()).await;
        // One slow answer, and a peer is left alone for a while: each worker knows it if it asks it
        // in the end.
        let mut used = vec![Vec::new(); workers.len()];
        let all_know_both = |used: &[Vec<String>]| used.iter().all(|used| has(used, "added") && has(used, "a"));
        for _ in 0..20 {
            for (used, more) in used.iter_mut().zip(used_by_each(&mut workers, 10).await) {
                used.extend(more);
            }
            if all_know_both(&used) {
                break;
            }
        }
        assert!(all_know_both(&used), "round {round}: {used:?}");
        assert_eq!(nginx.status().await.upstream("u").peer(added.server()).0["added"], true);
        pincerd.must(&[&WAIT, &["peer", "remove", "u", added.server()][..]].concat()).await;
        for used in used_by_each(&mut workers, 10).await {
            assert!(!has(&used, "added"), "round {round}: {used:?}");
        }
        let upstream = nginx.status().await.upstream("u");
        assert_eq!(upstream.0["peers"].as_array().map(Vec::len), Some(1));
    }
    let declared = pincerd.ctl(&["peer", "remove", "u", replicas[0].server()]).await;
    assert_eq!(declared.code, 3, "{declared:?}");
    let twice = pincerd.ctl(&["peer", "add", "u", replicas[0].server()]).await;
    assert_eq!(twice.code, 3, "{twice:?}");
    let nobody = pincerd.ctl(&["peer", "set", "u", "127.0.0.1:1", "--weight", "2"]).await;
    assert_eq!(nobody.code, 2, "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_outside_of_the_allowed_networks_is_refused_and_nothing_changes() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let nginx = four_workers(&pincerd, &replicas).await;
    set(&pincerd, replicas[0].server(), &["--weight", "3"]).await;
    let before = nginx.status().await;
    let told = pincerd.ctl(&[&WAIT, &["peer", "add", "u", "10.1.2.3:80"][..]].concat()).await;
    assert_eq!(told.code, 5, "{told:?}");
    assert!(told.output.contains("pincer_allow_peers") && told.output.contains("10.1.2.3:80"), "{told:?}");
    let after = nginx.status().await;
    assert_eq!(before.number("/revision"), after.number("/revision"));
    assert_eq!(after.number("/control_plane/refused"), 1.0);
    assert_eq!(after.upstream("u").0["peers"].as_array().map(Vec::len), Some(2));
    // A refused revision holds back what else it says, until it is put right.
    let held = pincerd.ctl(&[&WAIT, &["peer", "set", "u", replicas[0].server(), "--weight", "9"][..]].concat()).await;
    assert_eq!(held.code, 5, "{held:?}");
    assert_eq!(nginx.status().await.upstream("u").peer(replicas[0].server()).number("/weight/effective"), 3.0);
    pincerd.must(&[&WAIT, &["peer", "remove", "u", "10.1.2.3:80"][..]].concat()).await;
    assert_eq!(nginx.status().await.upstream("u").peer(replicas[0].server()).number("/weight/effective"), 9.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_peer_finishes_what_it_has_and_gets_nothing_new() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::chat(10.0, 40.0)).await;
    let nginx = fed(&pincerd, "", "pincer_balance;", &replicas).workers(2).server("proxy_buffering off;").start().await;
    nginx.connected().await;
    let (a, b) = (replicas[0].server(), replicas[1].server());
    set(&pincerd, b, &["--state", "down"]).await;
    let client = nginx.client();
    let stream = tokio::spawn({
        let client = client.clone();
        async move { sse::chat(&client, "/v1/chat/completions", 60, 1.0).await.expect("a stream") }
    });
    eventually("the stream is at a", 5.0, || async { replicas[0].seen().running == 1 }).await;
    set(&pincerd, b, &["--state", "active"]).await;
    set(&pincerd, a, &["--state", "draining"]).await;
    let replies = load::gets(&client, "/", 50, 4).await;
    assert!(replies.iter().all(|reply| reply.replica() == "b"), "{:?}", load::shares(&replies));
    assert_eq!(nginx.status().await.upstream("u").peer(a).number("/in_flight"), 1.0);
    let stream = stream.await.expect("no panic");
    assert!(stream.done && stream.replica == "a" && stream.events.len() == 60, "{stream:?}");
    set(&pincerd, a, &["--state", "unset"]).await;
    assert_eq!(nginx.status().await.upstream("u").peer(a).text("/state"), "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_peer_that_takes_requests_the_answer_is_502_at_once_and_waiting_ones_get_503() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::default()).await;
    let directives = "pincer_balance; pincer_queue size=100 timeout=20s;";
    let nginx = fed(&pincerd, "", directives, &replicas).workers(2).start().await;
    nginx.connected().await;
    let a = replicas[0].server();
    set(&pincerd, a, &["--max-conns", "1"]).await;
    replicas[0].fault(Fault::Hang).await;
    let holder = raw::send(&nginx.address(), "/", &[]).await;
    eventually("it holds the slot", 5.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let waiter = raw::send(&nginx.address(), "/", &[]).await;
    eventually("one waits", 5.0, || async { nginx.status().await.waiting() == 1 }).await;
    set(&pincerd, a, &["--weight", "0"]).await;
    assert_eq!(raw::status(&waiter.read_all().await), 503);
    assert_eq!(nginx.client().get("/").await.status, 502);
    replicas[0].fault(Fault::None).await;
    assert_eq!(raw::status(&holder.read_all().await), 200, "what it has is finished");
    set(&pincerd, a, &["--weight", "unset"]).await;
    assert_eq!(nginx.client().get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_outlive_a_restart_of_nginx_and_of_the_control_plane() {
    let mut pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let added = Replica::named("added").service(ms(1)).start().await;
    let folder = workers::folder();
    let zone = format!("state={}/last", folder.path().display());
    let nginx = fed(&pincerd, &zone, "pincer_balance;", &replicas).start().await;
    nginx.connected().await;
    set(&pincerd, replicas[0].server(), &["--state", "down"]).await;
    pincerd.must(&[&WAIT, &["peer", "add", "u", added.server(), "--weight", "2"][..]].concat()).await;
    let revision = nginx.status().await.number("/revision");
    eventually("the revision is on disk", 5.0, || async { folder.path().join("last").exists() }).await;
    nginx.quit();
    pincerd.kill();
    let as_changed = |status: &harness::nginx::Status| {
        let upstream = status.upstream("u");
        upstream.peer(replicas[0].server()).text("/state") == "down"
            && upstream.peer(added.server()).number("/weight/effective") == 2.0
            && status.number("/revision") == revision
    };
    let nginx = fed(&pincerd, &zone, "pincer_balance;", &replicas).workers(2).start().await;
    assert!(as_changed(&nginx.status().await), "without the control plane: {:#}", nginx.status().await.0);
    assert!(!load::shares(&load::gets(&nginx.client(), "/", 30, 2).await).contains_key("a"));
    pincerd.start_again().await;
    nginx.connected().await;
    let peers = pincerd.json(&["peer", "list", "u"]).await.to_string();
    assert!(peers.contains(added.server()) && peers.contains("down"), "{peers}");
    assert!(as_changed(&nginx.status().await), "with it: {:#}", nginx.status().await.0);
    std::fs::remove_file(folder.path().join("last")).expect("the state file");
    nginx.quit();
    let nginx = fed(&pincerd, &zone, "pincer_balance;", &replicas).start().await;
    eventually("a lost state file comes back", 10.0, || async { as_changed(&nginx.status().await) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_applied_in_one_revision_and_a_dry_run_changes_nothing() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let nginx = fed(&pincerd, "", "pincer_balance;", &replicas).start().await;
    nginx.connected().await;
    let (a, b) = (replicas[0].server(), replicas[1].server());
    set(&pincerd, a, &["--state", "draining"]).await;
    let before = nginx.status().await.number("/revision");
    let file = pincerd.path("plan.yaml");
    let plan = format!("upstreams:\n  u:\n    peers:\n      '{b}': {{ weight: 9, max_conns: 4 }}\n");
    std::fs::write(&file, plan).expect("write");
    let file = file.display().to_string();
    let dry = pincerd.must(&["apply", "-f", &file, "--dry-run"]).await;
    assert!(dry.contains("would be updated"), "{dry}");
    assert_eq!(nginx.status().await.number("/revision"), before);
    pincerd.must(&[&WAIT, &["apply", "-f", &file][..]].concat()).await;
    let status = nginx.status().await;
    assert_eq!(status.number("/revision"), before + 1.0);
    assert_eq!(status.upstream("u").peer(a).text("/state"), "active");
    assert_eq!(status.upstream("u").peer(b).number("/weight/effective"), 9.0);
    assert_eq!(status.upstream("u").peer(b).number("/max_conns/effective"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tells_of_revisions_and_nodes_as_they_come() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::default()).await;
    let mut watch = tokio::process::Command::new(paths::pincerctl())
        .arg("--dev")
        .arg(pincerd.dev())
        .arg("watch")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("pincerctl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    let nginx = fed(&pincerd, "", "pincer_balance;", &replicas).start().await;
    nginx.connected().await;
    let before = nginx.status().await.number("/revision");
    set(&pincerd, replicas[0].server(), &["--weight", "2"]).await;
    let heard = async {
        let (mut node, mut revision) = (false, false);
        while let Ok(Some(line)) = lines.next_line().await {
            node |= line.contains("edge-1");
            revision |= line == format!("revision {}", before + 1.0);
            if node && revision {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(limit(10.0), heard).await.expect("the node and the revision within 10 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_a_stale_etag_is_refused_and_validate_only_changes_nothing() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::default()).await;
    let nginx = fed(&pincerd, "", "pincer_balance;", &replicas).start().await;
    nginx.connected().await;
    let mut control = pincer_control::client::connect(&pincerd.dev()).await.expect("pincerd answers");
    let name = format!("upstreams/u/peers/{}", replicas[0].server());
    let request = |weight, etag: &str, validate_only| v1::UpdatePeerRequest {
        peer: Some(v1::Peer { name: name.clone(), weight: Some(weight), etag: etag.to_owned(), ..v1::Peer::default() }),
        update_mask: None,
        validate_only,
    };
    control.update_peer(request(9, "", true)).await.expect("valid");
    let first = control.update_peer(request(2, "", false)).await.expect("changed").into_inner();
    let second = control.update_peer(request(3, &first.etag, false)).await.expect("changed").into_inner();
    assert_eq!(second.revision, first.revision + 1);
    let stale = control.update_peer(request(4, &first.etag, false)).await.expect_err("stale");
    assert_eq!(stale.code(), tonic::Code::Aborted);
    assert!(control.update_peer(request(70_000, "", false)).await.is_err());
    let revision = second.revision as f64;
    eventually("the second change holds", 5.0, || async { nginx.status().await.number("/revision") == revision }).await;
    let weight = nginx.status().await.upstream("u").peer(replicas[0].server()).number("/weight/effective");
    assert_eq!(weight, 3.0);
}
