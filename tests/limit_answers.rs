//! What clients hear of their limits: statuses, headers that an independent parser reads, bodies,
//! error pages, and OpenAI's own client.

use harness::client::raw;
use harness::nginx::Builder;
use harness::{Client, Nginx, Replica, paths};
use hyper::Method;

/// A location that is answered in the content phase without an upstream.
const GIF: &str = "location / { empty_gif; }";

/// A server whose locations are all held to the limits given.
fn limited(classes: &str, limits: &str) -> Builder {
    Nginx::builder().http(format!("pincer_zone pincer:1m; {classes}")).server(limits)
}

/// The statuses of `count` requests, one after the other.
async fn in_turn(client: &Client, path: &str, count: usize) -> Vec<u16> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(client.get(path).await.status);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_refusals_and_limits_are_inherited_as_in_nginx() {
    let nginx = limited(
        "pincer_limit class=a; pincer_class a rate=1r/m; pincer_class b rate=1r/m burst=1 nodelay;",
        "pincer_limit_status 503;",
    )
    .server(
        "location /inherits { empty_gif; }
            location /own { pincer_limit class=b; pincer_limit_status 420; empty_gif; location /own/nested { empty_gif; } }
            location /closes { pincer_limit class=b key=$uri; pincer_limit_status 444; empty_gif; }",
    )
    .start()
    .await;
    let client = nginx.client();
    assert_eq!(in_turn(&client, "/inherits", 2).await, [200, 503]);
    // The limits of a location replace those above.
    assert_eq!(in_turn(&client, "/own", 1).await, [200]);
    assert_eq!(in_turn(&client, "/own/nested", 2).await, [200, 420]);
    assert_eq!(in_turn(&client, "/closes", 2).await, [200; 2]);
    let refused = client.call(Method::GET, "/closes").send().await;
    assert!(refused.is_err(), "444 closes without an answer, as everywhere in nginx: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn error_pages_take_the_refusals_place_and_keep_its_headers() {
    let replica = Replica::named("a").start().await;
    let nginx = limited("pincer_class c rate=1r/m;", "pincer_limit class=c key=$request_uri;")
        .server(format!(
            "location /page {{ error_page 429 /slow.html; empty_gif; }}
            location = /slow.html {{ internal; return 200 \"slow down\"; }}
            location /named {{ error_page 429 = @fallback; empty_gif; }}
            location @fallback {{ proxy_pass http://{}; }}
            location /other {{ error_page 503 /slow.html; empty_gif; }}",
            replica.server()
        ))
        .start()
        .await;
    let client = nginx.client();
    for path in ["/page", "/named", "/other"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    let page = client.get("/page").await;
    assert_eq!((page.status, page.text().as_str()), (429, "slow down"));
    let wait_s: u32 = page.header("retry-after").parse().expect("seconds");
    assert!((58..=60).contains(&wait_s) && !page.header("ratelimit").is_empty(), "{:?}", page.headers);
    let named = client.get("/named").await;
    assert_eq!((named.status, named.replica()), (200, "a"));
    let other = client.get("/other").await;
    assert_eq!((other.status, other.header("content-type")), (429, "application/problem+json"));
}

/// A structured field of RFC 9651 that is a list of strings with integers as parameters: each
/// string with the two parameters.
fn list(value: &str, parameters: [&str; 2]) -> Vec<(String, i64, i64)> {
    let list = sfv::Parser::new(value).parse::<sfv::List>().unwrap_or_else(|error| panic!("{value:?}: {error}"));
    let item = |entry: &sfv::ListEntry| {
        let sfv::ListEntry::Item(item) = entry else { panic!("an inner list: {value}") };
        let name = item.bare_item.as_string().expect("a string").as_str().to_owned();
        let number = |key: &str| {
            let found = item.params.get(key).unwrap_or_else(|| panic!("no {key}: {value}"));
            i64::from(found.as_integer().expect("an integer"))
        };
        assert_eq!(item.params.len(), 2, "{value}");
        (name, number(parameters[0]), number(parameters[1]))
    };
    list.iter().map(item).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_what_is_left_and_refusals_when_to_come_again() {
    let classes = "pincer_class vip.1 rate=10r/s burst=19 nodelay; pincer_class all rate=2r/m burst=4 nodelay;";
    let nginx = limited(classes, "pincer_limit class=vip.1; pincer_limit class=all;").server(GIF).start().await;
    let client = nginx.client();
    for used in 1..=5 {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("retry-after").is_empty());
        let policy = list(reply.header("ratelimit-policy"), ["q", "w"]);
        assert_eq!(policy, [("vip.1".into(), 20, 2), ("all".into(), 6, 180)]);
        let state = list(reply.header("ratelimit"), ["r", "t"]);
        assert_eq!((state[1].0.as_str(), state[1].1), ("all", 5 - used));
        assert!((20..=30 * used).contains(&state[1].2), "{state:?}");
        assert!(state[0].0 == "vip.1" && (15..20).contains(&state[0].1), "{state:?}");
        // OpenAI's headers know one limit: the tightest.
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "6");
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), (5 - used).to_string());
        let reset = reply.header("x-ratelimit-reset-requests");
        assert!(reset.ends_with('s') && reset.starts_with(|c: char| c.is_ascii_digit()), "{reset}");
    }
    let refused = client.get("/").await;
    assert_eq!(refused.status, 429);
    let wait_s: i64 = refused.header("retry-after").parse().expect("seconds");
    assert!((28..=30).contains(&wait_s), "{wait_s}");
    assert_eq!(list(refused.header("ratelimit"), ["r", "t"])[1], ("all".into(), 0, wait_s));
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "0");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(
        (&problem["type"], &problem["status"], &problem["title"]),
        (&"about:blank".into(), &429.into(), &"Too Many Requests".into())
    );
    let refused = client.post("/v1/chat/completions", r#"{"model":"m"}"#).await;
    assert_eq!((refused.status, refused.header("content-type")), (429, "application/json"));
    let error: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(error["error"]["type"], "requests");
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("Retry-After")), "{error}");
    for head in [client.call(Method::HEAD, "/").must().await, client.call(Method::HEAD, "/v1/models").must().await] {
        assert_eq!((head.status, head.body.len()), (429, 0));
        assert!(head.header("content-length").parse::<usize>().is_ok_and(|length| length > 50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_leaves_its_connection_usable() {
    let nginx = limited("pincer_class c rate=1r/m;", "location = /up { pincer_limit class=c; empty_gif; }")
        .server("client_max_body_size 20m; location = /free { empty_gif; }")
        .start()
        .await;
    assert_eq!(nginx.client().get("/up").await.status, 200);
    let body = "x".repeat(3_000_000);
    let bytes = format!(
        "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}GET /free HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = raw::send_bytes(&nginx.address(), &bytes).await.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_asks_for_no_body_and_a_request_behind_it_is_served() {
    let own = "pincer_control_plane 127.0.0.1:9 plaintext;";
    let nginx = limited(&format!("{own} pincer_class c rate=1r/m;"), "client_max_body_size 20m;")
        .server(
            "location = /up { pincer_limit class=c; empty_gif; } location = /free { empty_gif; }
            location = /key { pincer_key $http_x_key; pincer_key_required on; empty_gif; }",
        )
        .start()
        .await;
    assert_eq!(nginx.client().get("/up").await.status, 200);
    for (path, status) in [("/up", 429), ("/key", 401)] {
        let ask =
            |fields: &str| format!("POST {path} HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n{fields}\r\n\r\n");
        let asked = raw::send_bytes(&nginx.address(), &ask("Connection: close\r\nContent-Length: 5000000")).await;
        let answer = asked.read_all().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        // One that does not wait to be asked.
        let last = "GET /free HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let bytes = format!("{}hello{last}", ask("Content-Length: 5"));
        let answer = raw::send_bytes(&nginx.address(), &bytes).await.read_all().await;
        assert!(answer.contains(&format!("HTTP/1.1 {status} ")) && answer.contains("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("100 Continue"), "{answer}");
        // A body that cannot be read to its end: the refusal is the last that is said.
        let bytes = format!("{}not chunks\r\n{last}", ask("Transfer-Encoding: chunked"));
        let answer = raw::send_bytes(&nginx.address(), &bytes).await.read_all().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_of_its_limits_gives_way_to_ours_where_a_rate_is_in_force() {
    const OURS: [&str; 5] = [
        "RateLimit",
        "RateLimit-Policy",
        "X-RateLimit-Limit-Requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ];
    const THEIRS: [&str; 3] = ["Retry-After", "x-ratelimit-remaining-tokens", "X-RateLimit-Limit-Tokens"];
    let port = harness::ports::free_port();
    let said: String = OURS.iter().chain(&THEIRS).map(|name| format!("add_header {name} theirs always;")).collect();
    let nginx = limited("pincer_class c rate=1r/m; pincer_class busy concurrency=9;", "")
        .http(format!("server {{ listen 127.0.0.1:{port}; {said} location / {{ return 200; }} }}"))
        .server(format!(
            "location /rate {{ pincer_limit class=c; error_page 429 = @refused; proxy_pass http://127.0.0.1:{port}; }}
            location /none {{ pincer_limit class=busy; proxy_pass http://127.0.0.1:{port}; }}
            location @refused {{ proxy_pass http://127.0.0.1:{port}; }}"
        ))
        .start()
        .await;
    let client = nginx.client();
    let values = |reply: &harness::Reply, name: &str| -> Vec<String> {
        let values = reply.headers.get_all(name.to_ascii_lowercase());
        values.iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    };
    for refused in [false, true] {
        let reply = client.get("/rate").await;
        for name in OURS {
            let values = values(&reply, name);
            assert!(values.len() == 1 && values[0] != "theirs", "{name}: {values:?}");
        }
        for name in &THEIRS[1..] {
            assert_eq!(values(&reply, name), ["theirs"], "{name}");
        }
        let wait = values(&reply, "Retry-After");
        assert!(wait.len() == 1 && (wait[0] != "theirs") == refused, "{wait:?}");
    }
    let reply = client.get("/none").await;
    for name in OURS.iter().chain(&THEIRS) {
        assert_eq!(values(&reply, name), ["theirs"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_openai_waits_as_long_as_it_is_told_and_succeeds() {
    let python = paths::repository().join("target/openai/bin/python");
    let setup = harness::process::run(
        tokio::process::Command::new("bash").arg(paths::repository().join("tests/openai/setup.sh")),
        300.0,
    )
    .await;
    if !python.exists() {
        println!("left out: no openai-python: {}{}", setup.output, setup.errors);
        return;
    }
    let replica = Replica::named("a").start().await;
    let nginx = limited("pincer_class c rate=1r/s;", "pincer_limit class=c key=$http_authorization;")
        .server(format!("location / {{ proxy_pass http://{}; }}", replica.server()))
        .logging("$status $http_x_stainless_retry_count $sent_http_retry_after")
        .start()
        .await;
    let script = paths::repository().join("tests/openai/chat.py");
    let told = harness::process::run(
        tokio::process::Command::new(python).arg(script).arg(format!("{}/v1", nginx.url())),
        60.0,
    )
    .await;
    assert_eq!(told.code, 0, "{}{}\n{}", told.output, told.errors, nginx.tail());
    let lines = nginx.logged(5).await;
    assert_eq!(lines[..5], ["200 0 -", "429 0 1", "200 1 -", "429 0 1", "200 1 -"], "{}{}", told.output, told.errors);
}
