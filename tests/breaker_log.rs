//! The error log says when a breaker opens or closes and why: once for each change, however many
//! workers there are, and nothing of what clients sent.

use harness::client::grpc;
use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, conf, eventually, load, ports};

/// Locations whose time limits are short.
const IMPATIENT: &str = "proxy_read_timeout 150ms;";
/// What no line about a breaker may have.
const SECRET: &str = "/?token=s3cret";

/// Lines about the breaker of this replica.
fn lines(nginx: &Nginx, replica: &Replica, what: &str) -> Vec<String> {
    let (level, peer) = ("[notice]", format!("pincer: breaker {what}, upstream=u, peer={},", replica.server()));
    nginx.log().lines().filter(|line| line.contains(level) && line.contains(&peer)).map(str::to_owned).collect()
}

async fn breaker(nginx: &Nginx, replica: &Replica, pointer: &str) -> serde_json::Value {
    nginx.status().await.upstream("u").peer(replica.server()).0[pointer].clone()
}

/// Asks until the breaker is in this state.
async fn reaches(nginx: &Nginx, replica: &Replica, state: &str) {
    eventually(&format!("{} is {state}", replica.name()), 15.0, || async {
        let client = nginx.client();
        load::closed(6, 2, move |_| {
            let client = client.clone();
            // What is cut off is no fault of the test.
            async move { client.call(hyper::Method::GET, SECRET).send().await.is_ok() }
        })
        .await;
        breaker(nginx, replica, "breaker").await == state
    })
    .await;
}

fn two(replicas: &[Replica], parameters: &str) -> Builder {
    Nginx::builder().workers(3).balanced("pincer_balance;", Replica::servers(replicas), parameters).server(IMPATIENT)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_a_breaker_is_one_line_with_its_reason_in_whichever_worker() {
    for (fault, cause) in [
        (Fault::Status(502), "status 502"),
        (Fault::Refuse, "no connection"),
        (Fault::Hang, "timed out"),
        (Fault::Cut, "response broke off"),
    ] {
        let replicas = Replica::several(2, Settings::served_in(5.0)).await;
        let b = &replicas[1];
        // One more failure than Pincer's own rule needs would be another reason.
        let nginx = two(&replicas, "").server("proxy_next_upstream off;").start().await;
        load::gets(&nginx.client(), SECRET, 20, 2).await;
        assert!(!nginx.log().contains("breaker"), "{}", nginx.tail());
        b.fault(fault).await;
        reaches(&nginx, b, "open").await;
        b.fault(Fault::None).await;
        reaches(&nginx, b, "closed").await;
        let opened = lines(&nginx, b, "opened");
        let count = breaker(&nginx, b, "breaker_openings").await;
        assert_eq!(opened.len() as u64, count.as_u64().unwrap_or(0), "{fault:?}: {opened:#?}");
        let (first, ending) = (&opened[0], format!("the last: {cause}"));
        assert!(first.contains("out_ms=1") && first.ends_with(&ending), "{fault:?}: {first}");
        assert!(first.contains("failures in a row") || first.contains("of the last 10 requests failed"), "{first}");
        let closed = lines(&nginx, b, "closed");
        assert!(closed.len() == 1 && closed[0].ends_with("reason=a trial succeeded"), "{fault:?}: {closed:#?}");
        assert!(opened.iter().chain(&closed).all(|line| !line.contains("s3cret") && !line.contains("client")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_grpc_is_told_by_its_status() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let port = ports::free_port();
    let nginx = Nginx::builder()
        .balanced("pincer_balance;", Replica::servers(&replicas), "")
        .http(format!("server {{ {} location / {{ grpc_pass grpc://u; }} }}", harness::nginx::http2_listen(port)))
        .start()
        .await;
    let client = Client::h2c(&format!("http://127.0.0.1:{port}"));
    replicas[1].fault(Fault::Grpc(14)).await;
    eventually("its breaker is open", 10.0, || async {
        let _ = grpc::call(&client, "/test.Echo/Say", b"hello").await;
        breaker(&nginx, &replicas[1], "breaker").await == "open"
    })
    .await;
    let opened = lines(&nginx, &replicas[1], "opened");
    assert!(opened.len() == 1 && opened[0].ends_with("3 failures in a row, the last: gRPC status 14"), "{opened:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brought_a_replica_back_before_its_time_is_told() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let b = &replicas[1];
    let servers = conf::servers(Replica::servers(&replicas), "max_fails=2 fail_timeout=10000s");
    let nginx = Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m; {}", pincerd.directives("edge-1")))
        .upstream("u", format!("pincer_balance; {servers}"))
        .start()
        .await;
    nginx.connected().await;
    for (time, reason) in [
        (1, "a trial succeeded, at once after a reload"),
        (2, "a trial succeeded, at once after the control plane set"),
    ] {
        b.fault(Fault::Status(500)).await;
        reaches(&nginx, b, "open").await;
        let opened = lines(&nginx, b, "opened");
        assert_eq!(opened.len(), time, "{opened:#?}");
        let needle = "2 failures, each within fail_timeout of the one before, the last: status 500";
        assert!(opened[time - 1].contains("out_ms=10000000, ") && opened[time - 1].ends_with(needle), "{opened:#?}");
        b.fault(Fault::None).await;
        if time == 1 {
            nginx.reload().await;
        } else {
            nginx.connected().await;
            pincerd.must(&["--wait", "10s", "peer", "set", "u", b.server(), "--state", "active"]).await;
        }
        reaches(&nginx, b, "closed").await;
        let closed = lines(&nginx, b, "closed");
        assert!(closed.len() == time && closed[time - 1].contains(reason), "{closed:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_third_replica_answers_opens_the_breakers_of_those_that_failed_it() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let nginx = two(&replicas, "max_fails=1 fail_timeout=1000s").server("proxy_next_upstream http_500;").start().await;
    load::gets(&nginx.client(), "/", 20, 2).await;
    for replica in &replicas {
        replica.fault(Fault::Status(500)).await;
    }
    nginx.client().get("/one").await;
    let log = nginx.log();
    let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(told("pincer: breaker opened"), 1, "{log}");
    assert_eq!(told("reason=another peer failed the same request"), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_flaps_does_not_flood_the_log() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .workers(2)
        .balanced("pincer_balance;", [replica.server()], "max_fails=1 fail_timeout=0s")
        .start()
        .await;
    for round in 0..40 {
        replica.fault(if round % 2 == 0 { Fault::Status(500) } else { Fault::None }).await;
        load::gets(&nginx.client(), "/", 10, 2).await;
    }
    let openings = breaker(&nginx, &replica, "breaker_openings").await.as_u64().unwrap_or(0);
    assert!(openings >= 100, "it flaps: {openings}");
    let log = nginx.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("pincer: breaker ")).collect();
    // Two windows, where the test runs over the end of one.
    assert!((6..=12).contains(&lines.len()), "{lines:#?}");
    assert!(lines[5].contains("muted=after 6 lines within 60 s"), "{lines:#?}");
}
