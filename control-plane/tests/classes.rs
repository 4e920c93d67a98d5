//! Rate classes: pincerd against nodes that pretend, and pincerctl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Daemon, Node, eventually, file, hello};
use pincer_proto::v1::{self, node_message::Message};
use prost_types::FieldMask;
use tonic::Code;

const A: &str = "127.0.0.1:8001";

fn rate(requests: u32) -> Option<v1::Rate> {
    Some(v1::Rate { requests, period: v1::RatePeriod::Second.into() })
}

/// A node that declares the class `vip` with 10 r/s and a burst of 20, and has the first snapshot.
async fn joined(daemon: &Daemon, name: &str) -> Node {
    let settings = v1::ClassSettings { rate: rate(10), burst: Some(20), ..Default::default() };
    let classes = vec![v1::DeclaredClass { name: "vip".into(), settings: Some(settings) }];
    let mut node = Node::join(daemon, v1::Hello { classes, ..hello(name, &[A]) }).await;
    let revision = node.snapshot().await.unwrap().revision;
    node.ack(revision).await;
    node
}

fn set(name: &str, settings: v1::ClassSettings) -> v1::UpdateClassRequest {
    let class = v1::Class { name: format!("classes/{name}"), settings: Some(settings), ..Default::default() };
    v1::UpdateClassRequest { class: Some(class), ..Default::default() }
}

#[tokio::test]
async fn a_class_is_created_changed_and_deleted_and_every_node_hears_of_it() {
    let daemon = Daemon::start();
    let mut node = joined(&daemon, "web-1").await;
    let mut operator = daemon.operator().await;
    let settings = v1::ClassSettings { rate: rate(100), ..Default::default() };
    let class = operator.update_class(set("vip", settings)).await.unwrap().into_inner();
    assert_eq!((class.revision, class.added, class.declaring_nodes), (2, false, 1));
    let effective = class.effective.unwrap();
    assert_eq!((effective.rate, effective.burst, effective.priority), (rate(100), Some(20), Some(100)));
    assert_eq!(class.declared.unwrap().rate, rate(10));
    let told = node.snapshot().await.unwrap();
    assert_eq!(told.classes, [v1::ClassConfig { name: "vip".into(), settings: Some(settings), added: false }]);

    let request = v1::CreateClassRequest { class_id: "gold".into(), ..Default::default() };
    operator.create_class(request.clone()).await.unwrap();
    let told = node.snapshot().await.unwrap().classes;
    assert_eq!((told.len(), told[0].name.as_str(), told[0].added), (2, "gold", true));
    assert_eq!(operator.create_class(request).await.unwrap_err().code(), Code::AlreadyExists);

    let delete = |name: &str| v1::DeleteClassRequest { name: format!("classes/{name}"), ..Default::default() };
    assert_eq!(operator.delete_class(delete("gold")).await.unwrap().into_inner().revision, 4);
    operator.delete_class(delete("vip")).await.unwrap();
    assert!(node.snapshots_until(5).await.1.classes.is_empty());
    assert_eq!(operator.delete_class(delete("gold")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(operator.delete_class(delete("vip")).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn masks_etags_and_validate_only_work_as_with_peers() {
    let daemon = Daemon::start();
    let _node = joined(&daemon, "web-1").await;
    let mut operator = daemon.operator().await;
    let settings = v1::ClassSettings { burst: Some(7), priority: Some(0), ..Default::default() };
    let class = operator.update_class(set("vip", settings)).await.unwrap().into_inner();
    let mask = |path: &str| Some(FieldMask { paths: vec![path.to_owned()] });
    let unset = v1::UpdateClassRequest { update_mask: mask("settings.burst"), ..set("vip", Default::default()) };
    let checked = v1::UpdateClassRequest { validate_only: true, ..unset.clone() };
    let would = operator.update_class(checked).await.unwrap().into_inner();
    assert_eq!((would.settings.unwrap().burst, would.etag.as_str(), would.revision), (None, class.etag.as_str(), 2));
    let now = operator.update_class(unset.clone()).await.unwrap().into_inner();
    assert_eq!((now.settings.unwrap().burst, now.settings.unwrap().priority, now.revision), (None, Some(0), 3));
    let mut late = unset;
    late.class.as_mut().unwrap().etag = class.etag;
    assert_eq!(operator.update_class(late).await.unwrap_err().code(), Code::Aborted);
    let unknown = set("gold", v1::ClassSettings { rate: rate(1), ..settings });
    assert_eq!(operator.update_class(unknown.clone()).await.unwrap_err().code(), Code::NotFound);
    let added = v1::UpdateClassRequest { allow_missing: true, ..unknown };
    assert!(operator.update_class(added).await.unwrap().into_inner().added);
    for bad in [
        set("a/b", settings),
        set("vip", v1::ClassSettings { share: Some(101), ..Default::default() }),
        v1::UpdateClassRequest { update_mask: mask("burst"), ..set("vip", settings) },
    ] {
        assert_eq!(operator.update_class(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let all = v1::ClassSettings { share: Some(60), ..Default::default() };
    operator.update_class(set("vip", all)).await.unwrap();
    let status = operator.update_class(set("gold", all)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("120 %"), "{status:?}");
}

#[tokio::test]
async fn the_list_has_pages_and_sums_usage_over_nodes() {
    let daemon = Daemon::start();
    let (one, two) = (joined(&daemon, "web-1").await, joined(&daemon, "web-2").await);
    let mut operator = daemon.operator().await;
    for name in ["bronze", "silver", "zinc"] {
        let request = v1::CreateClassRequest { class_id: name.into(), ..Default::default() };
        operator.create_class(request).await.unwrap();
    }
    let second = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let stats = |passed, queued, seconds| v1::ClassStats {
        name: "vip".into(),
        in_flight: 2,
        passed,
        rejected: 1,
        bytes: u64::MAX / 2 + 1,
        queued,
        queue_time: second(seconds),
        ..Default::default()
    };
    for (node, class) in [(&one, stats(10, 3, 9)), (&two, stats(5, 1, 3))] {
        node.say(Message::Stats(v1::Stats { classes: vec![class], ..Default::default() })).await;
    }
    let get = v1::GetClassRequest { name: "classes/vip".into() };
    let stats = eventually("both have reported", || async {
        let class = operator.clone().get_class(get.clone()).await.unwrap().into_inner();
        class.stats.filter(|stats| stats.nodes == 2)
    })
    .await;
    assert_eq!((stats.in_flight, stats.passed, stats.rejected, stats.bytes), (4, 15, 2, u64::MAX));
    assert_eq!((stats.queued, stats.queue_time), (4, second(3)));
    let (mut names, mut page_token) = (Vec::new(), String::new());
    for _ in 0..2 {
        let request = v1::ListClassesRequest { page_size: 2, page_token };
        let page = operator.list_classes(request).await.unwrap().into_inner();
        names.extend(page.classes.into_iter().map(|class| class.name));
        page_token = page.next_page_token;
    }
    assert_eq!(names, ["classes/bronze", "classes/silver", "classes/vip", "classes/zinc"]);
    assert_eq!(page_token, "");
}

#[tokio::test]
async fn classes_survive_kill_9() {
    let mut daemon = Daemon::start();
    let settings = v1::ClassSettings { rate: rate(7), ..Default::default() };
    let added = v1::UpdateClassRequest { allow_missing: true, ..set("vip", settings) };
    daemon.operator().await.update_class(added).await.unwrap();
    daemon.kill();
    daemon.start_again();
    let mut node = Node::join(&daemon, hello("web-1", &[A])).await;
    let snapshot = node.snapshot().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.classes[0].settings), (2, Some(settings)));
}

#[tokio::test]
async fn pincerctl_sets_shows_and_deletes_classes() {
    let daemon = Daemon::start();
    let node = joined(&daemon, "web-1").await.answering();
    let told = daemon.ctl(&["--wait", "20s", "class", "set", "vip", "--rate", "100r/s", "--delay", "nodelay"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.starts_with("revision 2\nnode web-1 applied in "), "{told:?}");
    let words = ["--rate", "30r/m", "--bandwidth", "512k", "--queue-timeout", "10s", "--share", "20"];
    let told = daemon.ctl(&[&["-o", "json", "class", "set", "free"], &words[..]].concat()).await.json();
    assert_eq!((&told["revision"], &told["class"]["added"]), (&3.into(), &true.into()));
    let table = daemon.ctl(&["class", "list"]).await.out;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}"));
    assert!(line("vip").contains("100r/s* (10r/s)") && line("vip").contains("nodelay*"), "{table}");
    assert!(
        line("free").contains("30r/m*") && line("free").contains("512k*") && line("free").contains("10s*"),
        "{table}"
    );
    let list = daemon.ctl(&["-o", "json", "class", "list"]).await.json();
    let vip = &list["classes"][1];
    assert_eq!(vip["set"], serde_json::json!({"rate": "100r/s", "delay": "nodelay"}));
    assert_eq!(vip["default"], serde_json::json!({"rate": "10r/s", "burst": "20"}));
    assert_eq!((&vip["effective"]["rate"], &vip["effective"]["burst"]), (&"100r/s".into(), &"20".into()));
    let table = daemon.ctl(&["class", "get", "vip"]).await.out;
    assert!(table.lines().any(|line| line.split_whitespace().eq(["rate", "10r/s", "100r/s", "100r/s"])), "{table}");
    let etag = vip["etag"].as_str().unwrap();
    let told = daemon.ctl(&["class", "set", "vip", "--rate", "unset", "--etag", "r1"]).await;
    assert_eq!(told.code, 3, "{told:?}");
    let told = daemon.ctl(&["class", "set", "vip", "--rate", "unset", "--etag", etag]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "revision 4\n"), "{told:?}");
    assert_eq!(daemon.ctl(&["class", "delete", "free"]).await.out, "revision 5\n");
    let told = daemon.ctl(&["class", "delete", "free"]).await;
    assert!(told.code == 2 && told.errors.contains("there is no classes/free"), "{told:?}");
    let told = daemon.ctl(&["class", "set", "free", "--burst", "5"]).await;
    assert!(told.code == 2 && told.errors.contains("classes/free has no rate in force"), "{told:?}");
    assert_eq!(daemon.ctl(&["class", "delete", "vip"]).await.code, 0);
    assert_eq!(daemon.ctl(&["class", "delete", "vip"]).await.code, 3, "only declared");
    node.abort();
}

#[tokio::test]
async fn apply_makes_peers_and_classes_so_in_one_revision() {
    let daemon = Daemon::start();
    let mut node = joined(&daemon, "web-1").await;
    assert_eq!(daemon.ctl(&["class", "set", "gone", "--queue", "1"]).await.code, 0);
    let text = format!(
        "upstreams:\n  llm:\n    peers:\n      {A}: {{ weight: 9 }}\nclasses:\n  vip: {{ rate: 50r/s, priority: 0 }}\n  new: {{ rate: 9r/s, delay: nodelay }}\n"
    );
    let (_folder, path) = file(&text);
    let path = path.to_str().unwrap();
    let told = daemon.ctl(&["apply", "-f", path, "--dry-run"]).await;
    assert!(told.out.contains("class vip: would be updated rate unset → 50r/s, priority unset → 0\n"), "{told:?}");
    assert!(told.out.contains("class gone: would be removed queue 1 → unset\n"), "{told:?}");
    let told = daemon.ctl(&["apply", "-f", path]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("class new: added rate unset → 9r/s, delay unset → nodelay\n"), "{told:?}");
    assert!(told.out.ends_with("revision 3\n"), "{told:?}");
    let (_, snapshot) = node.snapshots_until(3).await;
    assert_eq!(snapshot.upstreams[0].peers[0].weight, Some(9));
    assert_eq!(snapshot.classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>(), ["new", "vip"]);
    assert_eq!(daemon.ctl(&["apply", "-f", path]).await.out, "revision 3 has it all already\n");
    let (_folder, path) = file("classes: {vip: {rate: fast}}");
    let told = daemon.ctl(&["apply", "-f", path.to_str().unwrap()]).await;
    assert!(told.code == 2 && told.errors.contains("class vip: rate: \"fast\" is not a rate"), "{told:?}");
}
