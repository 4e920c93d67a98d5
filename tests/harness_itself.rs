//! The harness proves itself against stock nginx: what it reports of replicas, clients and
//! processes is what happens.

use std::time::Duration;

use harness::client::{CallError, grpc, raw, sse, ws};
use harness::pki::Pki;
use harness::{Client, Fault, Nginx, Replica, eventually, load, ports};
use hyper::Method;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn direct(replica: &Replica) -> Client {
    Client::pooled(&format!("http://{}", replica.server()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_answers_with_its_name() {
    let replica = Replica::named("a").ip([127, 0, 0, 2]).start().await;
    let client = direct(&replica);
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.replica(), reply.text().as_str()), (200, "a", "replica a\n"));
    let reply = client.post("/predict", "image").await;
    assert!(reply.text().contains("tabby"), "{}", reply.text());
    assert_eq!(client.post("/echo", "again").await.text(), "again");
    assert_eq!(client.get("/bytes/10000").await.body.len(), 10_000);
    assert_eq!(client.get("/chunked/10000").await.body.len(), 10_000);
    assert_eq!(client.get("/status/404").await.status, 404);
    let seen = replica.seen();
    assert_eq!((seen.requests, seen.finished), (6, 6));
    assert!(seen.connections < 6, "connections are kept alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_as_many_at_once_as_it_has_slots() {
    let replica = Replica::named("a").slots(2).service(ms(50)).start().await;
    let replies = load::gets(&direct(&replica), "/", 6, 6).await;
    let slowest = replies.iter().map(|reply| reply.total_time).max().unwrap_or_default();
    assert!(slowest >= ms(150), "three rounds of 50 ms, not {slowest:?}");
    assert_eq!(replica.seen().running_max, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn x_work_multiplies_the_service_time() {
    let replica = Replica::named("a").service(ms(20)).start().await;
    let reply = direct(&replica).call(Method::GET, "/").header("x-work", 5).must().await;
    assert!(reply.total_time >= ms(100), "{:?}", reply.total_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_its_header_at_once_and_its_first_token_later() {
    let replica = Replica::named("a").chat(ms(100), ms(10), 5).start().await;
    let stream = sse::chat(&direct(&replica), "/v1/chat/completions", 7, 1.0).await.expect("a stream");
    assert!(stream.done && stream.events.len() == 7 && stream.replica == "a", "{stream:?}");
    assert!(stream.header_time < ms(100) && stream.ttft() >= ms(100), "{stream:?}");
    let whole = direct(&replica).post("/v1/chat/completions", r#"{"max_tokens":2}"#).await;
    assert!(whole.text().contains("token0 token1 "), "{}", whole.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_change_while_it_runs() {
    let replica = Replica::named("a").start().await;
    let client = direct(&replica);
    assert_eq!(client.get("/").await.status, 200);
    replica.fault(Fault::Status(500)).await;
    assert_eq!(client.get("/").await.status, 500);
    replica.fault(Fault::Status(429)).await;
    assert_eq!(client.get("/").await.header("retry-after"), "1");
    replica.fault(Fault::Cut).await;
    assert!(matches!(client.call(Method::GET, "/bytes/1000").send().await, Err(CallError::Cut(500))));
    replica.fault(Fault::Refuse).await;
    assert!(matches!(client.call(Method::GET, "/").send().await, Err(CallError::NoAnswer(_))));
    replica.fault(Fault::Hang).await;
    let hangs = client.clone().within(ms(200)).call(Method::GET, "/").send().await;
    assert!(matches!(hangs, Err(CallError::Late(_))));
    eventually("the abort is seen", 5.0, || async { replica.seen().aborts == 1 }).await;
    replica.fault(Fault::None).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_over_control() {
    let replica = Replica::named("a").start().await;
    let client = direct(&replica);
    let change = |body: &'static str| {
        client.call(Method::POST, "/_control").header("content-type", "application/json").body(body).must()
    };
    assert_eq!(change(r#"{"slots":3,"fault":{"status":503}}"#).await.status, 200);
    assert_eq!(replica.settings().slots, 3);
    assert_eq!(client.get("/").await.status, 503);
    assert_eq!(change(r#"{"slotz":3}"#).await.status, 400);
    assert_eq!(change(r#"{"fault":"none"}"#).await.status, 200);
    assert!(client.get("/_control").await.text().contains("\"requests\":1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_give_up_count_as_aborts() {
    let replica = Replica::named("a").service(ms(10_000)).start().await;
    let first = raw::send(replica.server(), "/", &[("x-id", "first")]).await;
    let second = raw::send(replica.server(), "/", &[]).await;
    eventually("both are inside", 5.0, || async { replica.seen().running == 2 }).await;
    first.give_up();
    second.reset();
    eventually("both aborts are seen", 5.0, || async { replica.seen().aborts == 2 }).await;
    assert_eq!(replica.seen().order, ["first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_nginx_proxies_every_protocol_to_replicas() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let tcp = Replica::named("tcp").start().await;
    let tls = Replica::named("tls").tls(pki.server_config()).start().await;
    let unix = Replica::named("unix").unix(folder.path().join("replica.sock")).start().await;
    let nginx = Nginx::builder()
        .stock()
        .workers(2)
        .http(format!(
            "server {{ listen 127.0.0.1:{} http2; location / {{ grpc_pass grpc://{}; }} }}",
            ports::free_port(),
            tcp.server()
        ))
        // nginx's own balancer does not free the sessions it keeps when a worker ends.
        .server(format!("location /tls/ {{ proxy_ssl_session_reuse off; proxy_pass https://{}/; }}", tls.server()))
        .server(format!("location /unix/ {{ proxy_pass http://{}:/; }}", unix.server()))
        .server(format!(
            "location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_buffering off;
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}",
            tcp.server()
        ))
        .start()
        .await;
    let client = nginx.client();
    assert_eq!(client.get("/tls/").await.replica(), "tls");
    assert_eq!(client.get("/unix/").await.replica(), "unix");
    assert_eq!(client.get("/").await.replica(), "tcp");
    let mut socket = ws::Socket::open(&nginx.url(), "/ws").await.expect("a WebSocket");
    assert_eq!(socket.hear().await.as_deref(), Some("tcp"));
    socket.say("hello").await;
    assert_eq!(socket.hear().await.as_deref(), Some("hello"));
    socket.close().await;
    drop(client);
    nginx.quit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_answers_grpc() {
    let replica = Replica::named("a").start().await;
    let client = Client::h2c(&format!("http://{}", replica.server()));
    let answer = grpc::call(&client, "/test.Echo/Say", b"hi").await.expect("an answer");
    assert_eq!((answer.http_status, answer.grpc_status, answer.message.as_slice()), (200, 0, b"a".as_slice()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_replaces_the_workers_and_a_bad_one_is_refused() {
    let replica = Replica::named("a").start().await;
    let mut nginx =
        Nginx::builder().stock().workers(2).upstream("u", format!("server {};", replica.server())).start().await;
    let before = nginx.workers();
    assert_eq!(before.len(), 2);
    nginx.reload().await;
    assert!(nginx.workers().iter().all(|pid| !before.contains(pid)));
    nginx.kill_worker(nginx.workers()[0]);
    eventually("the worker is replaced", 5.0, || async { nginx.workers().len() == 2 }).await;
    assert_eq!(nginx.client().get("/").await.replica(), "a");
    nginx.reconfigure(|builder| builder.workers(3)).await;
    assert_eq!(nginx.workers().len(), 3);
    std::fs::write(nginx.path("conf/nginx.conf"), "nonsense;").expect("write");
    let refused = nginx.try_reload().await;
    assert!(refused.is_err_and(|line| line.contains("unknown directive \"nonsense\"")));
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "exited on signal 9")]
async fn a_worker_that_dies_unexpectedly_fails_the_test() {
    let nginx = Nginx::builder().stock().start().await;
    let pid = nginx.workers()[0];
    assert!(harness::nginx::process::signal(pid, harness::nginx::Signal::KILL));
    eventually("it is replaced", 5.0, || async { nginx.workers().first().is_some_and(|now| *now != pid) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_dash_t_reports_mistakes() {
    let good = Nginx::builder().stock().check().await;
    assert!(good.ok, "{}", good.output);
    let bad = Nginx::builder().stock().http("nonsense;").check().await;
    assert!(!bad.ok && bad.error().contains("unknown directive"), "{}", bad.output);
    assert!(
        Nginx::builder().stock().http("nonsense;").try_start().await.is_err_and(|e| e.contains("unknown directive"))
    );
}
