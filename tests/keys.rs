//! API keys from pincerctl to the request: which are taken, from where, until when, in every worker
//! and over restarts; and how a refusal reads.

use std::net::SocketAddr;
use std::path::Path;

use harness::client::pinned::{self, Pinned};
use harness::client::{raw, upload::Upload};
use harness::nginx::{Builder, http2_listen, workers};
use harness::{Client, Nginx, Pincerd, Replica, Reply, eventually, limit, ports};
use hyper::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const CLASSES: &str = "pincer_class default; pincer_class vip priority=1;";
/// Asks for a key, and says in every answer what it gave.
const REQUIRED: &str = "pincer_key $http_authorization; pincer_key_required on;
    add_header X-Who \"$pincer_tenant/$pincer_class\" always;";
const BY_ARGUMENT: &str = "location /by-argument { pincer_key $arg_key; pincer_key_required on; empty_gif; }";

/// A key as it was shown when it was made.
struct Key {
    id: String,
    secret: String,
}

impl Key {
    /// `pincerctl key create`, which every connected nginx has taken.
    async fn create(pincerd: &Pincerd, arguments: &[&str]) -> Self {
        Self::shown(&pincerd.json(&[&["--wait", "10s", "key", "create", "--tenant", "acme"], arguments].concat()).await)
    }

    fn shown(told: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        Self { id: text(&told["key"]["key"]), secret: text(&told["secret"]) }
    }

    async fn rotate(&self, pincerd: &Pincerd, overlap: &str) -> Self {
        Self::shown(&pincerd.json(&["--wait", "10s", "key", "rotate", &self.id, "--overlap", overlap]).await)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.secret)
    }
}

/// Fed by `pincerd`; `/` asks for a key.
fn fed(pincerd: &Pincerd, zone: &str, location: &str) -> Builder {
    Nginx::builder()
        .http(format!("pincer_zone pincer:1m {zone}; {CLASSES} {}", pincerd.directives("edge-1")))
        .server(format!("location / {{ {REQUIRED} {location} }}"))
        .server(BY_ARGUMENT)
        .server("keepalive_requests 1000000;")
        .server(pinned::LOCATION)
}

async fn connected(builder: Builder) -> Nginx {
    let nginx = builder.start().await;
    nginx.connected().await;
    nginx
}

async fn ask(client: &Client, authorization: &str) -> Reply {
    client.call(Method::GET, "/").header("Authorization", authorization).must().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_its_class_and_tenant_and_nothing_else_does() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let pass = format!("proxy_pass http://{};", replica.server());
    let nginx = connected(
        fed(&pincerd, "", &pass).server("large_client_header_buffers 4 32k;").logging("$pincer_tenant $pincer_class"),
    )
    .await;
    let vip = Key::create(&pincerd, &["--class", "vip"]).await;
    let free = Key::create(&pincerd, &["--class", "default", "--id", "free"]).await;
    let odd = Key::create(&pincerd, &["--class", "never-configured"]).await;
    let client = nginx.client();
    let secret = &vip.secret;
    for form in ["Bearer K", "bearer K", "BEARER K", "bEaReR K", "Bearer   K", "K", "Bearer K  "] {
        let call = client.call(Method::GET, "/").header("Authorization", form.replace('K', secret));
        let reply = call.header("X-Pincer-Class", "default").header("x-pincer-tenant", "evil").must().await;
        assert_eq!((reply.status, reply.header("x-who"), reply.replica()), (200, "acme/vip", "a"), "{form}");
        let seen = replica.seen();
        assert_eq!((seen.values_of("x-pincer-class"), seen.values_of("x-pincer-tenant")), (vec!["vip"], vec!["acme"]));
    }
    for (key, class) in [(&free, "default"), (&odd, "default")] {
        let reply = ask(&client, &key.bearer()).await;
        assert_eq!((reply.status, reply.header("x-who")), (200, format!("acme/{class}").as_str()));
    }
    let lines = nginx.logged(9).await;
    assert_eq!(&lines[6..], ["acme vip", "acme default", "acme default"]);
    let before = replica.seen().requests;
    let wrong = [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        format!("Basic {secret}"),
        format!("Bearer Bearer {secret}"),
        format!("Bearer{secret}"),
        format!("Bearer {}", secret.to_ascii_uppercase()),
        format!("Bearer {} ", &secret[..secret.len() - 1]),
        format!("Bearer {secret}x"),
        format!("Bearer {secret},{secret}"),
        format!("Bearer \"{secret}\""),
        format!("Bearer {}", free.secret.replace("pk_", "")),
        "Bearer pk_".into(),
        format!("Bearer {}", "x".repeat(10_000)),
        format!("Bearer {secret} {}", " ".repeat(10_000) + "x"),
    ];
    for authorization in wrong {
        assert_eq!(ask(&client, &authorization).await.status, 401, "{authorization:.80}");
    }
    assert_eq!(client.get("/").await.status, 401, "no header at all");
    assert_eq!(replica.seen().requests, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_stand_wherever_a_variable_finds_it() {
    let pincerd = Pincerd::start().await;
    let nginx = connected(
        fed(&pincerd, "", "empty_gif;")
            // Looked at before the location is known, whose own key counts.
            .server("pincer_key $http_authorization; set $early $pincer_tenant;")
            .server("location /header { pincer_key $http_x_api_key; pincer_key_required on; empty_gif; }")
            .server("location /cookie { pincer_key $cookie_key; pincer_key_required on; empty_gif; }")
            .server("location /either { pincer_key $http_x_api_key$http_authorization; pincer_key_required on; empty_gif; }")
            .http("map $pincer_tenant $circle { default $http_authorization; }")
            .server("location /circle { pincer_key $circle; pincer_key_required on; empty_gif; }")
            .server("location /open { pincer_key $http_authorization; add_header X-Who $pincer_tenant/$pincer_class; empty_gif; }"),
    )
    .await;
    let Key { secret, .. } = Key::create(&pincerd, &["--class", "vip"]).await;
    let client = nginx.client();
    let status = async |path: &str, name: &str, value: &str| {
        client.call(Method::GET, path).header(name, value).must().await.status
    };
    let (bearer, cookie) = (format!("Bearer {secret}"), format!("a=b; key={secret}; c=d"));
    assert_eq!(client.get(&format!("/by-argument?key={secret}")).await.status, 200);
    for query in ["", "?key=", "?key=pk_x"] {
        assert_eq!(client.get(&format!("/by-argument{query}")).await.status, 401, "{query}");
    }
    for (path, name, value) in [
        ("/header", "X-Api-Key", &secret),
        ("/header", "x-api-key", &bearer),
        ("/cookie", "Cookie", &cookie),
        ("/either", "X-Api-Key", &secret),
        ("/either", "Authorization", &bearer),
        // Where the key stands depends on whose it is, which nobody can tell.
        ("/circle", "Authorization", &bearer),
    ] {
        assert_eq!(status(path, name, value).await, 200, "{path} {name}");
        assert_eq!(status(path, "X-Other", value).await, 401, "{path} {name}");
        assert_eq!(status(path, name, &value.replace("pk_", "pk-")).await, 401, "{path} {name}");
    }
    // Where no key is required a wrong one is as good as none.
    for (authorization, who) in [(bearer.as_str(), "acme/vip"), ("Bearer pk_x", "/"), ("", "/")] {
        let reply = client.call(Method::GET, "/open").header("Authorization", authorization).must().await;
        assert_eq!((reply.status, reply.header("x-who")), (200, who), "{authorization}");
    }
}

/// GET `/` from this address of ours; the status.
async fn from(client: &str, server: SocketAddr, fields: &str) -> u16 {
    let client: SocketAddr = client.parse().expect("an address");
    let socket = if client.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
    socket.bind(client).expect("our address");
    let mut stream = socket.connect(server).await.expect("nginx listens");
    stream.write_all(format!("GET / HTTP/1.0\r\n{fields}\r\n").as_bytes()).await.expect("send");
    let mut answer = Vec::new();
    tokio::time::timeout(limit(30.0), stream.read_to_end(&mut answer)).await.expect("an answer").expect("an answer");
    raw::status(&String::from_utf8_lossy(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_only_from_its_addresses() {
    let pincerd = Pincerd::start().await;
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let (port, socket) = (ports::free_port(), workers::folder());
    let v6 = if has_v6 { format!("listen [::]:{port} ipv6only=off;") } else { String::new() };
    let unix = socket.path().join("nginx.sock");
    let builder = fed(&pincerd, "", "empty_gif;").server(format!("{v6} listen unix:{};", unix.display()));
    let v4: SocketAddr = format!("127.0.0.1:{}", builder.port()).parse().expect("an address");
    let _nginx = connected(builder).await;
    let one = Key::create(&pincerd, &["--class", "vip", "--cidr", "127.0.0.2"]).await.bearer();
    let many =
        Key::create(&pincerd, &["--class", "vip", "--cidr", "10.0.0.0/8,127.0.0.4/31,2001:db8::/32"]).await.bearer();
    let six = Key::create(&pincerd, &["--class", "vip", "--cidr", "::1"]).await.bearer();
    let any = Key::create(&pincerd, &["--class", "vip"]).await.bearer();
    for (client, key, expected) in [
        ("127.0.0.2:0", &one, 200),
        ("127.0.0.1:0", &one, 403),
        ("127.0.0.3:0", &one, 403),
        ("127.0.0.3:0", &many, 403),
        ("127.0.0.4:0", &many, 200),
        ("127.0.0.5:0", &many, 200),
        ("127.0.0.6:0", &many, 403),
        ("127.0.0.1:0", &six, 403),
        ("127.0.0.9:0", &any, 200),
    ] {
        let field = format!("Authorization: {key}\r\n");
        assert_eq!(from(client, v4, &field).await, expected, "{client}");
        // Nobody's word counts but the connection's.
        let claim =
            format!("{field}X-Forwarded-For: 127.0.0.2\r\nX-Real-IP: 127.0.0.2\r\nForwarded: for=127.0.0.2\r\n");
        assert_eq!(from(client, v4, &claim).await, expected, "{client}");
        if has_v6 {
            // The same client over a socket of IPv6: its address is mapped.
            let mapped: SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
            assert_eq!(from(client, mapped, &field).await, expected, "{client}");
        }
    }
    if has_v6 {
        let v6: SocketAddr = format!("[::1]:{port}").parse().expect("an address");
        for (key, expected) in [(&six, 200), (&one, 403), (&many, 403), (&any, 200)] {
            assert_eq!(from("[::1]:0", v6, &format!("Authorization: {key}\r\n")).await, expected);
        }
    }
    for (key, expected) in [(&one, 403), (&any, 200)] {
        let mut stream = tokio::net::UnixStream::connect(&unix).await.expect("nginx listens");
        stream.write_all(format!("GET / HTTP/1.0\r\nAuthorization: {key}\r\n\r\n").as_bytes()).await.expect("send");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        assert_eq!(raw::status(&String::from_utf8_lossy(&answer)), expected, "a client without an address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_address_is_the_one_that_realip_finds() {
    let pincerd = Pincerd::start().await;
    let realip = "set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;";
    for (server, location) in [(realip, ""), ("", realip)] {
        let nginx = connected(fed(&pincerd, "", &format!("{location} empty_gif;")).server(server)).await;
        let v4 = Key::create(&pincerd, &["--class", "vip", "--cidr", "203.0.113.0/24"]).await.bearer();
        let v6 = Key::create(&pincerd, &["--class", "vip", "--cidr", "2001:db8::/32"]).await.bearer();
        let proxy: SocketAddr = nginx.address().parse().expect("an address");
        for (client, address, key, expected) in [
            ("127.0.0.1:0", "203.0.113.7", &v4, 200),
            ("127.0.0.1:0", "203.0.114.7", &v4, 403),
            ("127.0.0.1:0", "::ffff:203.0.113.7", &v4, 200),
            ("127.0.0.1:0", "2001:db8::7", &v4, 403),
            ("127.0.0.1:0", "2001:db8::7", &v6, 200),
            ("127.0.0.1:0", "2001:db9::7", &v6, 403),
            // No proxy of ours: what it says does not count.
            ("127.0.0.2:0", "203.0.113.7", &v4, 403),
        ] {
            let fields = format!("Authorization: {key}\r\nX-Real-IP: {address}\r\n");
            assert_eq!(from(client, proxy, &fields).await, expected, "{client} for {address}, {location:?}");
        }
    }
}

/// The statuses that a secret gets in each worker.
async fn in_each(workers: &mut [Pinned], secret: &str) -> Vec<u16> {
    let path = format!("/by-argument?key={secret}");
    let ask = async |worker: &mut Pinned| worker.get(&path).await.expect("an answer").0;
    futures_util::future::join_all(workers.iter_mut().map(ask)).await
}

/// Waits at most `seconds` until every worker answers with `status`.
async fn all_say(workers: &mut [Pinned], secret: &str, status: u16, seconds: f64) {
    let start = std::time::Instant::now();
    loop {
        let statuses = in_each(workers, secret).await;
        if statuses.iter().all(|found| *found == status) {
            return;
        }
        assert!(start.elapsed() < limit(seconds), "{statuses:?} after {seconds} s, not {status}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_with_keys_holds_in_every_worker_within_a_second() {
    let pincerd = Pincerd::start().await;
    let nginx = connected(fed(&pincerd, "", "empty_gif;").workers(4).listen("reuseport")).await;
    let mut workers = Pinned::to_all(&nginx).await;
    // Without --wait: the time counts from the command's end.
    let told = pincerd.json(&["key", "create", "--tenant", "acme", "--class", "vip"]).await;
    let first = Key::shown(&told);
    all_say(&mut workers, &first.secret, 200, 1.0).await;
    let second = Key::shown(&pincerd.json(&["key", "rotate", &first.id, "--overlap", "1h"]).await);
    all_say(&mut workers, &second.secret, 200, 1.0).await;
    assert_eq!(in_each(&mut workers, &first.secret).await, [200; 4], "within the overlap");
    let third = Key::shown(&pincerd.json(&["key", "rotate", &first.id, "--overlap", "0"]).await);
    all_say(&mut workers, &third.secret, 200, 1.0).await;
    for old in [&first, &second] {
        all_say(&mut workers, &old.secret, 401, 1.0).await;
    }
    let told = pincerd.ctl(&["key", "delete", &first.id]).await;
    assert_eq!(told.code, 3, "a valid key is not deleted: {}{}", told.output, told.errors);
    pincerd.must(&["key", "revoke", &first.id]).await;
    all_say(&mut workers, &third.secret, 401, 1.0).await;
    assert!(pincerd.must(&["key", "list"]).await.contains("revoked"));
    pincerd.must(&["key", "delete", &first.id]).await;
    assert!(!pincerd.must(&["key", "list"]).await.contains(&first.id));
    for gone in [&first, &second, &third] {
        assert_eq!(in_each(&mut workers, &gone.secret).await, [401; 4]);
    }
    // The name is free again, the old secrets stay worthless.
    let again = Key::create(&pincerd, &["--class", "vip", "--id", &first.id]).await;
    assert_eq!(in_each(&mut workers, &again.secret).await, [200; 4]);
    assert_eq!(in_each(&mut workers, &third.secret).await, [401; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_overlaps_end_in_time_with_the_control_plane_away_too() {
    let mut pincerd = Pincerd::start().await;
    let nginx = connected(fed(&pincerd, "", "empty_gif;").workers(2).listen("reuseport")).await;
    let mut workers = Pinned::to_all(&nginx).await;
    for is_away in [false, true] {
        // Enough for the commands and the requests below on a slow machine.
        let short = Key::create(&pincerd, &["--class", "vip", "--expires", "8s"]).await;
        let old = Key::create(&pincerd, &["--class", "vip"]).await;
        let new = old.rotate(&pincerd, "6s").await;
        if is_away {
            pincerd.kill();
        }
        for valid in [&short, &old, &new] {
            assert_eq!(in_each(&mut workers, &valid.secret).await, [200; 2], "away: {is_away}");
        }
        all_say(&mut workers, &short.secret, 401, 15.0).await;
        all_say(&mut workers, &old.secret, 401, 15.0).await;
        assert_eq!(in_each(&mut workers, &new.secret).await, [200; 2], "away: {is_away}");
    }
    pincerd.start_again().await;
    nginx.connected().await;
    let list = pincerd.json(&["key", "list"]).await;
    let states: Vec<_> = list["keys"].as_array().expect("keys").iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| *state == "expired").count(), 2, "{list:#}");
    assert_eq!(states.iter().filter(|state| *state == "active").count(), 2, "{list:#}");
}

/// Starts nginx and checks, in each worker, which secrets are valid; stops it.
async fn assert_after_start(pincerd: &Pincerd, state: &Path, valid: &[&Key], invalid: &[&Key]) {
    let nginx =
        fed(pincerd, &format!("state={}", state.display()), "empty_gif;").workers(2).listen("reuseport").start().await;
    let mut workers = Pinned::to_all(&nginx).await;
    for key in valid {
        assert_eq!(in_each(&mut workers, &key.secret).await, [200; 2]);
    }
    for key in invalid {
        assert_eq!(in_each(&mut workers, &key.secret).await, [401; 2]);
    }
    drop(workers);
    nginx.quit();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_restarts_of_nginx_and_of_the_control_plane() {
    let mut pincerd = Pincerd::start().await;
    let (folder, zone) = (workers::folder(), "state=");
    let state = folder.path().join("last");
    let mut nginx = connected(fed(&pincerd, &format!("{zone}{}", state.display()), "empty_gif;")).await;
    let old = Key::create(&pincerd, &["--class", "vip"]).await;
    let new = old.rotate(&pincerd, "1h").await;
    let revoked = Key::create(&pincerd, &["--class", "vip"]).await;
    let elsewhere = Key::create(&pincerd, &["--class", "vip", "--cidr", "10.0.0.0/8"]).await;
    let told = pincerd.json(&["--wait", "10s", "key", "revoke", &revoked.id]).await;
    let revision = told["revision"].as_f64().expect("a revision");
    // A reload keeps what is in the zone.
    nginx.reconfigure(|builder| builder.server("location /nothing { empty_gif; }")).await;
    let client = nginx.client();
    for (key, status) in [(&old, 200), (&new, 200), (&revoked, 401), (&elsewhere, 403)] {
        assert_eq!(ask(&client, &key.bearer()).await.status, status);
    }
    assert_eq!(nginx.status().await.number("/revision"), revision);
    // A connection without a request would keep its worker.
    drop(client);
    nginx.quit();
    let hash = pincerd.json(&["key", "list"]).await["keys"][0]["fingerprint"].as_str().map(str::to_owned);
    assert!(hash.is_some_and(|hash| hash.len() == 8));
    pincerd.kill();
    assert_after_start(&pincerd, &state, &[&old, &new], &[&revoked]).await;
    pincerd.start_again().await;
    assert_after_start(&pincerd, &state, &[&old, &new], &[&revoked]).await;
    // Without a state file the control plane tells all of it again.
    let nginx = connected(fed(&pincerd, "", "empty_gif;")).await;
    let known = || async { ask(&nginx.client(), &new.bearer()).await.status == 200 };
    eventually("the keys are back", 5.0, known).await;
    assert_eq!(ask(&nginx.client(), &revoked.bearer()).await.status, 401);
}

/// A refusal's body below `/v1/` and elsewhere, and what must be said in its headers.
fn assert_refusal(reply: &Reply, path: &str, status: u16, code: &str) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(reply.status, status, "{path}");
    if path.starts_with("/v1/") {
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!((&body["error"]["code"], &body["error"]["type"]), (&code.into(), &"invalid_request_error".into()));
        assert!(body["error"]["message"].is_string() && body["error"]["param"].is_null(), "{body}");
    } else {
        assert_eq!(reply.header("content-type"), "application/problem+json");
        assert_eq!((&body["status"], &body["type"]), (&status.into(), &"about:blank".into()), "{body}");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    }
    assert_eq!(reply.header("www-authenticate"), if status == 401 { "Bearer" } else { "" }, "{path}");
    assert!(!reply.headers.contains_key("retry-after"), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_read_as_their_clients_expect() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let pass = format!("proxy_pass http://{};", replica.server());
    let port = ports::free_port();
    let nginx = connected(
        fed(&pincerd, "", &pass)
            .server(format!("location /own/ {{ {REQUIRED} error_page 401 403 = @own; {pass} }} location @own {{ {REQUIRED} return 200 own; }}"))
            .server(format!("location /passed/ {{ {REQUIRED} error_page 401 = /status/404; {pass} }}"))
            .http(format!("server {{ {} location / {{ {REQUIRED} {pass} }} }}", http2_listen(port))),
    )
    .await;
    let elsewhere = Key::create(&pincerd, &["--class", "vip", "--cidr", "10.0.0.0/8"]).await.bearer();
    let [client, h2] = [nginx.client(), Client::h2c(&format!("http://127.0.0.1:{port}"))];
    for client in [&client, &h2] {
        for path in ["/v1/chat/completions", "/v1/", "/v1", "/predict", "/"] {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                let call = || client.call(method.clone(), path).body(vec![b'x'; 300_000]);
                assert_refusal(&call().must().await, path, 401, "invalid_api_key");
                let wrong = call().header("Authorization", "Bearer pk_x").must().await;
                assert_refusal(&wrong, path, 401, "invalid_api_key");
                let forbidden = call().header("Authorization", &elsewhere).must().await;
                assert_refusal(&forbidden, path, 403, "ip_not_authorized");
            }
        }
        let head = client.call(Method::HEAD, "/v1/models").must().await;
        assert_eq!((head.status, head.header("www-authenticate"), head.body.len()), (401, "Bearer", 0));
        assert!(head.header("content-length").parse::<usize>().is_ok_and(|length| length > 50));
    }
    for authorization in ["", elsewhere.as_str()] {
        let reply = client.call(Method::GET, "/own/").header("Authorization", authorization).must().await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "own"), "an error_page of the operator's");
    }
    assert_eq!(replica.seen().requests, 0);
    let chunked = Upload::post("/", vec![b'x'; 100_000]).chunked([1, 5_000, 50_000]).send(&nginx.address()).await;
    assert_eq!(chunked.status, 401);
    // An error page may come from an upstream; it learns of no class.
    let call = client.call(Method::GET, "/passed/").header("X-Pincer-Class", "vip").header("X-Pincer-Tenant", "acme");
    assert_eq!((call.must().await.status, replica.seen().requests), (404, 1));
    let seen = replica.seen();
    assert!(seen.values_of("x-pincer-class").is_empty() && seen.values_of("x-pincer-tenant").is_empty());
}
