//! nginx's own cache with `$pincer_cache_key`: what is the same is answered once, what differs in
//! anything is never mixed up, whoever asks at the same time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::client::upload::Upload;
use harness::nginx::{Builder, CACHE};
use harness::pki::Pki;
use harness::replica::Settings;
use harness::{Nginx, Replica, digests, eventually, load, ports};
use hyper::Method;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

const CACHED: &str = "pincer_body_hash blake3; proxy_cache c; proxy_cache_key $pincer_cache_key;
    proxy_cache_methods GET HEAD POST; proxy_cache_valid 200 10m; proxy_ignore_headers Cache-Control;
    proxy_no_cache $pincer_uncacheable; proxy_cache_bypass $pincer_uncacheable;
    add_header X-Cache $upstream_cache_status always; add_header X-Key $pincer_cache_key always;
    add_header X-Hash $pincer_body_hash always;";

fn caching(replica: &Replica) -> Builder {
    Nginx::builder().http(format!(
        "pincer_zone pincer:1m; {CACHE} {CACHED} client_max_body_size 0; upstream main {{ server {}; }}",
        replica.server()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_differs_between_two_requests_keeps_their_answers_apart() {
    let replica = Replica::named("a").start().await;
    let port = ports::free_port();
    let nginx = caching(&replica)
        .server(
            "location / { proxy_pass http://main; } location /sha256/ { pincer_body_hash sha256; proxy_pass http://main; }
             location /named/ { error_page 418 = @one; if ($http_x_to) { return 418; } proxy_pass http://main; }
             location @one { proxy_pass http://main; }
             location /chosen/ { proxy_pass http://$http_x_to; }
             location /anywhere/ { proxy_pass $http_x_to; }
             location /if/ { if ($http_x_to) { proxy_pass http://other; } proxy_pass http://main; }",
        )
        .http(format!("upstream other {{ server {}; }}", replica.server()))
        .http(["127.0.0.1:", "127.0.0.2:", "127.0.0.3:", ""].map(|address| {
            // The last is any other address of the same socket.
            format!("server {{ listen {address}{port}; location / {{ proxy_pass http://main; }} }}")
        }).concat())
        .start()
        .await;
    let here = nginx.address();
    let base = || Upload::post("/a?x=1", "body");
    let json = |upload: Upload| upload.header("Content-Type", "application/json");
    let requests = [
        ("the first", base()),
        ("another body", Upload::post("/a?x=1", "bodY")),
        ("a longer body", Upload::post("/a?x=1", "bodybody")),
        ("no body", Upload::post("/a?x=1", "")),
        ("another path", Upload::post("/b?x=1", "body")),
        ("other arguments", Upload::post("/a?x=2", "body")),
        ("more arguments", Upload::post("/a?x=1&y=", "body")),
        ("no arguments", Upload::post("/a", "body")),
        ("an empty argument list", Upload::post("/a?", "body")),
        ("another method", Upload::new("PUT", "/a?x=1", "body")),
        ("GET with a body", Upload::new("GET", "/a?x=1", "body")),
        ("GET", Upload::new("GET", "/a?x=1", "")),
        ("HEAD", Upload::new("HEAD", "/a?x=1", "")),
        ("a type", json(base())),
        ("another type", base().header("Content-Type", "application/json; charset=utf-8")),
        ("type and body differ as one text would not", base().header("Content-Type", "application/jsonbody")),
        ("two types", json(base()).header("Content-Type", "text/plain")),
        ("one type that looks like two", base().header("Content-Type", "application/json, text/plain")),
        ("a coding", base().header("Content-Encoding", "gzip")),
        ("another coding", base().header("Content-Encoding", "br")),
        ("a coding and a type", json(base()).header("Content-Encoding", "gzip")),
        ("another host", base().header("Host", "other.test")),
        ("the host's port", base().header("Host", "test:81")),
        ("another algorithm", Upload::post("/sha256/a", "body")),
        ("a location", Upload::post("/named/a", "body")),
        ("an upstream of a variable", Upload::post("/chosen/a", "body").header("X-To", "main")),
        ("another upstream of the same variable", Upload::post("/chosen/a", "body").header("X-To", "other")),
        ("a URI of a variable", Upload::post("/chosen/a", "body").header("X-To", "main/x")),
        ("another URI of the same variable", Upload::post("/chosen/a", "body").header("X-To", "main/y")),
        ("arguments of the same variable", Upload::post("/chosen/a", "body").header("X-To", "main?x")),
        ("an address of a variable", Upload::post("/chosen/a", "body").header("X-To", replica.server())),
        ("its URI", Upload::post("/chosen/a", "body").header("X-To", &format!("{}/x", replica.server()))),
        ("another one", Upload::post("/chosen/a", "body").header("X-To", &format!("{}/y", replica.server()))),
        ("a location with an if", Upload::post("/if/a", "body")),
        ("the if", Upload::post("/if/a", "body").header("X-To", "other")),
        ("a named location", Upload::post("/named/a", "body").header("X-To", "one")),
    ];
    let mut keys: HashMap<String, &str> = HashMap::new();
    for (what, request) in &requests {
        let answer = request.send(&here).await;
        assert_eq!(answer.status, 200, "{what}");
        // PUT is never cached.
        assert!(["MISS", ""].contains(&answer.header("x-cache")), "{what}: {}", answer.header("x-cache"));
        if let Some(other) = keys.insert(answer.header("x-key").to_owned(), what) {
            panic!("{what} has the key of {other}");
        }
    }
    // Nobody answers there, and each has a key of its own all the same, which the same request has
    // again.
    for to in ["https://main", "https://main/x", "http://unix:/none:/x", "http://unix:/none:/y", "http://127.0.0.1:1/x"]
    {
        let request = Upload::post("/anywhere/a", "body").header("X-To", to);
        let [once, again] = [request.send(&here).await, request.send(&here).await];
        assert_eq!((once.status, once.header("x-key")), (502, again.header("x-key")), "{to}");
        assert_eq!(keys.insert(once.header("x-key").to_owned(), to), None, "{to}");
    }
    for elsewhere in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        let answer = base().send(&format!("{elsewhere}:{port}")).await;
        assert_eq!(answer.header("x-cache"), "MISS", "{elsewhere}, another server, asked with this one's Host");
    }
    for (what, request) in requests.iter().filter(|(what, _)| *what != "another method") {
        assert_eq!(request.send(&here).await.header("x-cache"), "HIT", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_whose_key_knows_nothing_of_bodies_is_warned_of_once() {
    let replica = Replica::named("a").start().await;
    let nginx = caching(&replica)
        .workers(1)
        .server(
            "location /a/ { proxy_pass http://main; } location /b/ { proxy_cache_key $request_uri; proxy_pass http://main; }
             location /hash/ { proxy_cache_key $request_uri$pincer_body_hash; proxy_pass http://main; }",
        )
        .start()
        .await;
    let lines = || nginx.log().lines().filter(|line| line.contains("knows nothing of the body")).count();
    for (path, body) in [("/a/", "x"), ("/a/", "y"), ("/hash/", "x"), ("/b/", "")] {
        assert_eq!(Upload::post(path, body).send(&nginx.address()).await.status, 200);
    }
    assert_eq!(lines(), 0);
    for (path, body) in [("/b/", "x"), ("/b/?other", "y")] {
        assert_eq!(Upload::post(path, body).send(&nginx.address()).await.status, 200);
    }
    nginx.logs("pincer_body_hash\" is on in location \"/b/\"", 5.0).await;
    assert_eq!(lines(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_version_and_splits_make_no_difference() {
    let replica = Replica::named("a").start().await;
    let port = ports::free_port();
    let locations = "client_body_buffer_size 1k; location / { proxy_pass http://main; }
        location /early { proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://main; }";
    let h2 = harness::nginx::http2_listen(port);
    let nginx = caching(&replica).workers(2).server(format!("{h2} {locations}")).start().await;
    for path in ["/", "/early"] {
        for len in [0_usize, 1, 3_000, 200_000] {
            let body = Bytes::from(vec![b'x'; len]);
            let upload = Upload::post(path, body).header("Content-Type", "image/png");
            replica.forget();
            let mut keys = HashSet::new();
            for way in [
                upload.clone(),
                upload.clone().old(),
                upload.clone().chunked([1, 2, 900]),
                upload.clone().written([1, 10, 2000]),
            ] {
                keys.insert(way.send(&nginx.address()).await.header("x-key").to_owned());
            }
            assert_eq!((keys.len(), replica.seen().requests), (1, 1), "{path} {len}");
            let mut keys = HashSet::new();
            for way in [upload.clone(), upload.clone().chunked([]), upload.written([1, 1000])] {
                keys.insert(way.send_h2(&format!("127.0.0.1:{port}")).await.header("x-key").to_owned());
            }
            assert_eq!(keys.len(), 1, "{path} {len}: {keys:?}");
            assert!(replica.seen().requests <= 2, "{path} {len}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_identical_prompts_at_once_cost_one() {
    let replica = Replica::named("a").settings(Settings::chat(300.0, 20.0)).start().await;
    let nginx = caching(&replica)
        .workers(4)
        .listen("reuseport")
        .server("location / { proxy_cache_lock on; proxy_cache_lock_timeout 30s; proxy_cache_lock_age 30s; proxy_pass http://main; }")
        .start()
        .await;
    const PROMPTS: usize = 4;
    let client = harness::Client::single(&nginx.url());
    let replies = load::closed(100 * PROMPTS, 100, move |number| {
        let client = client.clone();
        async move {
            let prompt = number % PROMPTS;
            let body = format!(r#"{{"stream":true,"max_tokens":{},"messages":[]}}"#, 3 + prompt);
            let call = client.call(Method::POST, "/v1/chat/completions").header("content-type", "application/json");
            (prompt, call.body(body).must().await)
        }
    })
    .await;
    assert_eq!(replica.seen().requests, PROMPTS as u64);
    let mut first = HashMap::new();
    for (prompt, reply) in &replies {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.text().matches("data: {").count(), 3 + prompt);
        assert!(reply.text().ends_with("data: [DONE]\n\n"));
        let same: &Bytes = first.entry(*prompt).or_insert_with(|| reply.body.clone());
        assert!(*same == reply.body, "a cached stream is replayed byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_different_bodies_in_flight_at_once_are_not_mixed_up() {
    let replica = Replica::named("a").start().await;
    let nginx = caching(&replica)
        .workers(2)
        .server(
            "client_body_buffer_size 16k; location / { proxy_cache off; proxy_pass http://main; }
            location /cached/ { proxy_pass http://main/; }",
        )
        .start()
        .await;
    let mut noise = vec![0; 400_000];
    SmallRng::seed_from_u64(3).fill_bytes(&mut noise);
    let bodies: Arc<Vec<Bytes>> = Arc::new(
        (0..300_usize)
            .map(|number| Bytes::copy_from_slice(&noise[number..number + number * number % 300_007]))
            .collect(),
    );
    let expected = Arc::new(digests::independent("blake3", &bodies));
    for path in ["/echo", "/cached/echo"] {
        let (address, bodies, expected) = (nginx.address(), Arc::clone(&bodies), Arc::clone(&expected));
        let right = load::closed(900, 60, move |number| {
            let (address, body, expected) =
                (address.clone(), bodies[number % 300].clone(), expected[number % 300].clone());
            async move {
                let mut random = SmallRng::seed_from_u64(number as u64);
                let mut cuts: Vec<usize> = (0..6).map(|_| random.random_range(0..body.len() + 1)).collect();
                cuts.sort_unstable();
                let mut upload = Upload::post(path, body.clone()).written(cuts.clone());
                if number % 2 == 0 {
                    upload = upload.chunked(cuts);
                }
                let answer = upload.send(&address).await;
                answer.status == 200 && answer.header("x-hash") == expected && answer.body == body
            }
        })
        .await;
        assert!(right.iter().all(|right| *right), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_64_mb_is_hashed_beside_small_requests() {
    let replica = Replica::named("a").start().await;
    let nginx = caching(&replica).server("location / { proxy_pass http://main; }").start().await;
    let mut large = vec![0; 70 << 20];
    SmallRng::seed_from_u64(5).fill_bytes(&mut large);
    let large = Bytes::from(large);
    let upload = Upload::post("/predict", large.clone()).written((0..70).map(|mb| mb << 20));
    let address = nginx.address();
    let running = tokio::spawn(async move { upload.send(&address).await });
    let client = nginx.client();
    let mut beside = 0;
    while !running.is_finished() {
        let reply = client.post("/predict", format!("small {beside}")).await;
        assert_eq!((reply.status, reply.header("x-cache")), (200, "MISS"));
        beside += 1;
    }
    let answer = running.await.expect("an answer");
    assert_eq!(answer.header("x-hash"), digests::independent("blake3", &[&large])[0]);
    assert!(answer.text().contains(&format!("\"bytes\":{}", large.len())), "{}", answer.text());
    assert!(beside > 5, "{beside} small requests beside it");
    assert_eq!(Upload::post("/predict", large).send(&nginx.address()).await.header("x-cache"), "HIT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_faster_than_it_is_hashed_does_not_hold_up_the_worker() {
    let replica = Replica::named("a").start().await;
    let (port, pki) = (ports::free_port(), Pki::new());
    let (certificate, key) = pki.server();
    let nginx = caching(&replica)
        .workers(1)
        .server("location = /small { return 204; }")
        .http(format!(
            "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};
                location / {{ pincer_body_hash sha256; proxy_pass http://main; }} }}",
            certificate.display(),
            key.display()
        ))
        .start()
        .await;
    // Another nginx takes the upload into a file first and then sends it as fast as a client can.
    // (It does not free the TLS sessions it keeps when a worker ends, so it is to keep none.)
    let sender = format!(
        "client_max_body_size 0; proxy_ssl_session_reuse off; location / {{ proxy_pass https://127.0.0.1:{port}; }}"
    );
    let sender = Nginx::builder().stock().server(sender).start().await;
    let mut large = vec![0; 70 << 20];
    SmallRng::seed_from_u64(6).fill_bytes(&mut large);
    let large = Bytes::from(large);
    let (upload, address) = (Upload::post("/predict", large.clone()), sender.address());
    let start = Instant::now();
    let running = tokio::spawn(async move { upload.send(&address).await });
    let (client, mut longest) = (nginx.client(), Duration::ZERO);
    while !running.is_finished() {
        let reply = client.get("/small").await;
        assert_eq!(reply.status, 204);
        longest = longest.max(reply.total_time);
    }
    let (answer, all) = (running.await.expect("an answer"), start.elapsed());
    assert_eq!(answer.header("x-hash"), digests::independent("sha256", &[&large])[0]);
    assert!(longest * 5 < all, "a small request took {longest:?} of {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_is_renewed_in_the_background_under_its_own_key() {
    let replica = Replica::named("a").start().await;
    let nginx = caching(&replica)
        .server("location / { proxy_cache_valid 200 1s; proxy_cache_use_stale updating; proxy_cache_background_update on; proxy_pass http://main; }")
        .start()
        .await;
    let ask = || async { Upload::post("/echo", "prompt").send(&nginx.address()).await };
    assert_eq!(ask().await.header("x-cache"), "MISS");
    eventually("it is stale", 10.0, || async { ask().await.header("x-cache") == "STALE" }).await;
    eventually("it is fresh again", 10.0, || async { ask().await.header("x-cache") == "HIT" }).await;
    assert_eq!(ask().await.text(), "prompt");
    assert_eq!(nginx.cached_keys().len(), 1);
}

/// Everything that nginx and the module say at the lowest level, with marks in what nobody may read
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn no_body_and_no_key_text_reaches_a_log_at_any_level() {
    const MARK: &str = "MARKEDPROMPT";
    let replica = Replica::named("a").start().await;
    let nginx = caching(&replica)
        .main("error_log logs/debug.log debug; error_log logs/info.log info;")
        .server("access_log logs/access.log; client_max_body_size 4k;
            location / { client_body_buffer_size 1k; proxy_pass http://main; }
            location /json { client_body_buffer_size 1k; pincer_body_hash sha256 form=auto ignore=/user; proxy_pass http://main; }
            location /off { pincer_body_hash off; proxy_pass http://main; }
            location /early { proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://main; }")
        .start()
        .await;
    let bodies = [
        format!("{{\"a\":\"{MARK}\",\"user\":\"{MARK}\"}}"),
        format!("{{\"a\":\"{MARK}\",\"a\":1}} broken {MARK}"),
        format!("--x\r\nContent-Disposition: form-data; name=\"{MARK}\"\r\n\r\n{MARK}\r\n--x--\r\n"),
        MARK.repeat(200),
        MARK.repeat(1000),
    ];
    for path in ["/", "/json", "/off", "/early"] {
        for body in &bodies {
            for kind in ["application/json", "multipart/form-data; boundary=x"] {
                let upload = Upload::post(path, body.clone()).header("Content-Type", kind);
                upload.send(&nginx.address()).await;
                upload.clone().chunked([5, 700]).send(&nginx.address()).await;
                upload.cut_off(9).send(&nginx.address()).await;
            }
        }
    }
    nginx.reload().await;
    let mut read = 0;
    for entry in std::fs::read_dir(nginx.path("logs")).expect("logs").flatten() {
        let text = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()).into_owned();
        let name = entry.file_name().into_string().unwrap_or_default();
        read += text.len();
        if let Some(line) = text.lines().find(|line| line.contains(MARK)) {
            panic!("{name}: {line}");
        }
        // nginx's own line for a cache's key, at the debug level: ours is a hash, not what was
        // hashed.
        for line in text.lines().filter(|line| line.contains("http cache key:")) {
            let key = line.split('"').nth(1).unwrap_or_default();
            assert!(harness::digests::is_cache_key(key), "{name}: {line}");
        }
        if name == "debug.log" && harness::nginx::has_argument("--with-debug") {
            assert!(text.contains("http cache key:"), "the debug log says nothing");
        }
    }
    assert!(read > 1000);
    let metrics = nginx.metrics().await;
    assert!(!metrics.contains(MARK) && !nginx.status().await.0.to_string().contains(MARK));
}
