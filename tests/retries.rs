//! Which peer an attempt blames, and where the next one goes: kept connections, time limits,
//! repeated servers, the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use harness::client::grpc;
use harness::nginx::http2_listen;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Replica, load, ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

const KEEPALIVE: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";

/// Long enough that the machine's noise makes no peer the slower one.
const SERVICE: Duration = Duration::from_millis(30);

/// A peer that a test writes by hand: `serve` has each connection.
struct Peer {
    address: String,
    /// From now on it fails what comes over connections that it has.
    broken: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    async fn start<F>(serve: impl Fn(TcpStream, Arc<AtomicBool>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(ports::refusing_addr()).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let broken = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&broken);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, broken, task }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_on_kept_connections_does_not_get_the_retry_as_well() {
    let replicas = Replica::several(2, Settings::default()).await;
    let (a, b) = (replicas[0].server(), replicas[1].server());
    let nginx = Nginx::builder()
        .logging("$upstream_addr")
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; server {a}; server {b} backup; keepalive 16; }}"))
        .server(format!("location / {{ proxy_pass http://u; {KEEPALIVE} proxy_read_timeout 200ms; }}"))
        .start()
        .await;
    load::gets(&nginx.client(), "/", 40, 8).await;
    replicas[0].fault(Fault::Hang).await;
    let replies = load::gets(&nginx.client(), "/", 5, 1).await;
    let lines = nginx.logged(45).await.split_off(40);
    assert!(replies.iter().all(|reply| (reply.status, reply.replica()) == (200, "b")), "{lines:?}");
    let both = format!("{a}, {b}");
    assert_eq!(lines, [&both, &both, &both, b, b], "three failures open the breaker");
    let peer = nginx.status().await.upstream("u").peer(a);
    assert_eq!((peer.number("/failures"), peer.text("/breaker")), (3.0, "open"));
    replicas[0].fault(Fault::None).await;
}

/// Answers one request a connection, once `together` have come; each further one only ends it.
async fn answers_once(mut stream: TcpStream, broken: Arc<AtomicBool>, together: Arc<Barrier>) -> std::io::Result<()> {
    let mut request = [0; 4096];
    while stream.read(&mut request).await? > 0 && !broken.load(SeqCst) {
        together.wait().await;
        tokio::time::sleep(SERVICE).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Replica: a\r\n\r\nok").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stale_connection_is_excused_and_the_second_of_a_request_or_in_a_row_is_not() {
    let together = Arc::new(Barrier::new(4));
    let peer = Peer::start(move |stream, broken| answers_once(stream, broken, Arc::clone(&together))).await;
    let spare = Replica::named("spare").start().await;
    let servers = format!("server {}; server {} backup;", peer.address, spare.server());
    let nginx = keeping(&servers).await;
    load::gets(&Client::single(&nginx.url()), "/", 4, 4).await;
    peer.broken.store(true, SeqCst);
    let (a, b) = (&peer.address, spare.server());
    for (number, attempts) in [format!("{a}, {a}, {b}"), format!("{a}, {b}"), format!("{a}, {b}")].iter().enumerate() {
        assert_eq!(nginx.client().get("/").await.replica(), "spare");
        let lines = nginx.logged(5 + number).await;
        assert_eq!(lines.last(), Some(attempts), "request {number}");
        let failures = nginx.status().await.upstream("u").peer(a).number("/failures");
        assert_eq!(failures, (number + 1) as f64);
    }
    assert_eq!(nginx.status().await.upstream("u").peer(a).text("/breaker"), "open");
}

/// A peer that restarts when it breaks: connections from before are dead afterwards, new ones are
/// well.
async fn restarting(together: usize) -> Peer {
    let together = Arc::new(Barrier::new(together));
    let serve = move |stream, broken: Arc<AtomicBool>| match broken.load(SeqCst) {
        false => answers_once(stream, broken, Arc::clone(&together)),
        true => answers_once(stream, Arc::default(), Arc::new(Barrier::new(1))),
    };
    Peer::start(serve).await
}

/// nginx in front of `servers`, whose connections it keeps.
async fn keeping(servers: &str) -> Nginx {
    Nginx::builder()
        .logging("$upstream_addr")
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; {servers} keepalive 16; }}"))
        .server(format!("location / {{ proxy_pass http://u; {KEEPALIVE} }}"))
        .start()
        .await
}

async fn failures(nginx: &Nginx, peer: &Peer) -> f64 {
    nginx.status().await.upstream("u").peer(&peer.address).number("/failures")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_replica_is_asked_as_long_as_kept_connections_of_it_are_left() {
    let peer = restarting(3).await;
    let nginx = keeping(&format!("server {};", peer.address)).await;
    load::gets(&Client::single(&nginx.url()), "/", 3, 3).await;
    peer.broken.store(true, SeqCst);
    assert_eq!(nginx.client().get("/").await.status, 200);
    assert_eq!(failures(&nginx, &peer).await, 2.0, "one of three is excused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_out_does_not_get_what_another_ones_stale_connections_gave_back() {
    let peer = restarting(3).await;
    let refusing = ports::refusing_addr();
    let servers = format!("server {}; server {refusing} max_fails=1 fail_timeout=60s;", peer.address);
    let nginx = keeping(&servers).await;
    load::gets(&Client::single(&nginx.url()), "/", 3, 3).await;
    let out = nginx.status().await.upstream("u").peer(&refusing.to_string());
    assert_eq!(out.text("/breaker"), "open");
    peer.broken.store(true, SeqCst);
    assert_eq!(nginx.client().get("/").await.status, 200);
    let lines = nginx.logged(4).await;
    assert_eq!(lines[3], [peer.address.as_str(); 4].join(", "), "three kept connections, then a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_met_one_stale_connection_blames_the_next_peer_for_another() {
    let peers = [restarting(1).await, restarting(1).await];
    let servers = format!("server {}; server {};", peers[0].address, peers[1].address);
    let nginx = keeping(&servers).await;
    load::gets(&nginx.client(), "/", 2, 1).await;
    peers.iter().for_each(|peer| peer.broken.store(true, SeqCst));
    assert_eq!(nginx.client().get("/").await.status, 200);
    assert_eq!(failures(&nginx, &peers[0]).await + failures(&nginx, &peers[1]).await, 1.0);
}

/// gRPC by hand: an empty answer to each call, or a reset of its stream.
async fn speaks_grpc(mut stream: TcpStream, broken: Arc<AtomicBool>) -> std::io::Result<()> {
    const SETTINGS: u8 = 4;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await?;
    let (mut calls, mut is_settled, mut waiting) = (0, false, None);
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await?;
        // A call ends with its last HEADERS or DATA. nginx keeps a connection only if its settings
        // were acknowledged before the answer came.
        match (head[3], head[4] & 1) {
            (0 | 1, 1) => waiting = Some(head),
            (SETTINGS, 1) => is_settled = true,
            _ => {}
        }
        let Some(call) = waiting.take_if(|_| is_settled) else { continue };
        calls += 1;
        let id = &call[5..];
        let answer = match calls > 1 && broken.load(SeqCst) {
            // RST_STREAM, INTERNAL_ERROR.
            true => [&[0, 0, 4, 3, 0], id, &[0, 0, 0, 2]].concat(),
            // HEADERS with `:status: 200`, the end of headers and stream.
            false => [&[0, 0, 1, 1, 5], id, &[0x88]].concat(),
        };
        stream.write_all(&answer).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_on_a_kept_connection_is_the_replicas_failure() {
    let peer = Peer::start(speaks_grpc).await;
    let port = ports::free_port();
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(format!("upstream u {{ pincer_balance; server {}; keepalive 16; }}", peer.address))
        .http(format!("server {{ {} location / {{ grpc_pass grpc://u; }} }}", http2_listen(port)))
        .start()
        .await;
    let client = Client::h2c(&format!("http://127.0.0.1:{port}"));
    for (status, failures) in [(200, 0.0), (502, 1.0)] {
        assert_eq!(grpc::call(&client, "/p.S/M", b"x").await.expect("an answer").http_status, status);
        let counted = nginx.status().await.upstream("u").peer(&peer.address).number("/failures");
        assert_eq!(counted, failures);
        peer.broken.store(true, SeqCst);
    }
}
