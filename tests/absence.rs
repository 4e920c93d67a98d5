//! The control plane is away, frozen, or somebody else: nginx serves on, and is fed again as soon
//! as it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::nginx::{Builder, Signal, process};
use harness::replica::Settings;
use harness::{Client, Nginx, Pincerd, Replica, eventually, limit, load, ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How long nginx may take from its start to its first answer, whatever the control plane does: a
/// second, of which a machine under load takes some for itself.
const SERVING_S: f64 = 1.0;
/// How long a feed may take to be back once the control plane is.
const BACK_S: f64 = 12.0;

fn fed(pincerd: &Pincerd, replicas: &[Replica]) -> Builder {
    let servers = harness::conf::servers(Replica::servers(replicas), "max_conns=4");
    Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m state=state/last;")
        .http(pincerd.directives("edge-1"))
        .upstream("u", format!("pincer_balance; pincer_queue size=100 timeout=20s; {servers}"))
}

/// A control plane that made its certificates and is gone again.
async fn gone() -> Pincerd {
    let mut pincerd = Pincerd::start().await;
    pincerd.kill();
    pincerd
}

/// Starts it and returns how long its first answer took.
async fn started(builder: Builder) -> (Nginx, Duration) {
    let start = Instant::now();
    let nginx = builder.start().await;
    assert_eq!(nginx.client().get("/").await.status, 200);
    let took = start.elapsed();
    assert!(took <= limit(SERVING_S), "the first answer came after {took:?}\n{}", nginx.tail());
    (nginx, took)
}

async fn serves(nginx: &Nginx) {
    let replies = load::gets(&nginx.client(), "/", 100, 8).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
}

/// The control plane is back: it is connected and its changes hold.
async fn is_fed(nginx: &Nginx, pincerd: &Pincerd, replicas: &[Replica], weight: u32) {
    let (a, weight) = (replicas[0].server(), weight.to_string());
    let peer = ["peer", "set", "u", a, "--weight", &weight];
    let connected = || async { nginx.status().await.0["control_plane"]["connected"] == true };
    eventually("the feed is back", BACK_S, connected).await;
    pincerd.must(&peer).await;
    let holds =
        || async { nginx.status().await.upstream("u").peer(a).number("/weight/effective").to_string() == weight };
    eventually("the change holds", BACK_S, holds).await;
}

/// How often the error log has a line with this text.
fn lines(nginx: &Nginx, text: &str) -> usize {
    nginx.log().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_control_plane_costs_no_request_and_no_acknowledged_change() {
    let mut pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(3.0)).await;
    let nginx = fed(&pincerd, &replicas).start().await;
    nginx.connected().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let (client, stop) = (nginx.client(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut count = 0;
            while !stop.load(SeqCst) {
                assert_eq!(client.get("/").await.status, 200);
                count += 1;
            }
            count
        });
    }
    for weight in 2..6_u32 {
        // Acknowledged means on disk: nothing is waited for before the kill.
        let change = ["peer", "set", "u", replicas[0].server(), "--weight", &weight.to_string()];
        let revision = pincerd.json(&change).await["revision"].as_u64().expect("a revision");
        pincerd.kill();
        let lost = || async { nginx.status().await.0["control_plane"]["connected"] == false };
        eventually("the loss is noticed", 5.0, lost).await;
        pincerd.start_again().await;
        nginx.connected().await;
        let applied = || async { nginx.status().await.number("/revision") >= revision as f64 };
        eventually("the acknowledged change is there", BACK_S, applied).await;
        let peer = nginx.status().await.upstream("u").peer(replicas[0].server());
        assert_eq!(peer.number("/weight/effective"), f64::from(weight));
    }
    stop.store(true, SeqCst);
    let counts = clients.join_all().await;
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    assert_eq!(nginx.status().await.number("/control_plane/reconnects"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_control_plane_holds_up_neither_requests_nor_a_reload_nor_a_stop() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let nginx = fed(&pincerd, &replicas).start().await;
    nginx.connected().await;
    let pid = pincerd.pid().expect("it runs");
    for weight in [3, 4] {
        assert!(process::signal(pid, Signal::STOP));
        serves(&nginx).await;
        let start = Instant::now();
        nginx.reload().await;
        eventually("the old workers are gone", 5.0, || async { nginx.draining().is_empty() }).await;
        let took = start.elapsed();
        assert!(took < limit(3.0), "a reload took {took:?}");
        serves(&nginx).await;
        assert!(process::signal(pid, Signal::CONT));
        is_fed(&nginx, &pincerd, &replicas, weight).await;
    }
    assert!(process::signal(pid, Signal::STOP));
    let start = Instant::now();
    nginx.quit();
    let took = start.elapsed();
    assert!(process::signal(pid, Signal::CONT));
    assert!(took < limit(2.0), "a stop took {took:?}");
}

/// Somebody who listens on the control plane's port and is not it.
fn impostor(listener: TcpListener, talks: bool) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut kept: Vec<TcpStream> = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if talks {
                let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\x16garbage garbage garbage\r\n").await;
                let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 64])).await;
            } else {
                kept.push(stream);
            }
        }
        kept.len()
    })
}

async fn an_impostor_is_no_harm(talks: bool) {
    let mut pincerd = gone().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let listener = TcpListener::bind(pincerd.endpoint()).await.expect("the port");
    let impostor = impostor(listener, talks);
    let (nginx, took) = started(fed(&pincerd, &replicas)).await;
    println!("talks={talks}: first answer after {took:?}");
    nginx.logs("cannot reach control plane", 10.0).await;
    for _ in 0..2 {
        serves(&nginx).await;
        nginx.reload().await;
    }
    assert_eq!(nginx.status().await.0["control_plane"]["connected"], false);
    let said = lines(&nginx, "cannot reach control plane");
    assert!(said <= 6, "said {said} times");
    impostor.abort();
    let _ = impostor.await;
    pincerd.start_again().await;
    is_fed(&nginx, &pincerd, &replicas, 2).await;
    nginx.quit();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_control_planes_port_is_no_harm() {
    an_impostor_is_no_harm(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_accepts_and_says_nothing_is_no_harm() {
    an_impostor_is_no_harm(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_later_is_found_and_its_absence_is_said_once() {
    let mut pincerd = gone().await;
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let (nginx, took) = started(fed(&pincerd, &replicas)).await;
    println!("absent: first answer after {took:?}");
    assert_eq!(nginx.status().await.number("/revision"), 0.0);
    nginx.logs("cannot reach control plane", 10.0).await;
    serves(&nginx).await;
    assert_eq!(lines(&nginx, "cannot reach control plane"), 1);
    pincerd.start_again().await;
    let start = Instant::now();
    nginx.connected().await;
    let took = start.elapsed();
    assert!(took < limit(2.0), "found after {took:?}");
    is_fed(&nginx, &pincerd, &replicas, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_of_the_control_plane_that_answers_is_enough() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let others = format!("pincer_control_plane {} {} ", ports::refusing_addr(), silent.local_addr().expect("address"));
    let directives = pincerd.directives("edge-1").replace("pincer_control_plane ", &others);
    let nginx =
        Nginx::builder().http(directives).balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    let impostor = impostor(silent, false);
    nginx.connected().await;
    assert_eq!(nginx.status().await.0["control_plane"]["address"], pincerd.endpoint());
    is_fed(&nginx, &pincerd, &replicas, 2).await;
    impostor.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authoritys_control_plane_is_not_believed() {
    let (real, other) = (gone().await, Pincerd::start().await);
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let directives = real.directives("edge-1").replace(&real.endpoint(), &other.endpoint());
    let nginx =
        Nginx::builder().http(directives).balanced("pincer_balance;", Replica::servers(&replicas), "").start().await;
    nginx.logs("cannot reach control plane", 10.0).await;
    assert!(nginx.log().contains("ertificate"), "{}", nginx.tail());
    assert_eq!(Client::single(&nginx.url()).get("/").await.status, 200);
    assert_eq!(nginx.status().await.0["control_plane"]["connected"], false);
}
