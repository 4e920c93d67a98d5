//! What operators see of the link to the control plane: status and metric say how it stands now,
//! whoever said otherwise before, and the error log names the cause, also at the level that nginx
//! has by default.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use harness::nginx::{Builder, Signal, process};
use harness::{Client, Nginx, Pincerd, eventually, eventually_some, ports};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long status and metric may say what is no longer so, seconds.
const TRUE_S: f64 = 2.0;
/// How long until the cause is in the log: an attempt takes at most 3 s.
const SAID_S: f64 = 5.0;
/// How long a control plane that froze may be taken for one that has nothing to say: ping and
/// answer have 5 s each. And what a test needs.
const FROZEN_S: f64 = 12.0;
/// The log at nginx's default level, besides the one that says more.
const DEFAULT_LOG: &str = "error_log logs/default.log error;";

/// The status for clients that keep their connection, and whose it is.
const SERVER: &str = "location = /pid { return 200 $pid; }
    location = /pincer_status { pincer_status; }
    location = /pincer_metrics { pincer_metrics; }";

fn fed(directives: &str) -> Builder {
    with(directives, Nginx::builder().workers(2))
}

fn with(directives: &str, builder: Builder) -> Builder {
    builder.clear().main(DEFAULT_LOG).http("pincer_zone pincer:1m;").http(directives).server(SERVER)
}

/// What the default log says of the link, without time and process.
fn said(nginx: &Nginx) -> Vec<String> {
    let log = std::fs::read_to_string(nginx.path("logs/default.log")).unwrap_or_default();
    let of_link = log.lines().filter(|line| line.contains(" control plane, address="));
    of_link.map(|line| line.split_once("pincer: ").map_or(line, |(_, text)| text).to_owned()).collect()
}

/// What status and metric say.
async fn shown(nginx: &Nginx) -> (bool, bool) {
    read(&nginx.status().await.0["control_plane"], &nginx.metrics().await)
}

fn read(status: &Value, metric: &str) -> (bool, bool) {
    let (connected, error) = (status["connected"] == true, status["error"].as_str().expect("a text"));
    assert_eq!(connected, error.is_empty(), "{status}");
    let value = |number: u8| metric.contains(&format!("\npincer_control_plane_connected {number}\n"));
    assert!(value(0) || value(1), "{metric}");
    (connected, value(1))
}

const AWAY: (bool, bool) = (false, false);
const CONNECTED: (bool, bool) = (true, true);

async fn is_away(nginx: &Nginx, within_s: f64) {
    eventually("status and metric say that it is away", within_s, || async { shown(nginx).await == AWAY }).await;
}

/// The reason that the status gives.
async fn error(nginx: &Nginx) -> String {
    nginx.status().await.0["control_plane"]["error"].as_str().expect("a text").to_owned()
}

/// Accepts, answers with `answers` in turn and closes; counts.
async fn stranger(answers: &'static [&'static [u8]]) -> (String, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let turn = count.fetch_add(1, SeqCst);
            let _ = stream.write_all(answers[turn % answers.len()]).await;
        }
    });
    (address, accepted, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_cuts_nginx_off_shows_at_once_and_the_log_names_the_cause() {
    let (pincerd, other) = (Pincerd::start().await, Pincerd::start().await);
    let good = pincerd.directives("edge-1");
    // The kernel takes connections for it, and nobody answers.
    let hangs = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hangs = hangs.local_addr().map(|address| (hangs, address)).expect("an address");
    let file = |pincerd: &Pincerd, name: &str| pincerd.dev().join(name).display().to_string();
    let other_file = |name: &str| good.replace(&file(&pincerd, name), &file(&other, name));
    let role = good.replace("/node.pem", "/operator.pem").replace("/node.key", "/operator.key");
    let node_of_other = other_file("node.pem").replace(&file(&pincerd, "node.key"), &file(&other, "node.key"));
    let breaks = [
        ("wrong port", good.replace(&pincerd.endpoint(), &ports::refusing_addr().to_string()), "onnection refused"),
        ("an authority not trusted", other_file("ca.pem"), "UnknownIssuer"),
        ("a certificate of another authority", node_of_other, "received fatal alert|certificate is refused"),
        ("a certificate of another role", role, "PermissionDenied"),
        ("another name", format!("{good}pincer_control_plane_name other.example;"), "not valid for name"),
        ("a handshake that hangs", good.replace(&pincerd.endpoint(), &hangs.1.to_string()), "no answer within 3 s"),
    ];
    let mut nginx = fed(&good).start().await;
    for (what, broken, cause) in breaks {
        nginx.connected().await;
        let before = said(&nginx).len();
        nginx.reconfigure(|builder| with(&broken, builder)).await;
        is_away(&nginx, TRUE_S).await;
        // Of a certificate that is refused a client may see the reason or only the end of the
        // connection.
        let names_it = |text: &str| cause.split('|').any(|cause| text.contains(cause));
        let address = broken.split_whitespace().nth(1).expect("an address").to_owned();
        eventually(&format!("{what}: the log names the cause {cause:?}"), SAID_S, || async {
            let lines = said(&nginx);
            lines[before..].iter().any(|line| line.contains(&address) && names_it(line))
        })
        .await;
        eventually(&format!("{what}: so does the status"), TRUE_S, || async {
            let error = error(&nginx).await;
            error.starts_with(&address) && names_it(&error)
        })
        .await;
        assert_eq!(shown(&nginx).await, AWAY);
        println!("{what}: {:?}; status: {}", &said(&nginx)[before..], error(&nginx).await);
        assert!(said(&nginx).len() - before <= 2, "{:#?}", &said(&nginx)[before..]);
        nginx.reconfigure(|builder| with(&good, builder)).await;
    }
    nginx.connected().await;
    assert_eq!(shown(&nginx).await, CONNECTED);
    assert!(nginx.log().contains("[notice]") && nginx.log().contains("pincer: connected to control plane, address="));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_the_control_plane_is_stopped_shows_at_once_and_without_one_its_silence_within_ten_seconds() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd.directives("edge-1")).start().await;
    nginx.connected().await;
    let pid = pincerd.pid().expect("it runs");
    assert!(process::signal(pid, Signal::STOP));
    nginx.reload().await;
    is_away(&nginx, TRUE_S).await;
    eventually("the log names the cause", SAID_S, || async {
        said(&nginx).iter().any(|line| line.contains(&pincerd.endpoint()) && line.contains("no answer within 3 s"))
    })
    .await;
    assert!(process::signal(pid, Signal::CONT));
    nginx.connected().await;
    let before = said(&nginx).len();
    assert!(process::signal(pid, Signal::STOP));
    is_away(&nginx, FROZEN_S).await;
    eventually("the log names the cause", SAID_S, || async {
        said(&nginx)[before..].iter().any(|line| line.starts_with("lost control plane"))
    })
    .await;
    assert!(process::signal(pid, Signal::CONT));
    nginx.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_of_a_worker_that_was_killed_is_not_that_of_its_successor() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd.directives("edge-1")).start().await;
    nginx.connected().await;
    // The stream of the worker stands; the next one finds nobody.
    assert!(process::signal(pincerd.pid().expect("it runs"), Signal::STOP));
    let feeds = nginx.status().await.0["control_plane"]["feed_pid"].as_i64().expect("a feed");
    nginx.kill_worker(i32::try_from(feeds).expect("a pid"));
    is_away(&nginx, TRUE_S).await;
    eventually("the log names the cause", SAID_S, || async { !said(&nginx).is_empty() }).await;
    assert_eq!(shown(&nginx).await, AWAY);
    assert!(process::signal(pincerd.pid().expect("it runs"), Signal::CONT));
    nginx.connected().await;
}

/// A client whose one connection is not the worker `pid`'s: the kernel may give a new one to a
/// worker that is stopped.
async fn client_of_another(nginx: &Nginx, pid: i32) -> Client {
    eventually_some("another worker answers", 5.0, || async {
        let client = nginx.client();
        (client.get("/pid").await.text() != pid.to_string()).then_some(client)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_worker_hangs_is_not_believed_by_the_others() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd.directives("edge-1")).start().await;
    nginx.connected().await;
    let feeds = nginx.status().await.0["control_plane"]["feed_pid"].as_i64().expect("a feed");
    let feeds = i32::try_from(feeds).expect("a pid");
    let other = client_of_another(&nginx, feeds).await;
    assert!(process::signal(feeds, Signal::STOP));
    let control_plane = || async {
        let status: Value = serde_json::from_slice(&other.get("/pincer_status").await.body).expect("JSON");
        status["control_plane"].clone()
    };
    eventually("status and metric say that it is away", TRUE_S, || async {
        read(&control_plane().await, &other.get("/pincer_metrics").await.text()) == AWAY
    })
    .await;
    assert_eq!(control_plane().await["error"], "the worker process that holds the link does not respond");
    assert!(process::signal(feeds, Signal::CONT));
    nginx.connected().await;
    assert_eq!(nginx.status().await.number("/control_plane/reconnects"), 0.0, "its stream stood all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_taken_out_by_a_reload_is_gone_and_does_not_come_back_by_itself() {
    let pincerd = Pincerd::start().await;
    let good = pincerd.directives("edge-1");
    let mut nginx = fed(&good).start().await;
    nginx.connected().await;
    nginx.reconfigure(|builder| with("", builder)).await;
    eventually("there is no link to show", TRUE_S, || async {
        nginx.status().await.0["control_plane"].is_null() && !nginx.metrics().await.contains("pincer_control_plane_")
    })
    .await;
    // So that nothing connects meanwhile.
    assert!(process::signal(pincerd.pid().expect("it runs"), Signal::STOP));
    nginx.reconfigure(|builder| with(&good, builder)).await;
    assert_eq!(shown(&nginx).await, AWAY);
    assert!(process::signal(pincerd.pid().expect("it runs"), Signal::CONT));
    nginx.connected().await;
    assert!(said(&nginx).len() <= 1, "{:?}", said(&nginx));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cause_is_said_once_however_often_it_is_met_and_another_one_when_it_comes() {
    let pincerd = Pincerd::start().await;
    let good = pincerd.directives("edge-1");
    let (address, accepted, task) = stranger(&[b"HTTP/1.1 400 Bad Request\r\n\r\n", b""]).await;
    let mut nginx = fed(&good.replace(&pincerd.endpoint(), &address)).start().await;
    eventually("it has been tried often", 30.0, || async { accepted.load(SeqCst) >= 8 }).await;
    let lines = said(&nginx);
    assert!((1..=3).contains(&lines.len()), "{lines:?}");
    let different: std::collections::BTreeSet<_> = lines.iter().collect();
    assert_eq!(different.len(), lines.len(), "each once: {lines:?}");
    nginx.reconfigure(|builder| with(&good, builder)).await;
    nginx.connected().await;
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_addresses_refuse_a_minute_has_five_lines_at_most() {
    let pincerd = Pincerd::start().await;
    let (mut addresses, mut counts, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..8 {
        let (address, accepted, task) = stranger(&[b"no"]).await;
        addresses.push(address);
        counts.push(accepted);
        tasks.push(task);
    }
    let directives = pincerd.directives("edge-1").replace(&pincerd.endpoint(), &addresses.join(" "));
    let nginx = fed(&directives).start().await;
    eventually("each was tried twice", 30.0, || async { counts.iter().all(|count| count.load(SeqCst) >= 2) }).await;
    // One of the five is kept for the good news.
    assert_eq!(said(&nginx).len(), 4, "{:?}", said(&nginx));
    is_away(&nginx, TRUE_S).await;
    tasks.iter().for_each(JoinHandle::abort);
}
