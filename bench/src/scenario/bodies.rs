//! Cache keys made from the request's body, in an nginx that differs in nothing else. The scenarios
//! about bodies share them.
//!
//! In every variant nginx serves POSTs from its cache; the replica behind it responds from memory
//! and ignores bodies. `$request_body` needs a body buffer that holds the whole body, and a
//! `proxy_buffer_size` that holds the key, since nginx refuses longer keys. Over 64 KB it does not
//! work at all: nginx stores the offset of the response in the cache file, after the key, in 16
//! bits, so each request is a miss.
//! Bound: bodies of [`BODY_BYTES_MAX`].

use std::sync::Arc;

use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::plain::{Backend, Prepared};
use crate::client::{Client, Fate};
use crate::contender::nginx::{command, load_module};
use crate::contender::{Programs, Running};
use crate::process::free_address;

/// The largest body that every variant keeps in memory.
pub const BODY_BYTES_MAX: usize = 128 << 10;

/// A body that no other seed makes. It consists of letters, so that it can be part of a JSON
/// string.
pub fn body(seed: u64, bytes: usize) -> Arc<[u8]> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..bytes).map(|_| random.random_range(b'a'..=b'z')).collect()
}

/// A cache key whose cost is measured.
pub struct Key {
    /// Name in tables; those of Pincer start with it.
    pub name: &'static str,
    /// What `proxy_cache_key` is.
    text: &'static str,
    /// Arguments of `pincer_body_hash`; without, the module is not loaded.
    hash: Option<&'static str>,
    /// Further directives.
    more: &'static str,
    /// Bytes of the largest body that the key works with.
    pub bytes_max: usize,
}

/// Nearly the size of a key with which the header of a cache file of nginx can no longer hold the
/// offset of the response.
const KEY_BYTES_MAX: usize = 63 << 10;

impl Key {
    /// A key that ignores the body: all bodies get the same response, so the key is of no use in
    /// practice.
    pub const CONSTANT: Key =
        Key { name: "a constant", text: "constant", hash: None, more: "", bytes_max: BODY_BYTES_MAX };
    /// nginx's own variable.
    pub const REQUEST_BODY: Key = Key {
        name: "$request_body",
        text: "$request_body",
        hash: None,
        more: "proxy_buffer_size 132k; proxy_buffers 8 132k; proxy_busy_buffers_size 264k;",
        bytes_max: KEY_BYTES_MAX,
    };
    /// The key that docs/cache.md recommends.
    pub const PINCER: Key = Key {
        name: "pincer: $pincer_cache_key, blake3",
        text: "$pincer_cache_key",
        hash: Some("blake3"),
        more: "",
        bytes_max: BODY_BYTES_MAX,
    };
    /// Constant first, `$request_body` second, Pincer's default third.
    pub const ALL: [Key; 6] = [
        Key::CONSTANT,
        Key::REQUEST_BODY,
        Key::PINCER,
        Key {
            name: "pincer: $pincer_body_hash, blake3",
            text: "$pincer_body_hash",
            hash: Some("blake3"),
            more: "",
            bytes_max: BODY_BYTES_MAX,
        },
        Key {
            name: "pincer: $pincer_cache_key, sha256",
            text: "$pincer_cache_key",
            hash: Some("sha256"),
            more: "",
            bytes_max: BODY_BYTES_MAX,
        },
        Key {
            name: "pincer: $pincer_cache_key, xxh3",
            text: "$pincer_cache_key",
            hash: Some("xxh3"),
            more: "",
            bytes_max: BODY_BYTES_MAX,
        },
    ];

    /// Writes its configuration: one worker beneath a master, or one process alone.
    pub fn prepare(&self, programs: &Programs, backend: &Backend, master: bool) -> Result<Prepared> {
        let hash = self.hash.map_or(String::new(), |arguments| format!("pincer_body_hash {arguments};"));
        let (key, more) = (self.text, self.more);
        let location = format!(
            "location / {{ {PASSED} {hash} {more} proxy_cache kept; proxy_cache_methods POST; proxy_cache_key {key};
                proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status; }}"
        );
        prepare(programs, backend, self.hash.is_some(), master, &location)
    }
}

/// Directives that pass a location's requests on to the replica.
pub const PASSED: &str = "proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection \"\";";

/// Writes the configuration of an nginx with these locations; with Pincer's module or without.
pub fn prepare(
    programs: &Programs,
    backend: &Backend,
    pincer: bool,
    master: bool,
    locations: &str,
) -> Result<Prepared> {
    let (load, zone) = if pincer { (load_module(programs)?, "pincer_zone pincer:1m;") } else { (String::new(), "") };
    let folder: TempDir = tempfile::tempdir()?;
    let address = free_address()?;
    let master = if master { "on" } else { "off" };
    let backend = backend.addresses[0];
    let text = format!(
        "{load}
daemon off;
master_process {master};
worker_processes 1;
user root;
pid nginx.pid;
error_log error.log error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    client_max_body_size 0;
    client_body_buffer_size {BODY_BYTES_MAX};
    proxy_cache_path cache keys_zone=kept:1m;
    {zone}
    upstream replica {{ server {backend}; keepalive 64; }}
    server {{
        listen {address} backlog=4096;
        {locations}
    }}
}}
"
    );
    std::fs::write(folder.path().join("nginx.conf"), text)?;
    let command = command(programs.nginx()?, folder.path());
    Ok(Prepared { command, address, folder })
}

/// Fails unless the second of two equal POSTs is served from the cache, because otherwise no hits
/// would be measured.
pub async fn ensure_cached(name: &str, running: &Running, body: &Arc<[u8]>) -> Result<()> {
    let client = Client::posting(running.address, Arc::clone(body));
    client.ask(1.0).await;
    let second = client.ask(1.0).await;
    ensure!(second.fate() == Fate::Succeeded && second.cached, "{name}: the second request was no hit: {second:?}");
    Ok(())
}
