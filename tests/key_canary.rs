//! A key that was shown once is found nowhere afterwards, whatever was done with it: in no log,
//! metric, state file, store, process or page. What is found is its fingerprint.

use std::path::Path;

use harness::client::raw;
use harness::nginx::{has_argument, http2_listen, process};
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, paths, ports};
use hyper::Method;
use serde_json::Value;

/// A key that nobody made, as long as one.
const WRONG: &str = "pk_Wr0ngCanaryWr0ngCanaryWr0ngCanaryWr0ngCanaryWr0ng";
/// Bytes of a secret's middle by which what was cut off or decorated is found too.
const PART: std::ops::Range<usize> = 3..19;

/// What must not be found, with a name.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// Fails when `text` has one of them.
    fn assert_not_in(&self, place: &str, text: &str) {
        for (name, secret) in &self.0 {
            let line = text.lines().find(|line| line.contains(&secret[PART]));
            assert!(line.is_none(), "the {name} key is in {place}: {line:?}");
        }
    }

    /// Fails when a file below `folder` has one of them; how many files there are.
    fn assert_not_below(&self, folder: &Path, left_out: Option<&str>) -> usize {
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                count += self.assert_not_below(&path, left_out);
            } else if let Ok(bytes) = std::fs::read(&path)
                && left_out.is_none_or(|name| !path.ends_with(name))
            {
                self.assert_not_in(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
                count += 1;
            }
        }
        count
    }

    fn assert_not_in_process(&self, pid: i32) {
        for file in ["cmdline", "environ"] {
            let place = format!("/proc/{pid}/{file}");
            let bytes = std::fs::read(&place).unwrap_or_else(|error| panic!("{place}: {error}"));
            self.assert_not_in(&place, &String::from_utf8_lossy(&bytes).replace('\0', "\n"));
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The secret that a command shows.
async fn shown(pincerd: &Pincerd, arguments: &[&str]) -> String {
    text(&pincerd.json(&[&["--wait", "10s", "key"], arguments].concat()).await["secret"])
}

/// The line of `nginx-conf/vip.conf` that says what is logged.
fn log_format() -> String {
    let example = std::fs::read_to_string(paths::repository().join("nginx-conf/vip.conf")).expect("vip.conf");
    example.lines().find(|line| line.contains("log_format pincer ")).expect("a log_format").to_owned()
}

/// All that a key is shown to, by replicas that answer, hang and are not there.
fn locations(replicas: &[Replica]) -> String {
    let [good, hanging] = [&replicas[0], &replicas[1]].map(|replica| format!("http://{}", replica.server()));
    let key = "pincer_key $http_authorization;";
    format!(
        "location / {{ {key} pincer_key_required on; proxy_pass {good}; }}
         location /v1/ {{ {key} pincer_key_required on; proxy_pass {good}; }}
         location /open {{ {key} pincer_limit class=$pincer_class key=$http_authorization; proxy_pass {good}; }}
         location /tiny {{ {key} pincer_limit class=tiny key=$http_authorization; proxy_pass {good}; }}
         location /other {{ pincer_key $http_x_api_key; pincer_key_required on; proxy_pass {good}; }}
         location /down {{ {key} proxy_pass http://{refusing}; }}
         location /slow {{ {key} proxy_pass {hanging}; proxy_read_timeout 50ms; }}
         location /missing {{ {key} root /nonexistent; }}
         location /page {{ {key} pincer_key_required on; error_page 401 403 /v1/page; }}
         location /queued {{ {key} pincer_limit class=$pincer_class; proxy_pass http://full; proxy_read_timeout 200ms; }}",
        refusing = ports::refusing_addr(),
    )
}

const PATHS: [&str; 11] = [
    "/",
    "/v1/chat/completions",
    "/open",
    "/tiny",
    "/tiny",
    "/other",
    "/down",
    "/slow",
    "/missing",
    "/page",
    "/queued",
];

/// Uses a key in every way, well and badly; all that came back.
async fn used(client: &Client, address: &str, secret: &str) -> String {
    let mut said = String::new();
    let values = [
        format!("Bearer {secret}"),
        format!("bEARER  {secret}"),
        secret.to_owned(),
        format!("Basic {secret}"),
        format!("Bearer {secret} x"),
    ];
    for path in PATHS {
        // Those that wait do so once.
        let tried = if ["/slow", "/queued"].contains(&path) { 1 } else { values.len() };
        for value in &values[..tried] {
            for method in [Method::GET, Method::POST] {
                let call = client.call(method, path).header("Authorization", value).header("X-Api-Key", value);
                let reply = call.header("Cookie", format!("key={secret}")).body("x").must().await;
                said += &format!("{} {:?}\n{}\n", reply.status, reply.headers, reply.text());
            }
        }
        // A client that leaves.
        raw::send(address, path, &[("Authorization", &values[0])]).await.give_up();
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_key_is_found_nowhere() {
    let mut pincerd = Pincerd::prepared().logging("trace");
    pincerd.start_again().await;
    let replicas = Replica::several(2, harness::replica::Settings::default()).await;
    replicas[1].fault(Fault::Hang).await;
    let (h2, debug) = (ports::free_port(), ports::free_port());
    let locations = locations(&replicas);
    // At this level nginx itself writes all headers down.
    let level = if has_argument("--with-debug") { "debug" } else { "info" };
    let nginx = Nginx::builder()
        .workers(2)
        .http(format!(
            "pincer_zone pincer:1m state=state/last; {} {}
             pincer_class default; pincer_class vip priority=1; pincer_class tiny rate=1r/m;
             upstream full {{ pincer_balance; pincer_queue size=4 timeout=100ms; server {} max_conns=1; }}
             server {{ {} access_log logs/access.log pincer; {locations} }}
             server {{ listen 127.0.0.1:{debug}; error_log logs/debug.log {level}; access_log logs/access.log pincer; {locations} }}",
            pincerd.directives("edge-1"),
            log_format(),
            replicas[1].server(),
            http2_listen(h2)
        ))
        .server(format!("access_log logs/access.log pincer; {locations}"))
        .start()
        .await;
    nginx.connected().await;
    let create = ["create", "--tenant", "canary-tenant", "--class"];
    let mut canaries = Canaries(vec![("wrong", WRONG.to_owned())]);
    for (name, arguments) in [
        ("right", &[&create[..], &["vip", "--id", "right"]].concat()),
        ("forbidden", &[&create[..], &["vip", "--id", "forbidden", "--cidr", "10.0.0.0/8"]].concat()),
        ("revoked", &[&create[..], &["vip", "--id", "revoked"]].concat()),
        ("old", &[&create[..], &["default", "--id", "rotated"]].concat()),
        ("new", &vec!["rotate", "rotated", "--overlap", "1h"]),
    ] {
        canaries.0.push((name, shown(&pincerd, arguments).await));
    }
    pincerd.must(&["--wait", "10s", "key", "revoke", "revoked"]).await;

    let h1 = format!("http://127.0.0.1:{debug}");
    let clients = [nginx.client(), Client::h2c(&format!("http://127.0.0.1:{h2}")), Client::pooled(&h1)];
    for (_, secret) in &canaries.0 {
        for client in &clients {
            let said = used(client, &nginx.address(), secret).await;
            canaries.assert_not_in("an answer", &said);
        }
    }
    let statuses = logged_statuses(&nginx).await;
    for status in ["200", "401", "403", "404", "429", "502", "504"] {
        assert!(statuses.contains(status), "no {status} among {statuses:?}");
    }
    // A connection without a request would keep its worker.
    drop(clients);
    // Both sides start again with what they have kept.
    nginx.reload().await;
    pincerd.kill();
    pincerd.start_again().await;
    nginx.connected().await;
    let errors = pincerd.ctl(&["key", "create", "--tenant", "canary-tenant", "--class", "vip", "--id", "right"]).await;
    assert_eq!(errors.code, 3, "{}", errors.errors);
    let list = pincerd.must(&["key", "list"]).await;
    let json = pincerd.json(&["key", "list"]).await;
    for (place, text) in [
        ("pincer_status", format!("{:#}", nginx.status().await.0)),
        ("pincer_metrics", nginx.metrics().await),
        ("pincerd's metrics", pincerd.http().get("/metrics").await.text()),
        ("pincerd's log", pincerd.log()),
        ("key list", format!("{list}\n{json:#}")),
        ("node list", pincerd.must(&["node", "list"]).await),
        ("class list", pincerd.must(&["class", "list"]).await),
        ("an error", format!("{}\n{}", errors.output, errors.errors)),
        ("nginx's log", nginx.log()),
    ] {
        assert!(!text.is_empty(), "{place}");
        canaries.assert_not_in(place, &text);
    }
    eventually("the old workers end", 10.0, || async { nginx.draining().is_empty() }).await;
    let children = process::children(nginx.master()).into_iter().map(|child| child.pid);
    let processes: Vec<_> = children.chain([nginx.master()]).chain(pincerd.pid()).collect();
    assert!(processes.len() >= 4, "{processes:?}");
    processes.into_iter().for_each(|pid| canaries.assert_not_in_process(pid));
    let state = nginx.path("state/last");
    eventually("the state is on disk", 5.0, || async { state.exists() }).await;
    assert!(canaries.assert_not_below(nginx.prefix(), Some("debug.log")) >= 5);
    assert!(canaries.assert_not_below(&pincerd.path(""), None) >= 5);
    let debug = std::fs::read(nginx.path("logs/debug.log")).expect("the log");
    let debug = String::from_utf8_lossy(&debug);
    let ours: Vec<_> = debug.lines().filter(|line| line.contains("pincer: ")).collect();
    assert!(ours.len() > 50, "{}", ours.len());
    canaries.assert_not_in("our lines of the debug log", &ours.join("\n"));
    assert_eq!(debug.contains(&WRONG[PART]), level == "debug", "the search finds what is there");
    for (place, file) in [("state", state), ("store", pincerd.path("dev/store.redb"))] {
        let bytes = std::fs::read(file).expect("a file");
        assert!(String::from_utf8_lossy(&bytes).contains("canary-tenant"), "the search finds what is there: {place}");
    }
    assert_fingerprints(&nginx, &json);
}

/// The statuses of the access log, once the last requests are in it.
async fn logged_statuses(nginx: &Nginx) -> std::collections::BTreeSet<String> {
    let per_key = (PATHS.len() - 2) * 10;
    let lines = nginx.logged(per_key * 6 * 3).await;
    assert!(lines.iter().any(|line| line.contains("class=vip tenant=canary-tenant")), "{}", lines[0]);
    lines.iter().filter_map(|line| line.split('"').nth(2)?.split_whitespace().next().map(str::to_owned)).collect()
}

/// That the log names refused keys by the fingerprints that `key list` shows, and by no more of
/// their hash.
fn assert_fingerprints(nginx: &Nginx, list: &Value) {
    let of = |id: &str| {
        let keys = list["keys"].as_array().expect("keys");
        text(&keys.iter().find(|key| key["key"] == id).unwrap_or_else(|| panic!("no {id}"))["fingerprint"])
    };
    let log = nginx.log();
    let refused = |why: &str, print: &str| {
        log.lines().any(|line| line.contains(&format!("pincer: key is {why}, fingerprint={print}")))
    };
    assert!(
        refused("not valid", &of("revoked")) && refused("not allowed from this address", &of("forbidden")),
        "{}",
        nginx.tail()
    );
    assert!(!log.contains(&format!("fingerprint={}", of("right"))), "a key that is good is not logged");
    for line in log.lines().filter(|line| line.contains("fingerprint=")) {
        let digits = line.split("fingerprint=").nth(1).unwrap_or_default();
        assert_eq!(digits.find(|digit: char| !digit.is_ascii_hexdigit()), Some(8), "{line}");
    }
}
