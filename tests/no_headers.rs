//! Requests whose headers nginx never read, at every place where the module looks at a request:
//! HTTP/0.9, which has none, and what is no request line and is served by `error_page` all the
//! same. nginx has then not even made the list that headers go into. No worker may die of them, and
//! what an upstream is told of the caller's class it is told here too.

use harness::client::raw;
use harness::{Nginx, Replica};

/// Directives of ours, each in a location of its own.
const PLACES: [(&str, &str); 9] = [
    ("balance", "proxy_pass http://u;"),
    (
        "hash",
        "pincer_body_hash blake3 form=auto; add_header X-Key $pincer_cache_key$pincer_body_hash; proxy_pass http://u;",
    ),
    ("limit", "pincer_limit class=default key=$binary_remote_addr; proxy_pass http://u;"),
    ("dry", "pincer_limit class=strict key=$binary_remote_addr dry_run; proxy_pass http://u;"),
    ("refused", "pincer_limit class=none key=$arg_none; proxy_pass http://u;"),
    ("key", "pincer_key $http_authorization; proxy_pass http://u;"),
    ("required", "pincer_key $http_authorization; pincer_key_required on; proxy_pass http://u;"),
    ("slow", "pincer_limit class=paced key=$arg_paced; proxy_pass http://u;"),
    (
        "variables",
        "return 200 '$pincer_class$pincer_tenant$pincer_limit_status$pincer_cache_key$pincer_body_hash$pincer_uncacheable\\n';",
    ),
];

/// What no request line is, or none that nginx goes on with; with the status that nginx gives it.
fn garbage() -> Vec<(u16, Vec<u8>)> {
    let mut long_uri = b"GET /".to_vec();
    long_uri.resize(40_000, b'a');
    vec![
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        (400, b"FOO\r\n\r\n".to_vec()),
        (505, b"GET / HTTP/3.0\r\nHost: h\r\n\r\n".to_vec()),
        (414, long_uri),
        (400, b"GET / HTTP/1.1\r\n: x\r\n\r\n".to_vec()),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec()),
    ]
}

/// nginx with all places in one server, and one server for each place whose error pages lead there.
async fn start(replica: &str) -> (Nginx, Vec<(&'static str, u16)>) {
    let places = |pages: &str| -> String {
        PLACES.iter().map(|(name, text)| format!("location /{name} {{ {text} }}\n")).collect::<String>() + pages
    };
    let (mut servers, mut ports) = (String::new(), Vec::new());
    for (name, _) in PLACES {
        let port = harness::ports::free_port();
        let pages = format!("error_page 400 404 405 413 414 494 495 497 505 =200 /{name};");
        servers += &format!("server {{ listen 127.0.0.1:{port}; {} }}\n", places(&pages));
        ports.push((name, port));
    }
    let nginx = Nginx::builder()
        .workers(1)
        .http(
            "pincer_zone pincer:1m; pincer_class default rate=1000r/s burst=1000 nodelay concurrency=100; pincer_class none rate=1r/m;
             pincer_class strict rate=1r/m; pincer_class paced rate=1000r/s bandwidth=1m;
             log_format ours '$request $pincer_class $pincer_tenant $pincer_limit_status $pincer_ttft $pincer_queue_time $pincer_revision
                              $pincer_body_hash $pincer_cache_key $pincer_uncacheable'; access_log logs/ours.log ours;",
        )
        .upstream("u", format!("pincer_balance; pincer_queue size=5 timeout=1s; server {replica} max_conns=4;"))
        .http(&servers)
        .server(places(""))
        .start()
        .await;
    (nginx, ports)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_headers_is_served_everywhere() {
    let replica = Replica::named("a").start().await;
    let (nginx, _) = start(replica.server()).await;
    let worker = nginx.workers();
    for (name, _) in PLACES {
        let sent = raw::send_bytes(&nginx.address(), &format!("GET /{name}\r\n")).await;
        assert!(!sent.read_all().await.is_empty(), "/{name}: no answer");
    }
    assert_eq!(nginx.workers(), worker, "a worker died");
    // It has no header, but a class, which the upstream is told.
    replica.forget();
    raw::send_bytes(&nginx.address(), "GET /limit\r\n").await.read_all().await;
    assert_eq!(replica.seen().values_of("x-pincer-class"), ["default"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_served_by_an_error_page_everywhere() {
    let replica = Replica::named("a").start().await;
    let (nginx, ports) = start(replica.server()).await;
    let worker = nginx.workers();
    for (name, port) in ports {
        for (status, bytes) in garbage() {
            let answer = raw::send_bytes(&format!("127.0.0.1:{port}"), &bytes).await.read_all().await;
            assert!(!answer.is_empty(), "/{name}: no answer to a {status}");
        }
    }
    assert_eq!(nginx.workers(), worker, "a worker died");
}
