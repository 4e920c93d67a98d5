//! Classes that operators change outlive what may happen to either side, and what is told of their
//! use is true.

use harness::metrics::Metrics;
use harness::nginx::{Builder, Status, workers};
use harness::replica::Settings;
use harness::{Client, Nginx, Pincerd, Replica, Reply, eventually, load};
use hyper::Method;
use serde_json::Value;

const WAIT: [&str; 2] = ["--wait", "5s"];
/// What nginx.conf says in these tests.
const CLASSES: &str = "pincer_class default; pincer_class free rate=1r/m burst=2 nodelay priority=50;";

/// Fed by `pincerd`, with its last revision in `state`.
fn fed(pincerd: &Pincerd, state: &std::path::Path, classes: &str) -> Builder {
    Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m state={}/last; {classes}", state.display()))
        .http(pincerd.directives("edge-1"))
        .server("location / { pincer_limit class=$arg_class key=$arg_key; empty_gif; }")
}

async fn class(pincerd: &Pincerd, arguments: &[&str]) {
    pincerd.must(&[&WAIT, &["class"][..], arguments].concat()).await;
}

/// How many of twelve requests of this key are let in.
async fn let_in(nginx: &Nginx, class: &str, key: &str) -> usize {
    let replies = load::gets(&Client::single(&nginx.url()), &format!("/?class={class}&key={key}"), 12, 3).await;
    assert!(replies.iter().all(|reply| [200, 429].contains(&reply.status)));
    replies.iter().filter(|reply| reply.status == 200).count()
}

/// Whether both classes are as [`change`] has set them.
fn is_as_changed(status: &Status) -> bool {
    let find = |name: &str| {
        status.0["classes"].as_array().and_then(|all| all.iter().find(|class| class["name"] == name).cloned())
    };
    let (Some(free), Some(gold)) = (find("free"), find("gold")) else { return false };
    let of = |class: &Value, field: &str| class[field]["effective"].clone();
    of(&free, "burst") == 5 && of(&free, "rate") == "1r/m" && of(&gold, "burst") == 7 && gold["added"] == true
}

async fn change(pincerd: &Pincerd) {
    class(pincerd, &["set", "free", "--burst", "5"]).await;
    class(pincerd, &["set", "gold", "--rate", "1r/m", "--burst", "7", "--delay", "nodelay"]).await;
}

async fn assert_as_changed(nginx: &Nginx, when: &str) {
    assert!(is_as_changed(&nginx.status().await), "{when}: {:#}", nginx.status().await.0["classes"]);
    assert_eq!((let_in(nginx, "free", when).await, let_in(nginx, "gold", when).await), (6, 8), "{when}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_and_added_classes_outlive_reloads_restarts_and_a_killed_control_plane() {
    let mut pincerd = Pincerd::start().await;
    let state = workers::folder();
    let mut nginx = fed(&pincerd, state.path(), CLASSES).start().await;
    nginx.connected().await;
    change(&pincerd).await;
    assert_as_changed(&nginx, "changed").await;
    nginx.reload().await;
    assert_as_changed(&nginx, "reloaded").await;
    assert_eq!(let_in(&nginx, "free", "changed").await, 0, "what was used up before the reload is used up");
    pincerd.kill();
    assert_as_changed(&nginx, "alone").await;
    let directives = pincerd.directives("edge-1");
    let other = CLASSES.replace("burst=2", "burst=1").replace("priority=50", "priority=40");
    let zone = format!("pincer_zone pincer:1m state={}/last; {other} {directives}", state.path().display());
    let location = "location / { pincer_limit class=$arg_class key=$arg_key; empty_gif; }";
    nginx.reconfigure(|builder| builder.clear().http(zone).server(location)).await;
    assert_as_changed(&nginx, "reconfigured").await;
    assert_eq!(nginx.status().await.class("free").number("/priority/effective"), 40.0, "nginx.conf's is beneath");
    nginx.quit();
    let nginx = fed(&pincerd, state.path(), CLASSES).start().await;
    assert_as_changed(&nginx, "restarted").await;
    pincerd.start_again().await;
    nginx.connected().await;
    assert_as_changed(&nginx, "connected-again").await;
    let gold = pincerd.json(&["class", "get", "gold"]).await;
    assert_eq!((&gold["effective"]["rate"], &gold["set"]["burst"]), (&"1r/m".into(), &"7".into()), "{gold:#}");
    class(&pincerd, &["delete", "gold"]).await;
    class(&pincerd, &["delete", "free"]).await;
    assert_eq!((let_in(&nginx, "free", "deleted").await, let_in(&nginx, "gold", "deleted").await), (3, 12));
    let last = nginx.status().await.number("/revision");
    let saved = || async { fed_alone(&pincerd, &state).await.is_some_and(|revision| revision == last) };
    nginx.quit();
    assert!(saved().await, "what was deleted stays so");
}

/// The revision that an nginx has which starts alone, if it has none of the classes that were
/// added.
async fn fed_alone(pincerd: &Pincerd, state: &tempfile::TempDir) -> Option<f64> {
    let nginx = fed(pincerd, state.path(), CLASSES).start().await;
    let status = nginx.status().await;
    (!is_as_changed(&status)).then(|| status.number("/revision"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_added_to_every_nginx_may_be_declared_later_and_then_stays_when_it_is_deleted() {
    let pincerd = Pincerd::start().await;
    let state = workers::folder();
    let mut nginx = fed(&pincerd, state.path(), CLASSES).start().await;
    nginx.connected().await;
    change(&pincerd).await;
    let declared = format!("{CLASSES} pincer_class gold rate=1r/m burst=1 nodelay;");
    let zone = format!("pincer_zone pincer:1m state={}/last; {declared}", state.path().display());
    let (directives, location) =
        (pincerd.directives("edge-1"), "location / { pincer_limit class=$arg_class key=$arg_key; empty_gif; }");
    nginx.reconfigure(|builder| builder.clear().http(zone).http(directives).server(location)).await;
    nginx.connected().await;
    assert_as_changed(&nginx, "declared").await;
    class(&pincerd, &["delete", "gold"]).await;
    assert_eq!(let_in(&nginx, "gold", "deleted").await, 2, "nginx.conf's");
}

/// Asks as one of a class, with an id.
async fn one(client: Client, class: &'static str) -> Reply {
    client.call(Method::GET, "/bytes/1000").header("x-class", class).must().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_use_of_each_class_is_counted_by_what_became_of_requests_and_kept_over_a_reload() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").settings(Settings::served_in(30.0)).start().await;
    let classes =
        "pincer_class vip priority=1; pincer_class free rate=1r/m burst=9 nodelay concurrency=50; pincer_class idle;";
    let nginx = Nginx::builder()
        .workers(2)
        .http(classes)
        .http(pincerd.directives("edge-1"))
        .balanced("pincer_balance; pincer_queue size=100 timeout=20s;", [replica.server()], "max_conns=2")
        .server("pincer_limit class=$http_x_class;")
        .start()
        .await;
    nginx.connected().await;
    class(&pincerd, &["set", "gold", "--concurrency", "1", "--priority", "9"]).await;
    let client = Client::single(&nginx.url());
    let asking = ["vip", "free", "gold"].map(|class| {
        let client = client.clone();
        load::closed(20, 20, move |_| one(client.clone(), class))
    });
    let [vip, free, gold] = futures_util::future::join_all(asking).await.try_into().expect("three");
    let passed = |replies: &[Reply]| replies.iter().filter(|reply| reply.status == 200).count() as f64;
    assert_eq!((passed(&vip), passed(&free)), (20.0, 10.0));
    let sent = passed(&vip) + passed(&free) + passed(&gold);
    eventually("all are counted", 5.0, || async {
        Metrics::read(&nginx.metrics().await).sum("pincer_class_in_flight", &[]) == 0.0
    })
    .await;
    let before = nginx.metrics().await;
    let check = |text: &str| {
        let metrics = Metrics::read(text);
        assert!(metrics.faults().is_empty(), "{:#?}\n{text}", metrics.faults());
        let of = |name: &str, class: &str| metrics.sum(name, &[("class", class)]);
        let requests = |class: &str, result: &str| {
            metrics.sum("pincer_class_requests_total", &[("class", class), ("result", result)])
        };
        assert_eq!(
            (requests("vip", "passed"), requests("free", "passed"), requests("gold", "passed")),
            (20.0, 10.0, passed(&gold))
        );
        assert_eq!(
            (requests("free", "rejected_rate"), requests("gold", "rejected_concurrency")),
            (10.0, 20.0 - passed(&gold))
        );
        assert_eq!(of("pincer_class_requests_total", "idle") + of("pincer_class_sent_bytes_total", "idle"), 0.0);
        let sent_by = ["vip", "free"].map(|class| of("pincer_class_sent_bytes_total", class));
        assert!(sent_by[0] >= 20_000.0 && sent_by[1] >= 10_000.0, "{sent_by:?}");
        assert!(
            of("pincer_class_queue_wait_seconds_count", "vip") + of("pincer_class_queue_wait_seconds_count", "free")
                >= 20.0
        );
        assert!(of("pincer_class_queue_wait_seconds_count", "vip") <= 20.0);
        assert!(of("pincer_class_queue_wait_seconds_sum", "free") > of("pincer_class_queue_wait_seconds_sum", "idle"));
        assert_eq!((of("pincer_class_priority", "gold"), of("pincer_class_concurrency", "gold")), (9.0, 1.0));
        assert_eq!(metrics.sum("pincer_peer_requests_total", &[]), sent);
    };
    check(&before);
    nginx.reload().await;
    nginx.connected().await;
    check(&nginx.metrics().await);
    let accept =
        nginx.status_client().call(Method::GET, "/pincer_metrics").header("accept", "application/openmetrics-text");
    check(&accept.must().await.text());
    // The control plane sums up what its nodes report.
    let told = || async {
        let listed = pincerd.json(&["class", "get", "vip"]).await;
        listed["stats"]["passed"] == 20 && listed["effective"]["priority"] == "1"
    };
    eventually("the control plane knows", 5.0, told).await;
}
