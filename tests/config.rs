//! Every mistake in nginx.conf is a clear error of `nginx -t` that names the file and line;
//! `nginx -t` itself opens no connection.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use harness::nginx::{Builder, version};
use harness::{Nginx, Replica, eventually, load, paths, ports};
use tokio::net::TcpListener;

const ZONE: &str = "pincer_zone pincer:1m;";
const SERVER: &str = "server 127.0.0.1:9;";

/// `nginx -t` refuses these http directives, with all of `needles` in the error, and with its
/// place.
async fn refused(http: &str, needles: &[&str]) {
    let checked = Nginx::builder().http(http).check().await;
    assert!(!checked.ok, "accepted: {http}");
    let error = checked.error();
    for needle in needles {
        assert!(error.contains(needle), "{http}\nno {needle:?} in: {}", checked.output);
    }
    assert!(error.contains("nginx.conf:"), "no place in: {}", checked.output);
}

async fn accepted(builder: Builder) -> String {
    let checked = builder.check().await;
    assert!(checked.ok, "{}", checked.output);
    checked.output
}

#[tokio::test(flavor = "multi_thread")]
async fn every_directive_with_every_parameter_is_accepted() {
    let http = "pincer_zone pincer:1m state=state/last; pincer_allow_peers 10.0.0.0/8 fd00::/8 127.0.0.1;
        pincer_control_plane 127.0.0.1:9443 [::1]:9443 unix:/tmp/x.sock node=edge-1 plaintext;
        upstream a { pincer_balance signal=first_byte half_life=10s slow_start=30s affinity=$http_x_session;
            pincer_queue size=100 timeout=30s; server 127.0.0.1:9 weight=5 max_conns=4 max_fails=3 fail_timeout=10s;
            server 127.0.0.2:9 backup; server 127.0.0.3:9 down; keepalive 8; }
        upstream b { pincer_balance signal=header; server 127.0.0.1:9; }
        upstream c { pincer_balance signal=last_byte; server unix:/tmp/y.sock; }";
    accepted(Nginx::builder().http(http)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_too_small_says_how_much_is_needed() {
    refused("pincer_zone pincer:8k;", &["pincer_zone", "8k", "too small"]).await;
    let peers: String = (1..=120).map(|number| format!("server 127.0.0.{number}:9;")).collect();
    refused(&format!("pincer_zone pincer:32k; upstream u {{ pincer_balance; {peers} }}"), &["too small", "needed"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_that_are_missing_doubled_or_malformed_are_refused() {
    refused(&format!("upstream u {{ pincer_balance; {SERVER} }}"), &["pincer_zone"]).await;
    refused("pincer_zone a:1m; pincer_zone b:1m;", &["pincer_zone", "duplicate"]).await;
    refused("pincer_zone pincer;", &["pincer_zone", "NAME:SIZE"]).await;
    refused("pincer_zone pincer:1x;", &["pincer_zone", "1x"]).await;
    refused("pincer_zone pincer:1m stat=x;", &["pincer_zone", "stat=x"]).await;
    refused("pincer_zone;", &["pincer_zone"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_zone_is_refused() {
    for directive in ["pincer_status", "pincer_metrics"] {
        let checked = Nginx::builder().server(format!("location /s {{ {directive}; }}")).check().await;
        assert!(!checked.ok && checked.error().contains("pincer_zone"), "{}", checked.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pincer_slot_is_on_or_off_once_in_a_location_with_a_zone() {
    for (http, slot, needles) in [
        (ZONE, "location / { pincer_slot none; }", ["\"pincer_slot\"", "\"none\"", "on or off"]),
        (ZONE, "location / { pincer_slot off; pincer_slot on; }", ["\"pincer_slot\"", "duplicate", ""]),
        (ZONE, "location / { pincer_slot; }", ["invalid number of arguments", "\"pincer_slot\"", ""]),
        (ZONE, "location / { pincer_slot off on; }", ["invalid number of arguments", "\"pincer_slot\"", ""]),
        (ZONE, "pincer_slot off;", ["\"pincer_slot\"", "not allowed here", ""]),
        ("", "location / { pincer_slot off; }", ["\"pincer_slot\"", "needs a zone", "\"pincer_zone NAME:SIZE\""]),
    ] {
        let checked = Nginx::builder().http(http).server(slot).check().await;
        assert!(!checked.ok, "accepted: {slot}");
        let error = checked.error();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{slot}: {needles:?} in {}", checked.output);
        assert!(error.contains("nginx.conf:"), "no place in: {}", checked.output);
    }
    accepted(Nginx::builder().http(ZONE).server("location / { pincer_slot off; location /in { pincer_slot on; } }"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_invalid_parameters_are_named() {
    let cases = [
        ("pincer_balance signl=header", "signl=header"),
        ("pincer_balance signal=tokens", "tokens"),
        ("pincer_balance half_life=ten", "ten"),
        ("pincer_balance half_life=1s half_life=2s", "half_life"),
        ("pincer_balance slow_start=-1", "-1"),
        ("pincer_balance affinity=session", "session"),
        ("pincer_balance affinity=session$", "invalid variable name"),
        ("pincer_balance; pincer_balance", "pincer_balance"),
        ("pincer_balance; pincer_queue size=10", "timeout"),
        ("pincer_balance; pincer_queue timeout=1s", "size"),
        ("pincer_balance; pincer_queue size=0 timeout=1s", "\"0\""),
        ("pincer_balance; pincer_queue size=10 timeout=0", "\"0\""),
        ("pincer_balance; pincer_queue size=10 timeout=1s wait=1", "wait=1"),
        ("pincer_balance; pincer_queue size=1 timeout=1s; pincer_queue size=1 timeout=1s", "pincer_queue"),
    ];
    for (directives, needle) in cases {
        refused(&format!("{ZONE} upstream u {{ {directives}; {SERVER} }}"), &[needle]).await;
    }
    // nginx itself finds this one when all is read, and names no place.
    let http = format!("{ZONE} upstream u {{ pincer_balance affinity=$no_such_variable; {SERVER} }}");
    let checked = Nginx::builder().http(http).check().await;
    assert!(!checked.ok && checked.error().contains("no_such_variable"), "{}", checked.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_hashing_of_bodies_are_named() {
    let cases: [(&str, &[&str]); 15] = [
        ("md5", &["md5", "off, blake3, sha256 or xxh3"]),
        ("BLAKE3", &["BLAKE3", "off, blake3, sha256 or xxh3"]),
        ("blake3 form=xml", &["form", "xml", "raw, json, multipart or auto"]),
        ("blake3 form=", &["form", "raw, json, multipart or auto"]),
        ("blake3 ignore=/user", &["ignore=", "form=json or form=auto is needed"]),
        ("blake3 form=multipart max=1m", &["max=", "form=json or form=auto is needed"]),
        ("blake3 form=json max=1", &["max", "\"1\"", "from 1k to 16m"]),
        ("blake3 form=json max=17m", &["max", "17m", "from 1k to 16m"]),
        ("blake3 form=json max=1x", &["max", "1x", "from 1k to 16m"]),
        ("blake3 form=json ignore=user", &["ignore", "user"]),
        ("blake3 form=json ignore=/a~2", &["ignore", "/a~2"]),
        ("blake3 form=json ignore=", &["ignore", "\"\"", "JSON pointers", "/user,/metadata"]),
        ("blake3 form=json form=raw", &["form", "twice"]),
        ("blake3 forms=json", &["forms=json", "form=, ignore= and max="]),
        ("off form=json", &["form=json", "off"]),
    ];
    for (arguments, needles) in cases {
        let named: Vec<_> = needles.iter().copied().chain(["pincer_body_hash"]).collect();
        refused(&format!("{ZONE} pincer_body_hash {arguments};"), &named).await;
        refused(&format!("{ZONE} server {{ location /x {{ pincer_body_hash {arguments}; }} }}"), &named).await;
    }
    refused(&format!("{ZONE} pincer_body_hash blake3; pincer_body_hash off;"), &["pincer_body_hash", "duplicate"])
        .await;
    refused("pincer_body_hash blake3;", &["pincer_body_hash", "pincer_zone"]).await;
    refused(&format!("{ZONE} pincer_body_hash;"), &["pincer_body_hash"]).await;
    refused(&format!("{ZONE} upstream u {{ {SERVER} pincer_body_hash blake3; }}"), &["not allowed here"]).await;
    let all = "pincer_body_hash off; server { pincer_body_hash xxh3 form=auto max=16m;
        location /a { pincer_body_hash sha256 form=json ignore=/user,/stream,/metadata/trace max=1k; }
        location /b { pincer_body_hash blake3 form=multipart; location /b/c { pincer_body_hash off; } } }";
    accepted(Nginx::builder().http(format!("{ZONE} {all}"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_keeps_no_answer_to_post_is_warned_of_where_bodies_are_hashed() {
    const WARNING: &str = "proxy_cache_methods GET HEAD POST";
    let check = |hash: &str, methods: &str| {
        let location =
            format!("location /cached/ {{ {hash} {methods} proxy_cache c; proxy_pass http://127.0.0.1:9; }}");
        Nginx::builder().http(ZONE).http(harness::nginx::CACHE).server(location)
    };
    let output = accepted(check("pincer_body_hash blake3;", "")).await;
    let line = output.lines().find(|line| line.contains(WARNING)).unwrap_or_else(|| panic!("no warning: {output}"));
    assert!(line.contains("[warn]") && line.contains("/cached/") && line.contains("nginx.conf:"), "{line}");
    assert!(accepted(check("pincer_body_hash blake3;", "proxy_cache_methods GET HEAD;")).await.contains(WARNING));
    for (hash, methods) in [
        ("pincer_body_hash blake3;", "proxy_cache_methods POST;"),
        ("pincer_body_hash blake3;", "proxy_cache off;"),
        ("pincer_body_hash off;", ""),
        ("", ""),
    ] {
        let builder = if methods.contains("proxy_cache off") {
            let location = format!("location /cached/ {{ {hash} {methods} proxy_pass http://127.0.0.1:9; }}");
            Nginx::builder().http(ZONE).http(harness::nginx::CACHE).server("proxy_cache c;").server(location)
        } else {
            check(hash, methods)
        };
        let output = accepted(builder).await;
        assert!(!output.contains("proxy_cache_methods"), "{hash} {methods}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_mixes_bodies_up_or_keeps_nothing_is_warned_of() {
    let check = async |directives: &str| {
        let location = format!("location /cached/ {{ {directives} proxy_cache c; proxy_pass http://127.0.0.1:9; }}");
        accepted(Nginx::builder().http(ZONE).http(harness::nginx::CACHE).server(location)).await
    };
    const POST: &str = "proxy_cache_methods POST;";
    const HASH: &str = "pincer_body_hash blake3;";
    let key = |key: &str| format!("proxy_cache_key {key};");
    let mixed = ["\"/cached/\"", "different bodies get one response", "proxy_cache_key $pincer_cache_key"];
    let none = ["$pincer_cache_key", "on nowhere", "pincer_body_hash blake3"];
    let unbuffered = ["\"/cached/\"", "keeps nothing", "proxy_buffering"];
    for (directives, needles) in [
        (format!("{POST} {HASH}"), mixed),
        (format!("{POST} {HASH} {}", key("$request_uri$request_body")), mixed),
        (format!("{POST} {}", key("$pincer_cache_key")), none),
        (format!("{POST} {HASH} {} proxy_buffering off;", key("$pincer_cache_key")), unbuffered),
    ] {
        let output = check(&directives).await;
        assert!(output.contains("[warn]"), "{directives}: {output}");
        assert!(needles.iter().all(|needle| output.contains(needle)), "{directives}: {output}");
    }
    let location = "location / { proxy_cache c; proxy_cache_key $pincer_cache_key; proxy_pass http://127.0.0.1:9; }";
    let output = accepted(Nginx::builder().http(harness::nginx::CACHE).server(location)).await;
    assert!(none.iter().all(|needle| output.contains(needle)), "without a zone: {output}");
    for fine in ["$pincer_cache_key", "a:$pincer_cache_key", "$request_uri$pincer_body_hash"] {
        let output = check(&format!("{POST} {HASH} {}", key(&format!("\"{fine}\"")))).await;
        assert!(!output.contains("[warn]"), "{fine}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_balancer_is_refused() {
    refused(
        &format!("{ZONE} upstream u {{ pincer_queue size=1 timeout=1s; {SERVER} }}"),
        &["pincer_queue", "pincer_balance"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_after_keepalive_is_refused_where_that_matters() {
    let http = format!("{ZONE} upstream u {{ {SERVER} keepalive 8; pincer_balance; }}");
    if version() < (1, 29, 7) {
        refused(&http, &["pincer_balance", "keepalive", "before"]).await;
    } else {
        accepted(Nginx::builder().http(http)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_balancers_in_one_upstream_are_refused() {
    let checked =
        Nginx::builder().http(format!("{ZONE} upstream u {{ least_conn; pincer_balance; {SERVER} }}")).check().await;
    assert!(!checked.ok, "{}", checked.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_name_does_not_resolve_is_refused() {
    let http = format!("{ZONE} upstream u {{ pincer_balance; server no-such-host.invalid:80; }}");
    refused(&http, &["host not found", "no-such-host.invalid"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_plane_addresses_are_checked() {
    let cases = [
        ("pincer_control_plane", "pincer_control_plane"),
        ("pincer_control_plane 127.0.0.1", "127.0.0.1"),
        ("pincer_control_plane 127.0.0.1:0 plaintext", "127.0.0.1:0"),
        ("pincer_control_plane 127.0.0.1:70000 plaintext", "70000"),
        ("pincer_control_plane 10.0.0.1:9443 plaintext", "plaintext"),
        ("pincer_control_plane 127.0.0.1:9443 node= plaintext", "node"),
        ("pincer_control_plane plaintext", "addresses"),
        ("pincer_allow_peers 10.0.0.0/33", "10.0.0.0/33"),
        ("pincer_allow_peers everywhere", "everywhere"),
    ];
    for (directive, needle) in cases {
        refused(&format!("{ZONE} {directive};"), &[needle]).await;
    }
    refused("pincer_control_plane 127.0.0.1:9443 plaintext;", &["pincer_zone"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_missing_unreadable_or_no_certificates_are_refused() {
    let plane = format!("{ZONE} pincer_control_plane 127.0.0.1:9443;");
    refused(&plane, &["pincer_control_plane_certificate"]).await;
    let folder = tempfile::tempdir().expect("folder");
    let noise = folder.path().join("noise.pem");
    std::fs::write(&noise, "not a certificate").expect("write");
    let with = |path: &str| {
        format!(
            "{plane} pincer_control_plane_certificate {path}; pincer_control_plane_certificate_key {path};
             pincer_control_plane_trusted_certificate {path};"
        )
    };
    refused(&with("/no/such/file.pem"), &["/no/such/file.pem"]).await;
    refused(&with(&noise.display().to_string()), &["noise.pem", "PEM"]).await;
    refused(&with(&folder.path().display().to_string()), &["cannot be read"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directives_in_the_wrong_place_are_refused() {
    refused("pincer_balance;", &["not allowed here"]).await;
    refused("pincer_queue size=1 timeout=1s;", &["not allowed here"]).await;
    refused("pincer_status;", &["not allowed here"]).await;
    let checked = Nginx::builder().server(ZONE).check().await;
    assert!(checked.error().contains("not allowed here"), "{}", checked.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_slots_is_warned_of() {
    let http = format!("{ZONE} upstream u {{ pincer_balance; pincer_queue size=1 timeout=1s; {SERVER} }}");
    let output = accepted(Nginx::builder().http(http)).await;
    assert!(output.contains("[warn]") && output.contains("max_conns"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_dash_t_opens_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let http = format!(
        "pincer_zone pincer:1m state=state/last; pincer_control_plane {address} plaintext;
         upstream u {{ pincer_balance; server {address}; }}"
    );
    accepted(Nginx::builder().http(http)).await;
    let accepted = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(accepted.is_err(), "nginx -t connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_file_is_set_aside_and_nginx_serves() {
    let replica = Replica::named("a").start().await;
    let control_plane = ports::refusing_addr();
    for damage in ["", "garbage", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        let builder = Nginx::builder()
            .http("pincer_zone pincer:1m state=state/last;")
            .http(format!("pincer_control_plane {control_plane} plaintext;"))
            .upstream("u", format!("pincer_balance; server {};", replica.server()));
        let state = builder.prefix().join("state/last");
        std::fs::write(&state, damage).expect("write");
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o644)).expect("permissions");
        let nginx = builder.start().await;
        assert_eq!(nginx.client().get("/").await.replica(), "a");
        if !damage.is_empty() {
            nginx.logs("state", 5.0).await;
            eventually("the damaged file is set aside", 5.0, || async {
                let names = std::fs::read_dir(nginx.path("state")).expect("state folder");
                names.flatten().any(|entry| entry.file_name() != "last")
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_may_change_its_size_and_upstreams_come_and_go_with_reloads() {
    let replicas = Replica::several(2, harness::replica::Settings::default()).await;
    let mut nginx = Nginx::builder().balanced("pincer_balance;", [replicas[0].server()], "").start().await;
    let client = nginx.client();
    assert_eq!(client.get("/").await.replica(), "a");
    nginx.reconfigure(|builder| builder.clear().balanced("pincer_balance;", [replicas[1].server()], "")).await;
    eventually("the new peer serves", 5.0, || async { client.get("/").await.replica() == "b" }).await;
    let upstream = nginx.status().await.upstream("u");
    assert_eq!(upstream.0["peers"].as_array().map(Vec::len), Some(1), "{:#}", upstream.0);
    nginx
        .reconfigure(|builder| {
            builder.clear().http("pincer_zone pincer:2m;").upstream("v", "pincer_balance; server 127.0.0.1:9;").http(
                format!("upstream w {{ pincer_balance; {} }}", harness::conf::servers(Replica::servers(&replicas), "")),
            )
        })
        .await;
    eventually("the new zone serves", 5.0, || async { client.get("/").await.status == 502 }).await;
    nginx.reconfigure(|builder| builder.clear().balanced("pincer_balance;", Replica::servers(&replicas), "")).await;
    eventually("both serve", 5.0, || async { load::shares(&load::gets(&client, "/", 20, 2).await).len() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_reload_changes_nothing() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder().balanced("pincer_balance;", [replica.server()], "").start().await;
    let good = std::fs::read_to_string(nginx.path("conf/nginx.conf")).expect("read");
    std::fs::write(nginx.path("conf/nginx.conf"), good.replace("pincer_balance;", "pincer_balance signal=x;"))
        .expect("write");
    assert!(nginx.try_reload().await.is_err_and(|line| line.contains("signal")));
    assert_eq!(nginx.client().get("/").await.replica(), "a");
}

#[test]
fn the_module_is_where_the_harness_looks() {
    assert!(paths::module().is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_name_the_control_plane_cannot_take_is_refused() {
    for name in ["\"with space\"", "with/slash"] {
        let checked = Nginx::builder()
            .http("pincer_zone pincer:1m;")
            .http(format!("upstream {name} {{ pincer_balance; server 127.0.0.1:1; }}"))
            .check()
            .await;
        assert!(!checked.ok && checked.error().contains("white space"), "{}", checked.output);
    }
}
