//! An nginx with caches that the control plane feeds, and looks at what these keep.

use std::fs;
use std::path::{Path, PathBuf};

use harness::client::Reply;
use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Nginx, Pincerd, Replica, eventually, limit};
use serde_json::Value;

pub const CACHES: &str = "
    proxy_cache_path cache/answers levels=1:2 keys_zone=answers:10m inactive=1h;
    proxy_cache_path cache/others keys_zone=others:1m inactive=1h use_temp_path=off;
    proxy_cache_path cache/varied levels=2 keys_zone=varied:1m inactive=1h;
    proxy_cache_valid 200 1h;
    proxy_cache_key $request_uri;
    add_header X-Cache $upstream_cache_status;
    server_tokens off;
    upstream origin { server unix:{{prefix}}/origin.sock; }
    upstream unused { server 127.0.0.1:1; }
    server {
        listen unix:{{prefix}}/origin.sock;
        location / { root files; try_files /generation =404; expires 1h; }
        location /varied/ { add_header Vary Accept-Language; return 200 \"$http_accept_language $request_id\"; }
        location /other/ { return 200 $request_id; }
    }";

pub const LOCATIONS: &str = "
    location / { proxy_pass http://origin; proxy_cache answers; }
    location /locked/ { proxy_pass http://origin; proxy_cache answers; proxy_cache_lock on; }
    location /slow/ { proxy_pass http://u/; proxy_cache answers; proxy_ignore_headers Cache-Control; }
    location /varied/ { proxy_pass http://origin; proxy_cache varied; }
    location /other/ { proxy_pass http://origin; proxy_cache others; }
    location = /ping { return 204; }";

/// An nginx with caches, fed by `pincerd`, over these replicas and an origin of its own.
pub fn caching(pincerd: &Pincerd, node: &str, replicas: &[Replica]) -> Builder {
    let servers = harness::conf::servers(Replica::servers(replicas), "");
    let builder = Nginx::builder()
        .http("pincer_zone pincer:1m;")
        .http(pincerd.directives(node))
        .http(format!("upstream u {{ pincer_balance; {servers} }}"))
        .http(CACHES)
        .server(LOCATIONS)
        .workers(3);
    fs::create_dir(builder.prefix().join("files")).expect("folder");
    publish(builder.prefix(), 0);
    builder
}

/// What the origin answers from now on.
pub fn publish(prefix: &Path, generation: u64) {
    let (new, file) = (prefix.join("files/new"), prefix.join("files/generation"));
    fs::write(&new, generation.to_string()).expect("file");
    fs::rename(new, file).expect("file");
}

pub async fn start(pincerd: &Pincerd, replicas: &[Replica]) -> Nginx {
    let nginx = caching(pincerd, "edge-1", replicas).start().await;
    nginx.connected().await;
    nginx
}

pub async fn replicas(service_ms: f64) -> Vec<Replica> {
    Replica::several(1, Settings::served_in(service_ms)).await
}

/// Slow enough that two commands come to their end while a request is being answered.
pub async fn slow_replicas() -> Vec<Replica> {
    replicas(limit(3.0).as_secs_f64() * 1e3).await
}

/// What the cache did.
pub async fn ask(client: &Client, path: &str) -> String {
    cached(&client.get(path).await)
}

pub fn cached(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-cache").to_owned()
}

/// All files of a cache.
pub fn files(nginx: &Nginx, cache: &str) -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { collect(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    collect(&nginx.path("cache").join(cache), &mut found);
    found
}

/// Waits until a cache keeps so many answers: a client has the whole answer a moment before nginx
/// keeps it.
pub async fn keeps(nginx: &Nginx, cache: &str, count: usize) {
    eventually(&format!("{cache} keeps {count}"), 10.0, || async { files(nginx, cache).len() == count }).await;
}

pub async fn purge(pincerd: &Pincerd, arguments: &[&str]) -> Value {
    pincerd.json(&[&["cache", "purge"], arguments].concat()).await
}

/// Waits until nginx has read its caches in.
pub async fn warm(nginx: &Nginx) {
    for cache in ["answers", "others", "varied"] {
        nginx.logs(&format!("cache/{cache} "), 90.0).await;
    }
}
