//! Whoever connects and says nothing shuts out nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Daemon, Node, eventually};
use pincer_control::client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Descriptors that pincerd has open.
fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

async fn connections(address: &str, count: usize, first_bytes: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // pincerd may have ended it already to make room.
        let _ = stream.write_all(first_bytes).await;
        all.push(stream);
    }
    all
}

async fn is_over(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn hundreds_of_half_requests_end_in_time_and_keep_nobody_from_the_http_port() {
    let mut daemon = Daemon::start();
    let mut halves = connections(&daemon.http, 300, b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: ").await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(daemon.get(path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(descriptors(&daemon) < 150, "{} descriptors", descriptors(&daemon));
    let last = halves.last_mut().unwrap();
    tokio::time::timeout(common::PATIENCE, async { while !is_over(last).await {} }).await.expect("it ends in time");
    drop(halves);
    let _halves = connections(&daemon.http, 3, b"GET / HT").await;
    assert_eq!(daemon.terminate().await, Some(0));
    let log = std::fs::read_to_string(daemon.dir().join("log")).unwrap();
    assert!(!log.contains("did not end in time"), "{log}");
}

#[tokio::test]
async fn hundreds_of_silent_connections_keep_neither_operators_nor_nodes_out() {
    let daemon = Daemon::start();
    let silent = connections(&daemon.grpc, 700, b"").await;
    assert_eq!(daemon.ctl(&["node", "list"]).await.code, 0);
    let _node = Node::joined(&daemon, "web-1", &["127.0.0.1:8001"]).await;
    let metrics = daemon.get("/metrics").await;
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("pincer_control_connections_evicted_total "));
    assert!(evicted.unwrap().parse::<usize>().unwrap() >= 400, "{evicted:?}");
    assert!(descriptors(&daemon) < 400, "{} descriptors", descriptors(&daemon));
    drop(silent);
}

#[tokio::test]
async fn a_connection_that_finished_tls_and_calls_nothing_ends_and_one_that_called_stays() {
    let daemon = Daemon::start();
    let mut operator = daemon.operator().await;
    operator.list_nodes(pincer_proto::v1::ListNodesRequest::default()).await.unwrap();
    let mut node = Node::joined(&daemon, "web-1", &["127.0.0.1:8001"]).await;
    let before = descriptors(&daemon);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(client::connect_node(daemon.dir()).await.unwrap());
    }
    eventually("the silent ones are there", || async { (descriptors(&daemon) >= before + 20).then_some(()) }).await;
    eventually("the silent ones ended", || async { (descriptors(&daemon) <= before).then_some(()) }).await;
    let changed = operator.update_peer(common::weight("127.0.0.1:8001", 7)).await.unwrap().into_inner();
    assert_eq!(node.snapshot().await.unwrap().revision, changed.revision, "both still stand");
}
