//! Where limits stand: which location decides for a request that nginx moves about, beside nginx's
//! own `limit_req`, and how a place is left out.

use harness::client::raw;
use harness::nginx::{Builder, Signal, process};
use harness::{Client, Fault, Nginx, Replica, eventually, ports};

const ZONE: &str = "pincer_zone pincer:1m;";

/// The statuses of `count` requests, one after the other.
async fn in_turn(client: &Client, path: &str, count: usize) -> Vec<u16> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(client.get(path).await.status);
    }
    found
}

/// A server with our limits, and one with nginx's of the same values; each at a place where
/// `{limit NAME}` says so.
struct Beside {
    ours: Client,
    theirs: Client,
    // Ends when the clients have closed their connections.
    nginx: Nginx,
}

impl Beside {
    /// `strict` lets one request through, `loose` three; nothing comes back in the time of a test.
    /// `ours` is put before `server` on our side.
    async fn start(ours: &str, server: &str) -> Self {
        let port = ports::free_port();
        let with = |form: fn(&str) -> String| {
            ["strict", "loose"]
                .iter()
                .fold(server.to_owned(), |text, name| text.replace(&format!("{{limit {name}}}"), &form(name)))
        };
        let nginx = Nginx::builder()
            .http(format!(
                "{ZONE} pincer_class strict rate=1r/m; pincer_class loose rate=1r/m burst=2 nodelay;
                limit_req_zone $server_port$arg_k zone=strict:1m rate=1r/m; limit_req_zone $server_port$arg_k zone=loose:1m rate=1r/m;
                limit_req_status 429;
                server {{ listen 127.0.0.1:{port}; {} }}",
                with(|name| format!("limit_req zone={name}{};", if name == "loose" { " burst=2 nodelay" } else { "" }))
            ))
            .server(format!("{ours} {}", with(|name| format!("pincer_limit class={name} key=$arg_k;"))))
            .start()
            .await;
        let (ours, theirs) = (nginx.client(), Client::pooled(&format!("http://127.0.0.1:{port}")));
        Self { ours, theirs, nginx }
    }

    /// What five requests for `path` get, with a key of their own; the same on both sides.
    async fn five(&self, path: &str) -> Vec<u16> {
        let path = format!("{path}?k={}", path.replace('/', "_"));
        let (ours, theirs) = (in_turn(&self.ours, &path, 5).await, in_turn(&self.theirs, &path, 5).await);
        assert_eq!(ours, theirs, "{path}: with limit_req");
        ours
    }
}

const STRICT: [u16; 5] = [200, 429, 429, 429, 429];
const LOOSE: [u16; 5] = [200, 200, 200, 429, 429];

#[tokio::test(flavor = "multi_thread")]
async fn the_first_location_with_limits_decides_and_a_key_alone_does_not() {
    const SERVER: &str = "root /nonexistent; recursive_error_pages on;
        location /try { try_files $uri @app; }
        location /missing { error_page 404 = @app; }
        location /twice { try_files $uri @between; }
        location @between { error_page 404 = @app; }
        location /rewritten { rewrite ^ /strict last; }
        location /strict { {limit strict} empty_gif; }
        location /looser { {limit loose} try_files $uri @app; }
        location /again { {limit strict} try_files $uri @again; }
        location @again { {limit strict} empty_gif; }
        location @app { {limit strict} empty_gif; }";
    // With the key everywhere, with another in each place, and without any.
    let named = SERVER.replace("location @app {", "location @app { pincer_key $arg_key;");
    for (ours, server) in [("pincer_key $http_authorization;", SERVER), ("", SERVER)] {
        let both = Beside::start(ours, server).await;
        for path in ["/try", "/missing", "/twice", "/rewritten", "/strict", "/again"] {
            assert_eq!(both.five(path).await, STRICT, "{ours} {path}");
        }
        assert_eq!(both.five("/looser").await, LOOSE, "{ours}: the first location's limit is the request's");
        let status = both.nginx.status().await;
        assert_eq!(status.class("strict").number("/in_flight"), 0.0);
        assert_eq!(status.class("strict").number("/requests/passed"), 6.0, "each request is counted once");
    }
    let nginx = Nginx::builder()
        .http(format!("{ZONE} pincer_class strict rate=1r/m;"))
        .server(format!(
            "pincer_key $http_authorization; {}",
            named.replace("{limit strict}", "pincer_limit class=strict;").replace("{limit loose}", "")
        ))
        .start()
        .await;
    assert_eq!(in_turn(&nginx.client(), "/try", 3).await, [200, 429, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_server_decide_before_stricter_ones_of_a_location_that_it_goes_on_to() {
    let both = Beside::start(
        "pincer_key $http_authorization;",
        "root /nonexistent; {limit loose}
        location /try { try_files $uri @app; }
        location /missing { error_page 404 = @app; }
        location /app { {limit strict} empty_gif; }
        location @app { {limit strict} empty_gif; }",
    )
    .await;
    for path in ["/try", "/missing"] {
        assert_eq!(both.five(path).await, LOOSE, "{path}");
    }
    assert_eq!(both.five("/app").await, STRICT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_whose_class_is_unknown_leaves_the_request_to_the_next_location() {
    let nginx = Nginx::builder()
        .http(format!("{ZONE} pincer_class strict rate=1r/m;"))
        .server(
            "root /nonexistent; location / { pincer_limit class=$arg_class; try_files $uri @app; }
            location @app { pincer_limit class=strict; empty_gif; }",
        )
        .start()
        .await;
    assert_eq!(in_turn(&nginx.client(), "/?class=nobody", 3).await, [200, 429, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_left_out_of_the_limits_above_it() {
    let nginx = Nginx::builder()
        .http(format!("{ZONE} pincer_class strict rate=1r/m; pincer_limit class=strict key=$uri;"))
        .server(
            "root /nonexistent;
            location /held { empty_gif; }
            location /health { pincer_limit off; empty_gif;
                location /health/deep { empty_gif; } location /health/held { pincer_limit class=strict; empty_gif; } }
            location /goes-on { pincer_limit off; try_files $uri @app; }
            location @app { pincer_limit class=strict key=app; empty_gif; }"
                .replace("key=app", "key=${arg_none}app"),
        )
        .start()
        .await;
    let client = nginx.client();
    for path in ["/held", "/health/held", "/goes-on"] {
        assert_eq!(in_turn(&client, path, 3).await, [200, 429, 429], "{path}");
    }
    for path in ["/health", "/health/deep"] {
        assert_eq!(in_turn(&client, path, 5).await, [200; 5], "{path}");
        assert!(!client.get(path).await.headers.contains_key("ratelimit"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_answer_in_a_flood_and_only_a_limit_of_their_own_holds_them() {
    let nginx = Nginx::builder()
        .http(format!("{ZONE} pincer_class strict rate=1r/m concurrency=1; pincer_limit class=strict key=$uri;"))
        .server(
            "pincer_limit class=strict;
            location / { empty_gif; }
            location = /status { pincer_status; }
            location = /metrics { pincer_metrics; }
            location = /held { pincer_limit class=strict key=$uri; pincer_status; }
            location = /if { pincer_status; if ($arg_a) { add_header X 1; } limit_except GET { deny all; } }
            location = /held/if { pincer_limit class=strict key=$uri; pincer_metrics; if ($args) { add_header X 1; } }
            location /pages { pincer_limit class=strict key=$uri; pincer_status;
                location /pages/metrics { pincer_metrics; } location /pages/other { empty_gif; } }
            location /open { pincer_status; location /open/other { empty_gif; } }",
        )
        .start()
        .await;
    let client = nginx.client();
    assert_eq!(in_turn(&client, "/", 3).await, [200, 429, 429], "the server's limit is used up");
    for path in ["/status", "/metrics", "/pages/metrics", "/open", "/if", "/if?a=1"] {
        assert_eq!(in_turn(&client, path, 5).await, [200; 5], "{path}");
        assert!(!client.get(path).await.headers.contains_key("ratelimit"), "{path}");
    }
    for path in ["/held", "/held/if?a=1", "/pages", "/pages/other"] {
        assert_eq!(in_turn(&client, path, 3).await, [200, 429, 429], "{path}");
    }
    assert_eq!(
        in_turn(&client, "/open/other", 2).await,
        [429; 2],
        "what is nested in a page is held by the server's limit"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_server_requires_is_required_for_its_pages_too() {
    let nginx = Nginx::builder()
        .http(format!("{ZONE} pincer_class strict rate=1r/m;"))
        .server(
            "pincer_key $http_authorization; pincer_key_required on; pincer_limit class=strict;
            location = /status { pincer_status; } location = /metrics { pincer_metrics; }
            location = /open { pincer_key_required off; pincer_status; }",
        )
        .start()
        .await;
    for (path, status) in [("/status", 401), ("/metrics", 401), ("/open", 200)] {
        assert_eq!(in_turn(&nginx.client(), path, 3).await, [status; 3], "{path}");
    }
}

/// Sends a request for `path` and leaves, both before the only worker looks.
async fn come_and_go(nginx: &Nginx, path: &str, headers: &[(&str, &str)]) {
    let [worker] = nginx.workers()[..] else { panic!("one worker is needed") };
    assert!(process::signal(worker, Signal::STOP));
    for _ in 0..3 {
        raw::send(&nginx.address(), path, headers).await.give_up();
    }
    assert!(process::signal(worker, Signal::CONT));
}

fn one_worker() -> Builder {
    Nginx::builder().workers(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_gone_before_their_delay_begins_are_not_waited_for() {
    let nginx = one_worker()
        .http(format!("{ZONE} pincer_class c rate=1r/m burst=9 concurrency=9;"))
        .server("location / { pincer_limit class=c; empty_gif; }")
        .start()
        .await;
    assert_eq!(nginx.client().get("/").await.status, 200);
    for round in 1..=5 {
        come_and_go(&nginx, "/", &[]).await;
        let gone = || async {
            let class = nginx.status().await.class("c");
            class.number("/requests/delayed") == f64::from(round * 3) && class.number("/in_flight") == 0.0
        };
        eventually("all have come and gone", 10.0, gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_gone_before_their_wait_begins_leave_the_queue_and_never_reach_the_peer() {
    let replica = Replica::named("a").start().await;
    let nginx = one_worker()
        .balanced("pincer_balance; pincer_queue size=50 timeout=60s;", [replica.server()], "max_conns=1")
        .http("pincer_class c priority=1;")
        .server("pincer_limit class=c;")
        .start()
        .await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = tokio::spawn(client.call(hyper::Method::GET, "/").header("x-id", "holder").must());
    eventually("one runs", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
    for round in 1..=5 {
        come_and_go(&nginx, "/", &[("x-id", "leaver")]).await;
        let gone = || async {
            let status = nginx.status().await;
            status.class("c").number("/requests/passed") == f64::from(1 + round * 3) && status.waiting() == 0
        };
        eventually("all have come and gone", 10.0, gone).await;
    }
    replica.fault(Fault::None).await;
    assert_eq!(holder.await.expect("no panic").status, 200);
    assert_eq!(replica.seen().order, ["holder"]);
}
