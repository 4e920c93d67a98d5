//! Each configuration of `nginx-conf/` loads as it is written and does what its comments say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::client::{raw, sse, ws};
use harness::metrics::Metrics;
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, Reply, eventually, load, paths, stats};
use hyper::Method;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Replacements of `127.0.0.1:9001` and so on by these replicas.
fn places(replicas: &[Replica]) -> Vec<(String, String)> {
    (9001..).zip(replicas).map(|(port, replica)| (format!("127.0.0.1:{port}"), replica.server().to_owned())).collect()
}

fn borrowed(replacements: &[(String, String)]) -> Vec<(&str, &str)> {
    replacements.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect()
}

#[test]
fn every_configuration_is_tested_here() {
    let tests = std::fs::read_to_string(paths::repository().join("tests/nginx_conf.rs")).expect("this file");
    for entry in std::fs::read_dir(paths::repository().join("nginx-conf")).expect("nginx-conf").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        assert!(tests.contains(&format!("example(\"{name}\"")), "{name} has no test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn balance_conf_queues_retries_and_logs() {
    let replicas = Replica::several(4, Settings::served_in(5.0)).await;
    let nginx = Nginx::builder().example("balance.conf", &borrowed(&places(&replicas))).start().await;
    replicas[1].fault(Fault::Status(503)).await;
    let client = nginx.client();
    let replies = load::closed(300, 30, move |_| {
        let client = client.clone();
        async move { client.post("/predict", vec![0; 2_000_000]).await }
    })
    .await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    for (replica, slots) in replicas.iter().zip([4, 4, 2, 2]) {
        assert!(replica.seen().running_max <= slots, "{}: {}", replica.name(), replica.seen().running_max);
    }
    let lines = nginx.logged(300).await;
    assert!(
        lines.iter().all(|line| line.contains(" 200 upstream=127.0.0.1:") && line.contains("first_byte=")),
        "{}",
        lines[0]
    );
    assert_eq!(nginx.status().await.upstream("inference").number("/queue/size"), 500.0);
    assert!(nginx.metrics().await.contains("pincer_queue_wait_seconds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_conf_passes_tokens_as_they_come_and_websockets() {
    let replicas = Replica::several(3, Settings::chat(40.0, 30.0)).await;
    replicas[1].change(|settings| settings.ttft_ms = 900.0);
    let nginx = Nginx::builder().example("streaming.conf", &borrowed(&places(&replicas))).start().await;
    let client = nginx.client();
    let streams = load::closed(60, 3, move |_| {
        let client = client.clone();
        async move { sse::chat(&client, "/v1/chat/completions", 4, 1.0).await.expect("a stream") }
    })
    .await;
    assert!(streams.iter().all(|stream| stream.done && stream.events.len() == 4));
    let spread = |stream: &sse::Stream| stream.events[3].saturating_sub(stream.events[0]);
    assert!(streams.iter().all(|stream| spread(stream) >= ms(60)), "tokens come one by one");
    let late = streams.iter().filter(|stream| stream.replica == "b").count();
    assert!(late <= 8, "{late} of 60 had to wait for the late one");
    assert_eq!(replicas[2].seen().requests, 0, "the backup");
    let mut socket = ws::Socket::open(&nginx.url(), "/ws").await.expect("a WebSocket");
    assert!(socket.hear().await.is_some());
    socket.say("hello").await;
    assert_eq!(socket.hear().await.as_deref(), Some("hello"));
    socket.close().await;
    nginx.client().get("/v1/models").await;
    let log = nginx.path("logs/access.log");
    eventually("the list of models took no slot", 10.0, || async {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines().any(|line| line.contains("GET /v1/models") && line.ends_with("reason=no_slot"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_conf_follows_the_control_plane() {
    let replicas = Replica::several(4, Settings::served_in(10.0)).await;
    let added = Replica::named("added").service(ms(10)).start().await;
    let pincerd = Pincerd::start().await;
    let (endpoint, dev) = (pincerd.endpoint(), format!("{}/", pincerd.dev().display()));
    let mut replacements = places(&replicas);
    for (from, to) in [
        ("pincer_control_plane 127.0.0.1:9443", format!("pincer_control_plane {endpoint}")),
        ("/etc/pincer/", dev),
        ("/var/lib/pincer/", "state/".to_owned()),
        ("pincer_allow_peers 10.0.0.0/8", "pincer_allow_peers 127.0.0.0/8".to_owned()),
    ] {
        replacements.push((from.to_owned(), to));
    }
    let nginx = Nginx::builder().example("live.conf", &borrowed(&replacements)).start().await;
    eventually("the control plane is connected", 10.0, || async {
        nginx.status().await.0["control_plane"]["connected"] == true
    })
    .await;
    let client = nginx.client();
    let shares = || async { load::shares(&load::gets(&client, "/", 200, 1).await) };
    let even = shares().await;
    assert!(even.values().all(|count| (30..=70).contains(count)), "{even:?}");
    let before = nginx.status().await.number("/revision");
    pincerd.must(&["--wait", "5s", "peer", "set", "chat", replicas[0].server(), "--weight", "9"]).await;
    let weighted = shares().await;
    assert!((135..=165).contains(&weighted["a"]), "nine in twelve: {weighted:?}");
    pincerd.must(&["--wait", "5s", "peer", "set", "chat", replicas[0].server(), "--state", "draining"]).await;
    let drained = shares().await;
    assert!(!drained.contains_key("a"), "{drained:?}");
    pincerd.must(&["--wait", "5s", "peer", "add", "chat", added.server(), "--max-conns", "4"]).await;
    let grown = shares().await;
    assert!(grown["added"] >= 20, "{grown:?}");
    assert_eq!(nginx.status().await.number("/revision"), before + 3.0);
    let lines = nginx.logged(800).await;
    assert!(lines[799].ends_with(&format!("revision={}", before + 3.0)), "{}", lines[799]);
}

/// Replacements of a configuration with a cache.
fn with_cache(replicas: &[Replica], cache: &'static str) -> Vec<(String, String)> {
    let mut replacements = places(replicas);
    replacements.push((cache.to_owned(), "cache/kept".to_owned()));
    replacements
}

fn requests(replicas: &[Replica]) -> u64 {
    replicas.iter().map(|replica| replica.seen().requests).sum()
}

/// A form with one file.
async fn upload(client: &Client, boundary: &str, file_name: &str, image: &[u8]) -> Reply {
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{file_name}\"\r\nContent-Type: image/jpeg\r\n\r\n"
    );
    let body = [head.as_bytes(), image, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
    let kind = format!("multipart/form-data; boundary={boundary}");
    client.call(Method::POST, "/predict").header("content-type", kind).body(body).must().await
}

#[tokio::test(flavor = "multi_thread")]
async fn image_cache_conf_answers_the_same_image_once_raw_or_in_a_form() {
    let replicas = Replica::several(2, Settings::served_in(5.0)).await;
    let replacements = with_cache(&replicas, "/var/cache/nginx-images");
    let nginx = Nginx::builder().example("image-cache.conf", &borrowed(&replacements)).start().await;
    let client = nginx.client();
    let [cat, dog] = [1, 2].map(|seed: u8| (0..400_000_u32).map(|i| (i % 251) as u8 ^ seed).collect::<Vec<u8>>());
    for (image, cached) in [(&cat, "MISS"), (&cat, "HIT"), (&dog, "MISS"), (&dog, "HIT"), (&cat, "HIT")] {
        let reply = client.post("/predict", image.clone()).await;
        assert_eq!((reply.status, reply.header("x-cache")), (200, cached), "{}", nginx.tail());
    }
    assert_eq!(requests(&replicas), 2);
    let uploads = [
        ("----a1b2", "cat.jpg", &cat, "MISS"),
        ("another--boundary", "cat.jpg", &cat, "HIT"),
        ("----a1b2", "cat.jpg", &dog, "MISS"),
        ("yet-another", "tom.jpg", &cat, "MISS"),
        ("and-one-more", "cat.jpg", &dog, "HIT"),
    ];
    for (boundary, file_name, image, cached) in uploads {
        let reply = upload(&client, boundary, file_name, image).await;
        assert_eq!((reply.status, reply.header("x-cache")), (200, cached), "{file_name} in {boundary}");
    }
    assert_eq!(requests(&replicas), 5);
    // A request is counted when it has been logged, which is after its answer.
    for count in
        ["pincer_cache_requests_total{status=\"hit\"} 5", "digests_total{algorithm=\"blake3\",form=\"multipart\"} 5"]
    {
        eventually(count, 5.0, || async { nginx.metrics().await.contains(count) }).await;
    }
}

/// Asks for a completion as a tenant.
async fn prompt(client: &Client, key: &str, body: &str) -> Reply {
    let call = client.call(Method::POST, "/v1/chat/completions").header("authorization", format!("Bearer {key}"));
    call.header("content-type", "application/json").body(body.to_owned()).must().await
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_cache_conf_replays_streams_byte_for_byte() {
    let replicas = Replica::several(2, Settings::chat(40.0, 60.0)).await;
    let replacements = with_cache(&replicas, "/var/cache/nginx-prompts");
    let nginx = Nginx::builder().example("prompt-cache.conf", &borrowed(&replacements)).start().await;
    let client = nginx.client();
    let stream = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":6,"stream":true,"user":"one"}"#;
    let first = prompt(&client, "key-of-a", stream).await;
    assert_eq!((first.status, first.header("x-cache")), (200, "MISS"), "{}", nginx.tail());
    assert!(first.text().ends_with("data: [DONE]\n\n"), "{}", first.text());
    assert!(first.total_time >= first.first_byte_time + ms(200), "tokens come one by one: {first:?}");
    let same = r#"{ "user": "two", "stream": true, "max_tokens": 6,
                    "messages": [ { "content": "h\u0069", "role": "user" } ], "metadata": {"trace": 7} }"#;
    let replayed = prompt(&client, "key-of-a", same).await;
    assert_eq!((replayed.header("x-cache"), replayed.header("content-type")), ("HIT", "text/event-stream"));
    assert_eq!(replayed.body, first.body);
    let others = [
        ("key-of-a", stream.replace("true", "false"), "MISS"),
        ("key-of-a", stream.replace("true", "false"), "HIT"),
        ("key-of-a", stream.replace("hi", "ho"), "MISS"),
        ("key-of-b", stream.to_owned(), "MISS"),
    ];
    for (key, body, cached) in others {
        let reply = prompt(&client, key, &body).await;
        let kind = if body.contains("true") { "text/event-stream" } else { "application/json" };
        assert_eq!((reply.header("x-cache"), reply.header("content-type")), (cached, kind), "{key} {body}");
    }
    assert_eq!(requests(&replicas), 4);
    assert_eq!(prompt(&client, "key-of-nobody", stream).await.status, 401);
    let call = client.call(Method::POST, "/v1/chat/completions").header("authorization", "Bearer key-of-a");
    let anew = call.header("cache-control", "no-cache").body(stream).must().await;
    assert_eq!((anew.status, anew.header("x-cache")), (200, "BYPASS"));
    // Directives are the same in any case (RFC 9111, section 5.2).
    for (number, (control, cached)) in
        [("no-store", "MISS"), ("No-Store", "MISS"), ("max-age=0, NO-CACHE", "HIT")].into_iter().enumerate()
    {
        let body = stream.replace("hi", &format!("hi {number}"));
        let call = client.call(Method::POST, "/v1/chat/completions").header("authorization", "Bearer key-of-a");
        let anew = call
            .header("content-type", "application/json")
            .header("cache-control", control)
            .body(body.clone())
            .must()
            .await;
        let next = prompt(&client, "key-of-a", &body).await;
        assert_eq!((anew.header("x-cache"), next.header("x-cache")), ("BYPASS", cached), "{control}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_cache_conf_generates_a_hundred_identical_prompts_once_and_keeps_no_broken_stream() {
    let replicas = Replica::several(2, Settings::chat(100.0, 20.0)).await;
    let replacements = with_cache(&replicas, "/var/cache/nginx-prompts");
    let nginx = Nginx::builder().example("prompt-cache.conf", &borrowed(&replacements)).start().await;
    let client = nginx.client();
    const PROMPT: &str = r#"{"messages":[{"role":"user","content":"the same"}],"stream":true}"#;
    let asked = client.clone();
    let replies = load::closed(100, 100, move |_| {
        let client = asked.clone();
        async move { prompt(&client, "key-of-a", PROMPT).await }
    })
    .await;
    assert_eq!(requests(&replicas), 1);
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == replies[0].body));
    for replica in &replicas {
        replica.fault(Fault::Cut).await;
    }
    let other = PROMPT.replace("same", "cut");
    let call = client.call(Method::POST, "/v1/chat/completions").header("authorization", "Bearer key-of-a");
    assert!(call.header("content-type", "application/json").body(other.clone()).send().await.is_err());
    for replica in &replicas {
        replica.fault(Fault::None).await;
    }
    let whole = prompt(&client, "key-of-a", &other).await;
    assert_eq!(whole.header("x-cache"), "MISS");
    assert!(whole.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(prompt(&client, "key-of-a", &other).await.body, whole.body);
}

/// `vip.conf` fed by `pincerd`, connected.
async fn vip_conf(pincerd: &Pincerd, replicas: &[Replica]) -> Nginx {
    let (endpoint, dev) = (pincerd.endpoint(), format!("{}/", pincerd.dev().display()));
    let mut replacements = places(replicas);
    for (from, to) in [
        ("pincer_control_plane 127.0.0.1:9443", format!("pincer_control_plane {endpoint}")),
        ("/etc/nginx/pincer/", dev),
        ("/var/lib/pincer/", "state/".to_owned()),
        ("worker_processes auto", "worker_processes 2".to_owned()),
    ] {
        replacements.push((from.to_owned(), to));
    }
    let nginx = Nginx::builder().workers(2).example("vip.conf", &borrowed(&replacements)).start().await;
    nginx.connected().await;
    nginx
}

/// The secret of a new API key, in force.
async fn new_key(pincerd: &Pincerd, tenant: &str, class: &str) -> String {
    let made = pincerd.json(&["--wait", "5s", "key", "create", "--tenant", tenant, "--class", class]).await;
    made["secret"].as_str().expect("a secret").to_owned()
}

/// Asks with an API key, or with none when it is empty.
async fn asked_by(client: &Client, key: &str, id: &str) -> Reply {
    let call = client.call(Method::GET, "/").header("x-id", id);
    if key.is_empty() { call.must().await } else { call.header("authorization", format!("Bearer {key}")).must().await }
}

/// How many of `count` requests one after the other are let in, the others being told when to come
/// back, and in what time.
async fn let_in(client: &Client, key: &str, count: u32) -> (u32, f64) {
    let start = Instant::now();
    let mut passed = 0;
    for _ in 0..count {
        let reply = asked_by(client, key, "").await;
        passed += u32::from(reply.status == 200);
        let told = ["retry-after", "ratelimit", "x-ratelimit-limit-requests"].map(|name| reply.header(name).is_empty());
        assert!(reply.status == 200 || (reply.status == 429 && told == [false; 3]), "{reply:?}");
    }
    (passed, start.elapsed().as_secs_f64())
}

/// That exactly the burst and what the rate earns meanwhile is let in.
async fn assert_let_in(client: &Client, key: &str, rate_per_s: f64, burst: f64, what: &str) {
    let (passed, time_s) = let_in(client, key, 80).await;
    let most = burst + 1.0 + rate_per_s * time_s;
    assert!((burst + 1.0..=most).contains(&f64::from(passed)), "{what}: {passed} in {time_s} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn vip_conf_holds_every_caller_to_his_class_and_gives_vips_more() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::default()).await;
    let nginx = vip_conf(&pincerd, &replicas).await;
    let [vip, tenant] = [("acme", "vip"), ("small", "default")].map(|(name, class)| new_key(&pincerd, name, class));
    let (vip, tenant) = (vip.await, tenant.await);
    let client = nginx.client();
    assert_let_in(&client, "", 10.0, 20.0, "without a key").await;
    assert_let_in(&client, &tenant, 10.0, 20.0, "a tenant's requests count for him alone").await;
    assert_eq!(let_in(&client, &vip, 150).await.0, 150, "all of the VIP's, twenty times as many at once");
    let limit = |reply: &str| reply.lines().find(|line| line.starts_with("x-ratelimit-limit")).map(str::to_owned);
    let headers_of = async |headers: &[(&str, &str)]| {
        let sent = raw::send(&nginx.address(), "/", headers).await;
        limit(&sent.read_all().await.to_ascii_lowercase()).expect("a limit")
    };
    let (of_vip, of_others) = (headers_of(&[("Authorization", &format!("Bearer {vip}"))]).await, headers_of(&[]).await);
    assert_ne!(of_vip, of_others);
    for forged in ["X-Pincer-Class: vip", "x-pincer-class: vip", "X-Pincer-Tenant: acme", "Authorization: Bearer pk_x"]
    {
        let forged = forged.split_once(": ").expect("a header");
        assert_eq!(headers_of(&[forged, ("X-Pincer-Class", "vip")]).await, of_others, "{forged:?}");
    }
    pincerd.must(&["--wait", "5s", "class", "set", "default", "--rate", "100r/s", "--burst", "60"]).await;
    let other = new_key(&pincerd, "other", "default").await;
    assert_let_in(&client, &other, 100.0, 60.0, "the class as it was changed").await;
    assert_eq!(nginx.status().await.class("default").text("/rate/effective"), "100r/s");
    let headers = [("X-Pincer-Class", "vip"), ("x-PINCER-class", "vip"), ("X-Pincer-Tenant", "acme")];
    let bearer = format!("Bearer {}", new_key(&pincerd, "third", "default").await);
    let sent = raw::send(&nginx.address(), "/", &[&headers[..], &[("Authorization", &bearer)]].concat()).await;
    assert_eq!(raw::status(&sent.read_all().await), 200);
    let told = |name: &str| {
        let heard = replicas.iter().filter_map(|replica| replica.seen().headers.get(name).cloned());
        heard.collect::<Vec<_>>()
    };
    assert!(told("x-pincer-tenant").contains(&"third".to_owned()), "{:?}", told("x-pincer-tenant"));
    assert!(told("x-pincer-class").contains(&"default".to_owned()), "{:?}", told("x-pincer-class"));
    assert!(told("authorization").is_empty(), "the key is of no use to replicas");
    let lines = nginx.logged(300).await;
    assert!(lines.iter().any(|line| line.contains(" 200 class=vip tenant=acme limit=PASSED ")), "{}", lines[0]);
    assert!(!lines.iter().any(|line| line.contains("pk_")), "a key in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn vip_conf_serves_vips_first_when_the_replicas_are_full_and_the_others_still() {
    const TENANTS: usize = 10;
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings { slots: 4, ..Settings::served_in(60.0) }).await;
    let nginx = vip_conf(&pincerd, &replicas).await;
    let vip = new_key(&pincerd, "acme", "vip").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tenants = tokio::task::JoinSet::new();
    for number in 0..TENANTS {
        let key = new_key(&pincerd, &format!("tenant-{number}"), "default").await;
        for _ in 0..4 {
            let (client, key, stop) = (nginx.client(), key.clone(), Arc::clone(&stop));
            tenants.spawn(async move {
                let mut replies = Vec::new();
                while !stop.load(SeqCst) {
                    let reply = asked_by(&client, &key, "free").await;
                    if reply.status == 429 {
                        tokio::time::sleep(ms(20)).await;
                    }
                    replies.push(reply);
                }
                replies
            });
        }
    }
    eventually("the tenants queue", 10.0, || async { nginx.status().await.waiting() >= 20 }).await;
    for replica in &replicas {
        replica.forget();
    }
    let client = nginx.client();
    let vips = load::closed(200, 24, move |_| {
        let (client, vip) = (client.clone(), vip.clone());
        async move { asked_by(&client, &vip, "vip").await }
    })
    .await;
    let order: Vec<String> = replicas.iter().flat_map(|replica| replica.seen().order).collect();
    stop.store(true, SeqCst);
    let free = tenants.join_all().await.concat();
    assert!(vips.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    assert!(free.iter().all(|reply| [200, 429].contains(&reply.status)), "{}", nginx.tail());
    let served = order.iter().filter(|id| *id == "free").count();
    assert!((8..=60).contains(&served), "a twentieth at least, and not many more: {served} of {}", order.len());
    let times = |replies: &[Reply]| -> Vec<Duration> {
        replies.iter().filter(|reply| reply.status == 200).map(|reply| reply.total_time).collect()
    };
    let (first, then) = (stats::percentile_s(&times(&vips), 50.0), stats::percentile_s(&times(&free), 75.0));
    assert!(first * 2.0 < then, "VIPs take {first} s, the others {then} s");
    assert!(replicas.iter().all(|replica| replica.seen().running_max <= 4));
    let metrics = Metrics::read(&nginx.metrics().await);
    assert!(metrics.faults().is_empty(), "{:#?}", metrics.faults());
    let of = |name: &str, class: &str| metrics.sum(name, &[("class", class)]);
    assert_eq!(metrics.sum("pincer_class_requests_total", &[("class", "vip"), ("result", "passed")]), 200.0);
    assert!(metrics.sum("pincer_class_requests_total", &[("class", "default"), ("result", "passed")]) > 20.0);
    for class in ["vip", "default"] {
        assert!(of("pincer_class_queue_wait_seconds_count", class) > 20.0, "{class}");
        assert!(of("pincer_class_sent_bytes_total", class) > 300.0, "{class}");
    }
    let status = nginx.status().await;
    assert_eq!((status.class("vip").number("/in_flight"), status.class("default").number("/in_flight")), (0.0, 0.0));
}
