//! The same images and prompts again and again, without a cache and with one that knows them by
//! their bodies; then the wrong answer of nginx's own key.
//!
//! Each part has replicas of its own. "With" is the configuration of `nginx-conf/` as it stands
//! there. Ends within seconds.

use std::fmt::Write;
use std::time::{Duration, Instant};

use harness::replica::Settings;
use harness::{Client, Nginx, Replica, Reply, conf, load};
use hyper::Method;

/// Clients that each send a request when they have the answer to the last.
const CLIENTS: usize = 12;
/// Requests of images, and different images among them.
const IMAGES: (usize, usize) = (120, 12);
/// Requests of prompts, and different prompts among them.
const PROMPTS: (usize, usize) = (60, 6);
/// Bytes of an image, and of the bodies whose answers are mixed up.
const IMAGE_BYTES: usize = 200_000;

/// What some requests took.
struct Outcome {
    calls: u64,
    time: Duration,
    failed: usize,
}

/// Shows it all.
pub async fn show() {
    let (requests, different) = IMAGES;
    println!("  {requests} uploads of {different} images, each in a form with a boundary of its own:");
    let settings = Settings { slots: 4, ..Settings::served_in(150.0) };
    compare("image-cache.conf", "/var/cache/nginx-images", settings, requests, upload).await;
    let (requests, different) = PROMPTS;
    println!("  {requests} streamed chat completions of {different} prompts, in JSON of different spelling:");
    let settings = Settings { slots: 8, tokens: 10, ..Settings::chat(100.0, 30.0) };
    compare("prompt-cache.conf", "/var/cache/nginx-prompts", settings, requests, complete).await;
    wrong_answer().await;
}

/// The same requests to replicas without a cache and with the one of the configuration called
/// `name`, which is kept at `kept`.
async fn compare<Fut>(name: &str, kept: &str, settings: Settings, requests: usize, job: fn(Client, usize) -> Fut)
where
    Fut: Future<Output = Reply> + Send + 'static,
{
    let replicas = Replica::several(2, settings.clone()).await;
    let servers = conf::servers(Replica::servers(&replicas), "");
    let nginx = Nginx::builder()
        .stock()
        .http(format!("client_max_body_size 20m; upstream replicas {{ {servers} keepalive 32; }}"))
        .server("location / { proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection \"\"; }")
        .start()
        .await;
    print("without a cache", requests, &run(&nginx, &replicas, requests, job).await);
    let replicas = Replica::several(2, settings).await;
    let places = [("127.0.0.1:9001", replicas[0].server()), ("127.0.0.1:9002", replicas[1].server())];
    let replacements = [&places[..], &[(kept, "cache/kept"), ("worker_processes auto", "worker_processes 1")]].concat();
    let nginx = Nginx::builder().example(name, &replacements).start().await;
    print(&format!("nginx-conf/{name}"), requests, &run(&nginx, &replicas, requests, job).await);
    println!();
}

async fn run<Fut>(nginx: &Nginx, replicas: &[Replica], requests: usize, job: fn(Client, usize) -> Fut) -> Outcome
where
    Fut: Future<Output = Reply> + Send + 'static,
{
    let (client, start) = (nginx.client(), Instant::now());
    let replies = load::closed(requests, CLIENTS, move |number| job(client.clone(), number)).await;
    Outcome {
        calls: replicas.iter().map(|replica| replica.seen().requests).sum(),
        time: start.elapsed(),
        failed: replies.iter().filter(|reply| reply.status != 200).count(),
    }
}

fn print(name: &str, requests: usize, outcome: &Outcome) {
    let Outcome { calls, time, failed } = outcome;
    let saved = 100.0 - 100.0 * f64::from(u32::try_from(*calls).unwrap_or(0)) / requests as f64;
    println!(
        "    {name:<30} {calls:>4} calls of a replica, {saved:>3.0} % saved   {:>5.2} s   {failed} failed",
        time.as_secs_f64()
    );
}

/// One of the images, in a form.
async fn upload(client: Client, number: usize) -> Reply {
    let image = vec![u8::try_from(number % IMAGES.1).unwrap_or(0); IMAGE_BYTES];
    let head = format!("--edge{number}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"i.jpg\"\r\n\r\n");
    let body = [head.as_bytes(), &image, format!("\r\n--edge{number}--\r\n").as_bytes()].concat();
    let kind = format!("multipart/form-data; boundary=edge{number}");
    client.call(Method::POST, "/predict").header("content-type", kind).body(body).must().await
}

/// One of the prompts, from one of many users.
async fn complete(client: Client, number: usize) -> Reply {
    let (prompt, mut body) = (number % PROMPTS.1, String::new());
    let messages = format!(r#"[{{"role":"user","content":"question {prompt}"}}]"#);
    // Writing to a String cannot fail.
    let _ = match number % 3 {
        0 => write!(body, r#"{{"stream":true,"messages":{messages},"user":"u{number}"}}"#),
        1 => write!(body, r#"{{"user":"u{number}", "messages": {messages}, "stream": true}}"#),
        _ => write!(body, "{{\n  \"messages\": {messages},\n  \"stream\": true\n}}"),
    };
    let call = client.call(Method::POST, "/v1/chat/completions").header("authorization", "Bearer key-of-a");
    call.header("content-type", "application/json").body(body).must().await
}

/// Two different bodies too large for nginx's buffer, by nginx's own key and by Pincer's.
async fn wrong_answer() {
    let replica = Replica::named("echo").start().await;
    let cached = "proxy_cache kept; proxy_cache_methods POST; proxy_cache_valid 200 1h;
        add_header X-Cache $upstream_cache_status;";
    let (place, size) = (replica.server(), IMAGE_BYTES / 1000);
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m; proxy_cache_path cache/kept keys_zone=kept:1m;")
        .server(format!(
            "location = /stock {{ proxy_pass http://{place}/echo; proxy_cache_key $request_uri$request_body; {cached} }}
            location = /pincer {{ proxy_pass http://{place}/echo; pincer_body_hash blake3;
                proxy_cache_key $pincer_cache_key; {cached} }}"
        ))
        .start()
        .await;
    println!("  Two different bodies of {size} KB to a replica that sends them back:");
    let client = nginx.client();
    for (path, key) in [("/stock", "proxy_cache_key $request_body"), ("/pincer", "proxy_cache_key $pincer_cache_key")] {
        let mut line = format!("    {key:<34}");
        for sent in ["cat", "dog"] {
            let reply = client.post(path, sent.repeat(IMAGE_BYTES / 3)).await;
            let got = reply.text().chars().take(3).collect::<String>();
            let verdict = if got == sent { "right" } else { "WRONG" };
            let _ = write!(line, "  sent {sent}, got {got} ({}): {verdict}", reply.header("x-cache"));
        }
        println!("{line}");
    }
}
