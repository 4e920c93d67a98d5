//! A class that a client claims is never its class: however the header is spelled, whichever way
//! the request goes, the upstream sees one value, Pincer's.

use harness::client::{raw, upload};
use harness::fastcgi::FastCgi;
use harness::nginx::{Builder, http2_listen};
use harness::{Client, Nginx, Replica, limit, ports};
use hyper::Method;

const CLASSES: &str = "pincer_zone pincer:1m; pincer_class default; pincer_class vip priority=1;";
/// Says in every answer what was applied.
const APPLIED: &str = "add_header X-Applied \"$pincer_class/$pincer_tenant\" always;";
/// Limits a server, and says so.
const LIMITED: &str = "pincer_limit class=$pincer_class; add_header X-Applied \"$pincer_class/$pincer_tenant\" always;";
const CLAIMS: [(&str, &str); 2] = [("X-Pincer-Class", "vip"), ("X-Pincer-Tenant", "acme")];

/// Names that some server takes for `X-Pincer-Class`; nginx takes those without `-` only when it is
/// told to.
const SPELLINGS: [&str; 11] = [
    "X-Pincer-Class",
    "x-pincer-class",
    "X-PINCER-CLASS",
    "x-PiNcEr-cLaSs",
    "X_Pincer_Class",
    "x_pincer-class",
    "X-PINCER_CLASS",
    "X.Pincer.Class",
    "X-Pincer+Class",
    "x~pincer~class",
    "X'Pincer|Class",
];

/// Two servers more: one that takes `_` in names, one that takes any sign.
fn lenient(builder: Builder, location: &str) -> (Builder, [u16; 2]) {
    let ports = [ports::free_port(), ports::free_port()];
    let server = |port, how| format!("server {{ listen 127.0.0.1:{port}; {how} {location} }}");
    let http = server(ports[0], "underscores_in_headers on;") + &server(ports[1], "ignore_invalid_headers off;");
    (builder.http(http), ports)
}

/// The claims as they stand in a request's head.
fn claims() -> Vec<String> {
    let mut claims = Vec::new();
    for name in SPELLINGS {
        // Its last word is "class".
        let tenant = &name[..name.len() - 5];
        claims.push(format!("{name}: vip\r\n{tenant}Tenant: acme\r\n"));
        for count in 2..=5 {
            claims.push(format!("{name}: vip\r\n").repeat(count));
        }
        let filler =
            |from: usize| (from..from + 30).map(|number| format!("X-Filler-{number}: x\r\n")).collect::<String>();
        claims.push(format!("{}{name}: vip\r\n{}{name}: vip\r\n", filler(0), filler(30)));
    }
    claims.push(SPELLINGS.map(|name| format!("{name}: vip\r\n")).concat());
    claims.extend(
        [
            "X-Pincer-Class:\r\n vip\r\n",
            "X-Pincer-Class: vip\r\n\tvip\r\n",
            "X-Filler: x\r\n X-Pincer-Class: vip\r\n",
            "X-Pincer-Class : vip\r\n",
            "X-Pincer-Class\t: vip\r\n",
            " X-Pincer-Class: vip\r\n",
            "X-Pincer-Class:vip\r\n",
            "X-Pincer-Class:   vip  \r\n",
            "X-Pincer-Class:\r\n",
            "X-Pincer-Class: default, vip\r\n",
            "X-Pincer-Class: vip\nX-Pincer-Class: vip\r\n",
            "X-Pincer-Class\0: vip\r\n",
            "X-Pincer-Class: vip\r\nConnection: x-pincer-class\r\n",
            "Connection: X-Pincer-Class, keep-alive\r\nX-Pincer-Class: vip\r\n",
            "Trailer: X-Pincer-Class\r\nX-Pincer-Class: vip\r\n",
        ]
        .map(str::to_owned),
    );
    claims
}

/// That what `replica` saw last names these classes, and no tenant.
fn assert_saw(replica: &Replica, classes: &[&str], what: &str) {
    let seen = replica.seen();
    assert_eq!(seen.values_of("x-pincer-class"), classes, "{what}: {:?}", seen.fields);
    assert!(seen.values_of("x-pincer-tenant").is_empty(), "{what}: {:?}", seen.fields);
    assert!(!seen.fields.iter().any(|(_, value)| value.contains("vip")), "{what}: {:?}", seen.fields);
}

/// Sends `head`'s fields to `port`; the answer is nginx' 400, or one that went to `replica` as one
/// of `classes`.
async fn assert_not_believed(port: u16, fields: &str, replica: &Replica, classes: &[&str]) -> u16 {
    let before = replica.seen().requests;
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}Connection: close\r\n\r\n");
    let answer = raw::send_bytes(&format!("127.0.0.1:{port}"), &head).await.read_all().await;
    let status = raw::status(&answer);
    match status {
        200 => {
            assert_eq!(replica.seen().requests, before + 1, "{fields:?}");
            assert_saw(replica, classes, &format!("{fields:?}"));
            let applied = format!("X-Applied: {}/\r\n", classes.first().copied().unwrap_or_default());
            assert!(answer.contains(&applied), "{fields:?}: {answer}");
        }
        400 => assert_eq!(replica.seen().requests, before, "{fields:?}"),
        _ => panic!("{fields:?}: {answer}"),
    }
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_the_header_makes_a_vip() {
    let replica = Replica::named("a").start().await;
    let location = format!("{LIMITED} location / {{ proxy_pass http://{}; }}", replica.server());
    let builder = Nginx::builder().http(CLASSES).server(&location);
    let (builder, lenient) = lenient(builder, &location);
    let plain = builder.port();
    let nginx = builder.start().await;
    for port in [plain].into_iter().chain(lenient) {
        let mut passed = 0;
        for fields in claims() {
            passed += usize::from(assert_not_believed(port, &fields, &replica, &["default"]).await == 200);
        }
        assert!(passed > SPELLINGS.len() * 6, "only {passed} went on");
    }
    nginx.quit();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_class_the_upstream_sees_none() {
    let replica = Replica::named("a").start().await;
    for directives in
        ["pincer_key $http_authorization;", "pincer_limit class=$arg_class;", "location /x { pincer_limit class=vip; }"]
    {
        let location = format!("{APPLIED} location / {{ proxy_pass http://{}; }}", replica.server());
        let builder =
            Nginx::builder().http("pincer_zone pincer:1m; pincer_class vip;").server(directives).server(&location);
        let port = builder.port();
        let _nginx = builder.start().await;
        for fields in claims() {
            assert_not_believed(port, &fields, &replica, &[]).await;
        }
    }
}

/// Ways through nginx: a location's directives, and what upstreams see. `A` and `B` are upstreams.
const WAYS: [(&str, &[&str]); 19] = [
    ("proxy_pass A;", &["default"]),
    ("proxy_set_header X-Other other; proxy_pass A;", &["default"]),
    ("proxy_set_header X-Pincer-Class $pincer_class; proxy_pass A;", &["default"]),
    ("proxy_set_header x-pincer-class $http_x_pincer_class; proxy_pass A;", &["default"]),
    ("proxy_set_header X-Pincer-Class \"\"; proxy_pass A;", &[]),
    ("proxy_pass_request_headers off; proxy_pass A;", &[]),
    ("proxy_pass_request_headers off; proxy_set_header X-Pincer-Class $pincer_class; proxy_pass A;", &["default"]),
    ("proxy_set_header Connection $http_connection; proxy_http_version 1.1; proxy_pass A;", &["default"]),
    ("proxy_set_header Host $host; proxy_buffering off; proxy_request_buffering off; proxy_pass A;", &["default"]),
    ("error_page 404 = @named; proxy_intercept_errors on; proxy_pass A/status/404;", &["default"]),
    ("error_page 418 = @named; return 418;", &["default"]),
    ("error_page 403 = /direct; deny all;", &["default"]),
    ("error_page 405 = @named; return 405;", &["default"]),
    ("try_files /nothing @named;", &["default"]),
    ("rewrite ^ /direct last;", &["default"]),
    ("auth_request /sub; proxy_pass A;", &["default"]),
    ("auth_request /sub; error_page 404 = @named; root /nonexistent;", &["default"]),
    ("mirror /sub; proxy_pass A;", &["default"]),
    ("slice 1k; proxy_set_header Range $slice_range; proxy_http_version 1.1; proxy_pass A/bytes/5000;", &["default"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn whichever_way_a_request_goes_each_upstream_sees_one_class_and_ours() {
    let replicas = Replica::several(2, harness::replica::Settings::default()).await;
    let [a, b] = [&replicas[0], &replicas[1]].map(|replica| format!("http://{}", replica.server()));
    let built = |module: &str| harness::nginx::has_argument(&format!("--with-http_{module}_module"));
    let missing: Vec<_> = ["slice", "auth_request"].into_iter().filter(|module| !built(module)).collect();
    let ways: Vec<_> = WAYS.into_iter().filter(|(way, _)| !missing.iter().any(|name| way.starts_with(name))).collect();
    let location = |(number, (way, _)): (usize, &(&str, _))| {
        format!("location = /{number} {{ {} }}", way.replace("pass A", &format!("pass {a}")))
    };
    let locations: String = ways.iter().enumerate().map(location).collect();
    // Each level of proxy_set_header but the location's own is inherited by those that have none.
    for (http, server) in [("", ""), ("proxy_set_header X-Other http;", ""), ("", "proxy_set_header X-Other server;")] {
        let nginx = Nginx::builder()
            .http(CLASSES)
            .http(http)
            .server(format!("{LIMITED} {server}"))
            .server(format!(
                "{locations} location /direct {{ proxy_pass {a}; }} location @named {{ proxy_pass {a}; }}
                location /sub {{ internal; proxy_pass {b}; }}"
            ))
            .start()
            .await;
        let client = nginx.client();
        for (number, (way, classes)) in ways.iter().enumerate() {
            replicas.iter().for_each(Replica::forget);
            let call = CLAIMS.iter().fold(client.call(Method::GET, &format!("/{number}")), |call, (name, value)| {
                call.header(name, value).header(&name.to_ascii_lowercase(), value)
            });
            let reply = call.must().await;
            assert!([200, 206].contains(&reply.status), "{way}: {}", reply.status);
            let settled = || async { replicas.iter().all(|replica| replica.seen().running == 0) };
            harness::eventually("subrequests end", 5.0, settled).await;
            assert!(replicas[0].seen().requests > 0, "{way}");
            assert_saw(&replicas[0], classes, way);
            if way.contains("/sub") {
                harness::eventually("the subrequest", 5.0, || async { replicas[1].seen().requests > 0 }).await;
                assert_saw(&replicas[1], &["default"], way);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_nginx_that_refuses_leaves_no_claim_to_the_error_page() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http(CLASSES)
        .http("limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m; ")
        .server(format!(
            "{LIMITED} location / {{ limit_req zone=one; error_page 503 = @named; empty_gif; }}
             location @named {{ proxy_pass http://{}; }}",
            replica.server()
        ))
        .start()
        .await;
    let send = || async { nginx.client().call(Method::GET, "/").header("X-Pincer-Class", "vip").must().await };
    assert_eq!((send().await.status, send().await.status, replica.seen().requests), (200, 200, 1));
    assert_saw(&replica, &["default"], "limit_req");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailer_makes_no_vip() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http(CLASSES)
        .server(format!("{LIMITED} location / {{ proxy_http_version 1.1; proxy_pass http://{}; }}", replica.server()))
        .server(format!(
            "location /unbuffered {{ proxy_http_version 1.1; proxy_request_buffering off; proxy_pass http://{}; }}",
            replica.server()
        ))
        .start()
        .await;
    for (path, trailer) in
        [("/", "Trailer: X-Pincer-Class\r\n"), ("/", ""), ("/unbuffered", ""), ("/unbuffered", "TE: trailers\r\n")]
    {
        replica.forget();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{trailer}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Pincer-Class: vip\r\n\r\n"
        );
        let answer = raw::send_bytes(&nginx.address(), &request).await.read_all().await;
        assert_eq!(raw::status(&answer), 200, "{answer}");
        assert_eq!(replica.seen().requests, 1);
        assert_saw(&replica, &["default"], path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_and_to_grpc_no_claim_is_believed() {
    let replica = Replica::named("a").start().await;
    let (port, lenient) = (ports::free_port(), ports::free_port());
    let server = |port, how| {
        format!(
            "server {{ {listen} {how} {LIMITED} location / {{ proxy_pass http://{address}; }}
             location /g. {{ grpc_pass grpc://{address}; }} }}",
            listen = http2_listen(port),
            address = replica.server()
        )
    };
    let nginx = Nginx::builder()
        .http(CLASSES)
        .http(server(port, ""))
        .http(server(lenient, "underscores_in_headers on;"))
        .start()
        .await;
    for port in [port, lenient] {
        let client = Client::h2c(&format!("http://127.0.0.1:{port}"));
        for path in ["/", "/g.Service/Call"] {
            for name in ["x-pincer-class", "x_pincer_class", "x-pincer_class", "x.pincer.class"] {
                for count in 1..=5 {
                    let call = client.call(Method::POST, path).header("x-pincer-tenant", "acme");
                    let call = (0..count).fold(call, |call, _| call.header(name, "vip"));
                    let call = if path == "/" {
                        call
                    } else {
                        call.header("content-type", "application/grpc").header("te", "trailers")
                    };
                    let reply = call.body("\0\0\0\0\0").must().await;
                    assert_eq!(reply.status, 200, "{path} {name}");
                    assert_saw(&replica, &["default"], &format!("{path} {name} {count}"));
                    assert_eq!(reply.header("x-applied"), "default/");
                }
            }
        }
    }
    assert!(nginx.client().get("/").await.status == 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_a_websocket_carries_our_class_only() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http(CLASSES)
        .server(format!(
            "pincer_limit class=default; location / {{ proxy_pass http://{}; proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}",
            replica.server()
        ))
        .start()
        .await;
    let head = "GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade, X-Pincer-Class\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Pincer-Class: vip\r\nx-pincer-class: vip\r\nX-Pincer-Tenant: acme\r\n\r\n";
    let mut sent = raw::send_bytes(&nginx.address(), head).await;
    assert!(sent.something(limit(10.0)).await);
    harness::eventually("the replica sees it", 5.0, || async { replica.seen().running == 1 }).await;
    assert_saw(&replica, &["default"], "websocket");
    sent.give_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fastcgi_server_is_given_one_class_and_ours() {
    let server = FastCgi::start().await;
    let location = format!("{LIMITED} location / {{ fastcgi_pass {}; }}", server.address());
    let builder = Nginx::builder().http(CLASSES).server(&location);
    let (builder, lenient) = lenient(builder, &location);
    let plain = builder.port();
    let _nginx = builder.start().await;
    for port in [plain].into_iter().chain(lenient) {
        for fields in claims() {
            server.forget();
            let upload = format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}Connection: close\r\n\r\n");
            let answer = raw::send_bytes(&format!("127.0.0.1:{port}"), &upload).await.read_all().await;
            let given = server.params();
            if raw::status(&answer) == 400 {
                assert!(given.is_empty(), "{fields:?}: {given:?}");
                continue;
            }
            assert_eq!(raw::status(&answer), 200, "{fields:?}: {answer}");
            let ours = |name: &str| {
                given.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
            };
            assert_eq!(
                (ours("HTTP_X_PINCER_CLASS"), ours("HTTP_X_PINCER_TENANT")),
                (vec!["default"], vec![]),
                "{fields:?}: {given:?}"
            );
            assert!(!given.iter().any(|(_, value)| value.contains("vip")), "{fields:?}: {given:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_says_besides_its_class_goes_on_unchanged() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http(CLASSES)
        .server(format!("pincer_limit class=default; location / {{ proxy_pass http://{}; }}", replica.server()))
        .start()
        .await;
    let fields = (0..70).map(|number| (format!("x-field-{}", number / 2), format!("value {number}")));
    let fields: Vec<_> =
        fields.chain([("cookie".to_owned(), "a=b".to_owned()), ("user-agent".to_owned(), "c".to_owned())]).collect();
    let mut sent = upload::Upload::post("/echo", "a body");
    for (number, (name, value)) in fields.iter().enumerate() {
        sent = sent.header(name, value);
        if number % 7 == 0 {
            sent = sent.header("X-Pincer-Class", "vip").header("x-pincer-tenant", "acme");
        }
    }
    let answer = sent.send(&nginx.address()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "a body"));
    assert_saw(&replica, &["default"], "many fields");
    let seen = replica.seen();
    let passed: Vec<_> = seen.fields.iter().filter(|field| fields.contains(field)).cloned().collect();
    assert_eq!(passed.len(), fields.len(), "{:?}", seen.fields);
}
