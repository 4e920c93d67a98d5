//! The digest stays that of the client's body on every way that a request takes through nginx:
//! internal redirects, named locations, rewrites, error pages, subrequests, retries, several
//! requests on a connection. Where there is none to be had there is a token that nobody else has.

use std::collections::HashSet;

use bytes::Bytes;
use harness::client::upload::{Answer, Upload, noise};
use harness::nginx::{Builder, CACHE};
use harness::replica::Settings;
use harness::{Fault, Nginx, Replica, conf, digests, eventually, load, ports};
use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHOWN: &str = "add_header X-Hash $pincer_body_hash always; add_header X-Key $pincer_cache_key always;
    add_header X-Uncacheable $pincer_uncacheable always;";

fn blake3(body: &[u8]) -> String {
    digests::independent("blake3", &[body]).remove(0)
}

fn is_token(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text != blake3(b"")
}

/// Bodies hashed by BLAKE3 and shown everywhere; an upstream `main`.
fn hashing(main: &Replica) -> Builder {
    Nginx::builder().http(format!(
        "pincer_zone pincer:1m; pincer_body_hash blake3; {SHOWN} {CACHE} client_max_body_size 0;
         upstream main {{ server {}; }}",
        main.server()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_rewrites_and_error_pages_keep_the_digest() {
    let main = Replica::named("main").start().await;
    let (port, accel) = (ports::free_port(), ports::free_port());
    let locations = format!(
        "client_body_buffer_size 4k;
         location = /rewrite {{ rewrite ^ /target last; }}
         location = /break {{ rewrite ^ /other break; proxy_pass http://main; }}
         location = /if {{ if ($request_method = POST) {{ proxy_pass http://main; }} proxy_pass http://127.0.0.1:1; }}
         location = /set {{ set $early $pincer_body_hash; rewrite ^ /target last; }}
         location = /limit {{ limit_except GET {{ proxy_pass http://main; }} }}
         location = /try {{ try_files /none @named; }}
         location = /accel {{ proxy_pass http://127.0.0.1:{accel}; }}
         location = /dead {{ proxy_connect_timeout 1s; proxy_pass http://127.0.0.1:1; error_page 502 = @named; }}
         location = /deadpage {{ proxy_pass http://127.0.0.1:1; error_page 502 = /target; }}
         location = /return {{ return 418; error_page 418 = @named; }}
         location = /denied {{ deny all; error_page 403 = @named; }}
         location = /mirror {{ mirror /mirrored; proxy_pass http://main; }}
         location = /mirrored {{ internal; proxy_pass http://main; }}
         location = /auth {{ auth_request /allowed; proxy_pass http://main; }}
         location = /allowed {{ internal; return 204; }}
         location = /late {{ proxy_request_buffering off; proxy_pass http://127.0.0.1:1; error_page 502 = @unbuffered; }}
         location = /variable {{ set $to main; proxy_pass http://$to; }}
         location = /target {{ proxy_pass http://main; }}
         location @named {{ proxy_pass http://main; }}
         location @unbuffered {{ proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://main; }}"
    );
    let h2 = harness::nginx::http2_listen(port);
    let nginx = hashing(&main)
        .server(&locations)
        .http(format!("server {{ {h2} {locations} }}"))
        .http(format!(
            "server {{ listen 127.0.0.1:{accel}; location / {{ add_header X-Accel-Redirect /target; return 200; }} }}"
        ))
        .start()
        .await;
    let paths: Vec<_> = locations.split("location = ").skip(1).filter_map(|text| text.split(' ').next()).collect();
    let mut keys = HashSet::new();
    for (at, path) in paths.iter().filter(|path| !["/mirrored", "/allowed"].contains(path)).enumerate() {
        for len in [10 + at, 200_000 + at] {
            let body = noise(len, at);
            let upload = Upload::post(path, body.clone());
            let answers = [
                upload.send(&nginx.address()).await,
                upload.clone().chunked([3, 5_000]).written([50, 7_000]).send(&nginx.address()).await,
                upload.send_h2(&format!("127.0.0.1:{port}")).await,
            ];
            for (way, answer) in answers.iter().enumerate() {
                let told = format!("{path}, {len} bytes, way {way}");
                assert_eq!((answer.status, answer.text().as_str()), (200, "replica main\n"), "{told}");
                assert_eq!(answer.header("x-hash"), blake3(&body), "{told}");
                assert_eq!(answer.header("x-uncacheable"), "0", "{told}");
                // HTTP/2 comes to another port.
                assert_eq!(answer.header("x-key") == answers[0].header("x-key"), way < 2, "{told}");
            }
            assert!(keys.insert(answers[0].header("x-key").to_owned()), "{path}: a key of another way");
        }
    }
    assert!(keys.len() > 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_rewrite_phase_there_is_a_token_and_later_the_digest() {
    let main = Replica::named("main").start().await;
    let nginx = hashing(&main)
        .server(
            "location / { set $early $pincer_body_hash; set $no $pincer_uncacheable; set $key $pincer_cache_key; add_header X-Early $early;
            add_header X-No $no; add_header X-Hash $pincer_body_hash; add_header X-Early-Key $key; add_header X-Key $pincer_cache_key;
            proxy_pass http://main; }
            location = /after { proxy_pass http://127.0.0.1:1; error_page 502 = /; }",
        )
        .start()
        .await;
    let mut tokens = HashSet::new();
    for len in [1, 5_000, 100_000] {
        let body = noise(len, 1);
        let answer = Upload::post("/", body.clone()).send(&nginx.address()).await;
        assert_eq!((answer.header("x-hash"), answer.header("x-no")), (blake3(&body).as_str(), "1"));
        assert!(is_token(answer.header("x-early")) && tokens.insert(answer.header("x-early").to_owned()));
    }
    // Where a request goes is not known there, so that even without a body, or with the place that
    // it went to before, the key is no other's.
    for path in ["/", "/after"] {
        let mut keys = HashSet::new();
        for _ in 0..2 {
            let answer = Upload::new("GET", path, "").send(&nginx.address()).await;
            assert_eq!((answer.header("x-early"), answer.header("x-no")), (blake3(b"").as_str(), "0"));
            assert!(keys.insert(answer.header("x-early-key").to_owned()), "{path}: a key came twice");
            keys.insert(answer.header("x-key").to_owned());
        }
        assert_eq!(keys.len(), 3, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_hashed_every_request_has_a_token_of_its_own() {
    let main = Replica::named("main").start().await;
    let port = ports::free_port();
    let location = "location / { pincer_body_hash off; proxy_pass http://main; }";
    let h2 = harness::nginx::http2_listen(port);
    let nginx = hashing(&main).workers(2).server(location).http(format!("server {{ {h2} {location} }}")).start().await;
    let (one, two) = (nginx.client(), harness::Client::h2c(&format!("http://127.0.0.1:{port}")));
    let answers = load::closed(1000, 8, move |number| {
        let client = if number % 3 == 0 { two.clone() } else { one.clone() };
        async move {
            let method = if number % 2 == 0 { Method::GET } else { Method::POST };
            client.call(method, "/").body("same").must().await
        }
    })
    .await;
    let (mut hashes, mut keys) = (HashSet::new(), HashSet::new());
    for answer in &answers {
        assert_eq!((answer.status, answer.header("x-uncacheable")), (200, "1"));
        assert!(is_token(answer.header("x-hash")) && digests::is_cache_key(answer.header("x-key")));
        assert!(hashes.insert(answer.header("x-hash").to_owned()), "a token came twice");
        assert!(keys.insert(answer.header("x-key").to_owned()), "a key came twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_made_one_way_is_none_where_another_is_asked_for() {
    let main = Replica::named("main").start().await;
    let dead = "proxy_pass http://127.0.0.1:1; error_page 502 =";
    let nginx = hashing(&main)
        .server(format!("location = /blake3 {{ {dead} @sha256; }}"))
        .server(format!("location = /off {{ pincer_body_hash off; {dead} @blake3; }}"))
        .server(format!("location = /same {{ pincer_body_hash blake3 form=raw; {dead} @blake3; }}"))
        .server("location @sha256 { pincer_body_hash sha256; proxy_pass http://main; }")
        .server("location @blake3 { proxy_pass http://main; }")
        .start()
        .await;
    for path in ["/blake3", "/off"] {
        let answer = Upload::post(path, "body").send(&nginx.address()).await;
        assert_eq!((answer.status, answer.header("x-uncacheable")), (200, "1"), "{path}");
        assert!(is_token(answer.header("x-hash")) && answer.header("x-hash") != blake3(b"body"), "{path}");
    }
    assert_eq!(Upload::post("/same", "body").send(&nginx.address()).await.header("x-hash"), blake3(b"body"));
}

/// What the latest request to `replica` carried in `X-Body-Hash`.
fn told(replica: &Replica) -> String {
    replica.seen().headers.get("x-body-hash").cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn subrequests_have_the_digest_of_the_body_that_they_pass_on() {
    let (main, sub) = (Replica::named("main").start().await, Replica::named("sub").start().await);
    let nginx = hashing(&main)
        .http(format!("upstream sub {{ server {}; }} proxy_set_header X-Body-Hash $pincer_body_hash;", sub.server()))
        .server(
            "client_body_buffer_size 4k;
             location = /mirror { mirror /sub; proxy_pass http://main; }
             location = /without { mirror /bare; mirror_request_body off; proxy_pass http://main; }
             location = /auth { auth_request /bare; proxy_pass http://main; }
             location = /after { add_after_body /sub; addition_types *; proxy_pass http://main; }
             location = /ssi { ssi on; ssi_types *; proxy_pass http://main/echo; }
             location = /sub { internal; proxy_pass http://sub; }
             location = /bare { internal; proxy_pass http://sub; proxy_pass_request_body off; proxy_set_header Content-Length \"\";
                 proxy_set_header X-Body-Hash $pincer_body_hash; }",
        )
        .start()
        .await;
    let mut tokens = HashSet::new();
    for (count, len) in [20, 100_000].into_iter().enumerate() {
        let body = [b"<!--# include virtual=\"/sub\" -->".as_slice(), &noise(len, 0)].concat();
        for path in ["/mirror", "/without", "/auth", "/after", "/ssi"] {
            sub.forget();
            let answer = Upload::post(path, body.clone()).send(&nginx.address()).await;
            assert_eq!((answer.status, answer.header("x-hash")), (200, blake3(&body).as_str()), "{path} {count}");
            eventually("the subrequest arrives", 5.0, || async { sub.seen().requests == 1 }).await;
            if ["/without", "/auth"].contains(&path) {
                assert!(is_token(&told(&sub)) && tokens.insert(told(&sub)), "{path}: {}", told(&sub));
                assert_ne!(told(&sub), blake3(&body), "{path}: the body does not go there");
            } else {
                assert_eq!(told(&sub), blake3(&body), "{path}");
            }
        }
    }
    sub.forget();
    let _ = Upload::new("GET", "/auth", "").send(&nginx.address()).await;
    assert_eq!(told(&sub), blake3(b""), "a request without a body has one identity, in subrequests too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_at_another_peer_sends_and_names_the_same_body() {
    let replicas = Replica::several(2, Settings::default()).await;
    replicas[0].fault(Fault::Status(500)).await;
    for buffering in ["on", "off"] {
        let nginx = hashing(&replicas[0])
            .http(format!("upstream u {{ pincer_balance; {} }}", conf::servers(Replica::servers(&replicas), "")))
            .server(format!(
                "client_body_buffer_size 4k; location / {{ proxy_next_upstream error http_500 non_idempotent; proxy_request_buffering {buffering};
                 proxy_http_version 1.1; proxy_pass http://u; }}"
            ))
            .start()
            .await;
        for number in 0..20 {
            let body = noise(if number % 2 == 0 { 100 } else { 80_000 }, number);
            let answer = Upload::post("/echo", body.clone()).chunked([7]).send(&nginx.address()).await;
            assert_eq!((answer.status, answer.header("x-replica")), (200, "b"), "{}", nginx.tail());
            assert!(answer.header("x-hash") == blake3(&body) && answer.body == body);
        }
    }
    assert!(replicas[0].seen().requests > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_share_a_connection_share_nothing_else() {
    let main = Replica::named("main").start().await;
    let nginx =
        hashing(&main).server("client_body_buffer_size 4k; location / { proxy_pass http://main; }").start().await;
    let mut wire = Vec::new();
    let mut bodies = Vec::new();
    for number in 0..60 {
        let body = noise([0, 1, 900, 3_000, 30_000][number % 5], number);
        let mut upload = Upload::post("/echo", body.clone());
        if number % 2 == 0 {
            upload = upload.chunked([2, 500]);
        }
        wire.extend_from_slice(upload.head().as_bytes());
        wire.extend_from_slice(&upload.wire());
        bodies.push(body);
    }
    let last = Upload::new("GET", "/echo", "").header("Connection", "close");
    wire.extend_from_slice(last.head().as_bytes());
    bodies.push(Bytes::new());
    // All at once: nginx finds the next request behind each body.
    let mut stream = TcpStream::connect(nginx.address()).await.expect("a connection");
    let (mut reading, mut writing) = stream.split();
    let mut received = Vec::new();
    let (sent, read) = tokio::join!(writing.write_all(&wire), reading.read_to_end(&mut received));
    sent.and(read.map(drop)).expect("an exchange");
    let mut at = 0;
    for (number, body) in bodies.iter().enumerate() {
        let (answer, taken) = Answer::parse(&received[at..]).unwrap_or_else(|| panic!("no answer {number}"));
        at += taken;
        assert_eq!((answer.status, answer.header("x-hash")), (200, blake3(body).as_str()), "answer {number}");
        assert!(answer.body == *body, "answer {number}");
    }
    assert_eq!(at, received.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_send_a_body_before_access_is_granted() {
    let main = Replica::named("main").start().await;
    let nginx = hashing(&main)
        .server(
            "proxy_request_buffering off; proxy_http_version 1.1; location / { proxy_pass http://main; }
            location /denied { deny all; proxy_pass http://main; }",
        )
        .start()
        .await;
    for (path, asked, status) in [("/denied", false, "403"), ("/open", true, "200")] {
        let upload = Upload::post(path, "body").header("Expect", "100-continue");
        let mut received = Vec::new();
        let _ = upload.begin(&nginx.address()).await.read_to_end(&mut received).await;
        let text = String::from_utf8_lossy(&received);
        assert_eq!(text.contains("100 Continue"), asked, "{text}");
        assert!(text.contains(&format!("HTTP/1.1 {status}")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_by_dav_still_become_files() {
    let main = Replica::named("main").start().await;
    let nginx =
        hashing(&main).server("client_body_buffer_size 4k; location / { root cache; dav_methods PUT; }").start().await;
    for len in [0, 100, 50_000] {
        let answer = Upload::new("PUT", &format!("/{len}"), noise(len, 0)).header("Content-Length", &len.to_string());
        assert_eq!(answer.send(&nginx.address()).await.status, 201, "{len}");
        assert_eq!(std::fs::read(nginx.path(&format!("cache/{len}"))).expect("the file"), noise(len, 0));
    }
}
