//! pincerctl as operators use it: its output and its exit status.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Daemon, Node, PATIENCE, ctl, eventually, file, weight};
use pincer_proto::v1;
use tokio::{io::AsyncBufReadExt as _, time};

const A: &str = "127.0.0.1:8001";
const B: &str = "127.0.0.1:8002";
const NEW: &str = "127.0.0.1:8009";

#[tokio::test]
async fn a_change_is_made_and_shown() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A, B]).await;
    let told = daemon.ctl(&["peer", "set", "llm", A, "--weight", "9", "--max-conns", "4", "--state", "draining"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "revision 2\n"), "{told:?}");
    let peers = daemon.ctl(&["-o", "json", "peer", "list", "llm"]).await.json();
    assert_eq!(peers["peers"][0]["address"], A);
    assert_eq!(peers["peers"][0]["set"], serde_json::json!({"weight": 9, "max_conns": 4, "state": "draining"}));
    assert_eq!(peers["peers"][0]["declared"]["weight"], 1);
    assert_eq!((&peers["peers"][1]["weight"], &peers["peers"][1]["state"]), (&1.into(), &"active".into()));
    let table = daemon.ctl(&["peer", "list", "llm"]).await.out;
    assert!(table.contains("9*") && table.contains("draining*"), "{table}");
    let told = daemon.ctl(&["-o", "json", "peer", "set", "llm", A, "--weight", "unset"]).await.json();
    assert_eq!((&told["revision"], &told["peer"]["weight"]), (&3.into(), &1.into()));
    assert_eq!(daemon.ctl(&["peer", "add", "llm", NEW, "--weight", "2"]).await.code, 0);
    let upstream = daemon.ctl(&["-o", "json", "upstream", "get", "llm"]).await.json();
    assert_eq!((&upstream["peer_count"], &upstream["peers"][2]["added"]), (&3.into(), &true.into()));
    let table = daemon.ctl(&["upstream", "get", "llm"]).await.out;
    assert!(table.starts_with("llm: declared by 1 nodes") && table.contains(NEW), "{table}");
    assert_eq!(daemon.ctl(&["peer", "remove", "llm", NEW]).await.code, 0);
    let table = daemon.ctl(&["upstream", "list"]).await.out;
    assert_eq!(
        table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["llm", "2", "0", "1", "0", "0", "3"]
    );
    let nodes = daemon.ctl(&["node", "list", "-o", "json"]).await.json();
    assert_eq!((&nodes["revision"], &nodes["nodes"][0]["node"]), (&5.into(), &"web-1".into()));
    let table = daemon.ctl(&["node", "list"]).await.out;
    assert!(table.contains("web-1") && table.ends_with("revision 5\n"), "{table}");
}

#[tokio::test]
async fn wait_returns_when_every_node_has_it_and_tells_how_long_each_took() {
    let daemon = Daemon::start();
    let one = Node::joined(&daemon, "web-1", &[A]).await.answering();
    let two = Node::joined(&daemon, "web-2", &[A]).await.answering();
    let told = daemon.ctl(&["--wait", "20s", "peer", "set", "llm", A, "--weight", "9"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    let mut lines: Vec<_> = told.out.lines().collect();
    lines.sort_unstable();
    assert!(lines[0].starts_with("node web-1 applied in ") && lines[0].ends_with("ms"), "{told:?}");
    assert!(lines[1].starts_with("node web-2 applied in "), "{told:?}");
    assert_eq!(lines[2], "revision 2");
    let told = daemon.ctl(&["--wait", "20s", "-o", "json", "peer", "set", "llm", A, "--weight", "8"]).await.json();
    assert_eq!((&told["revision"], told["nodes"].as_array().unwrap().len()), (&3.into(), 2));
    for node in told["nodes"].as_array().unwrap() {
        assert_eq!(node["outcome"], "applied");
        assert!(node["ms"].as_f64().unwrap() > 0.0);
    }
    one.abort();
    two.abort();
}

#[tokio::test]
async fn wait_fails_when_a_node_refuses_and_says_why() {
    let daemon = Daemon::start();
    let fine = Node::joined(&daemon, "fine", &[A]).await.answering();
    let mut strict = Node::joined(&daemon, "strict", &[A]).await;
    let refusing = tokio::spawn(async move {
        let revision = strict.snapshot().await.unwrap().revision;
        strict.nack(revision, "address not in pincer_allow_peers\u{1b}[2J").await;
        strict.snapshot().await
    });
    let told = daemon.ctl(&["--wait", "20s", "peer", "add", "llm", NEW]).await;
    assert_eq!(told.code, 5, "{told:?}");
    assert!(told.out.contains("node strict refused: address not in pincer_allow_peers [2J\n"), "{told:?}");
    assert!(told.out.contains("node fine applied in "), "{told:?}");
    assert!(told.errors.contains("revision 2 is made, but a node refused it"), "{told:?}");
    let nodes = daemon.ctl(&["-o", "json", "node", "list"]).await.json();
    assert_eq!(
        (&nodes["nodes"][1]["refused_revision"], &nodes["nodes"][1]["applied_revision"]),
        (&2.into(), &1.into())
    );
    fine.abort();
    refusing.abort();
}

#[tokio::test]
async fn a_change_that_is_not_waited_for_tells_of_nodes_that_refuse() {
    let daemon = Daemon::start();
    let fine = Node::joined(&daemon, "fine", &[A]).await.answering();
    let mut strict = Node::joined(&daemon, "strict", &[A]).await;
    let told = daemon.ctl(&["peer", "add", "llm", NEW]).await;
    assert_eq!((told.code, told.errors.as_str()), (0, ""), "nobody has refused yet: {told:?}");
    let (_, snapshot) = strict.snapshots_until(2).await;
    strict.nack(snapshot.revision, "address not in pincer_allow_peers\u{1b}[2J").await;
    let operator = daemon.operator().await;
    eventually("the refusal is known", || async {
        let request = v1::GetNodeRequest { name: "nodes/strict".into() };
        operator.clone().get_node(request).await.unwrap().into_inner().last_error
    })
    .await;
    let told = daemon.ctl(&["peer", "set", "llm", A, "--weight", "9"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "revision 3\n"), "{told:?}");
    let said = "pincerctl: node strict refuses revision 2: address not in pincer_allow_peers [2J; it keeps serving revision 1, and has not responded to revision 3 yet\n";
    assert_eq!(told.errors, said);
    let told = daemon.ctl(&["-o", "json", "peer", "remove", "llm", NEW]).await;
    assert_eq!((told.code, &told.json()["revision"]), (0, &4.into()), "{told:?}");
    let (_, snapshot) = strict.snapshots_until(4).await;
    strict.ack(snapshot.revision).await;
    eventually("the revision is acknowledged", || async {
        let request = v1::GetNodeRequest { name: "nodes/strict".into() };
        let node = operator.clone().get_node(request).await.unwrap().into_inner();
        node.last_error.is_none().then_some(())
    })
    .await;
    let told = daemon.ctl(&["peer", "set", "llm", A, "--weight", "8"]).await;
    assert_eq!((told.code, told.errors.as_str()), (0, ""), "{told:?}");
    fine.abort();
}

#[tokio::test]
async fn a_node_that_is_gone_is_deleted_and_one_that_is_connected_is_not() {
    let daemon = Daemon::start();
    let gone = Node::joined(&daemon, "gone", &[A]).await;
    let told = daemon.ctl(&["node", "delete", "gone"]).await;
    assert_eq!((told.code, told.out.as_str()), (3, ""), "{told:?}");
    assert!(told.errors.contains("node \"gone\" is connected: only a node that is gone can be deleted"), "{told:?}");
    drop(gone);
    let deleted = eventually("the node is away", || async {
        let told = daemon.ctl(&["node", "delete", "gone"]).await;
        (told.code != 3).then_some(told)
    })
    .await;
    assert_eq!((deleted.code, deleted.out.as_str(), deleted.errors.as_str()), (0, "node gone forgotten\n", ""));
    let nodes = daemon.ctl(&["node", "list", "-o", "json"]).await.json();
    assert_eq!(nodes["nodes"], serde_json::json!([]));
    let told = daemon.ctl(&["node", "delete", "gone"]).await;
    assert_eq!((told.code, told.errors.as_str()), (2, "pincerctl: nodes/gone is not known\n"), "{told:?}");
    assert_eq!(daemon.ctl(&["node", "delete", "a/b"]).await.code, 2);
    assert_eq!(daemon.ctl(&["--wait", "1s", "node", "delete", "gone"]).await.code, 2);
}

#[tokio::test]
async fn wait_fails_when_a_node_is_silent_or_leaves() {
    let daemon = Daemon::start();
    let silent = Node::joined(&daemon, "silent", &[A]).await;
    let told = daemon.ctl(&["--wait", "300ms", "-o", "json", "peer", "set", "llm", A, "--weight", "9"]).await;
    assert_eq!((told.code, &told.json()["nodes"][0]["outcome"]), (5, &"pending".into()), "{told:?}");
    let told = daemon.ctl(&["--wait", "300ms", "peer", "set", "llm", A, "--weight", "8"]).await;
    assert_eq!(told.code, 5);
    assert!(told.out.contains("node silent not in time\n"), "{told:?}");
    assert!(told.errors.contains("not every node acknowledged it in time"), "{told:?}");
    drop(silent);
    let operator = daemon.operator().await;
    eventually("the node is away", || async {
        let node =
            operator.clone().get_node(v1::GetNodeRequest { name: "nodes/silent".into() }).await.unwrap().into_inner();
        (!node.connected).then_some(())
    })
    .await;
    let told = daemon.ctl(&["--wait", "300ms", "peer", "set", "llm", A, "--weight", "7"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "revision 4\n"), "nobody to wait for: {told:?}");
    assert!(told.errors.contains("no node is connected"), "{told:?}");
}

#[tokio::test]
async fn conflicts_exit_with_3() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let peers = daemon.ctl(&["-o", "json", "peer", "list", "llm"]).await.json();
    let etag = peers["peers"][0]["etag"].as_str().unwrap().to_owned();
    let set = ["peer", "set", "llm", A, "--weight", "9", "--etag", &etag];
    assert_eq!(daemon.ctl(&set).await.code, 0);
    let told = daemon.ctl(&set).await;
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.errors.contains("was changed since"), "{told:?}");
    assert_eq!(daemon.ctl(&["peer", "add", "llm", A]).await.code, 3, "declared already");
    let told = daemon.ctl(&["peer", "remove", "llm", A]).await;
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.errors.contains("set its state to down"), "{told:?}");
}

#[tokio::test]
async fn mistakes_exit_with_2_before_anything_is_sent() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    for arguments in [
        &["peer", "set", "llm", A][..],
        &["peer", "set", "llm", A, "--weight", "65536"],
        &["peer", "set", "llm", A, "--weight", "-1"],
        &["peer", "set", "llm", A, "--state", "off"],
        &["peer", "set", "llm", "gpu1:80", "--weight", "1"],
        &["peer", "set", "a/b", A, "--weight", "1"],
        &["peer", "set", "llm", NEW, "--weight", "1"],
        &["peer", "list", "other"],
        &["upstream", "get", "other"],
        &["--wait", "5s", "node", "list"],
        &["--wait", "soon", "peer", "set", "llm", A, "--weight", "1"],
        &["apply", "-f", "/nonexistent"],
        &["class", "set", "vip"],
        &["class", "set", "vip", "--rate", "100"],
        &["class", "set", "a/b", "--rate", "1r/s"],
        &["class", "get", "other"],
        &["key", "revoke", "other"],
        &["key", "create", "--tenant", "acme", "--class", "a b"],
        &[],
    ] {
        let told = daemon.ctl(arguments).await;
        assert_eq!(told.code, 2, "{arguments:?}: {told:?}");
        assert!(!told.errors.is_empty() && told.out.is_empty());
    }
    assert_eq!(ctl(&["node", "list"]).await.code, 2, "nobody said where pincerd is");
    let mut operator = daemon.operator().await;
    assert_eq!(operator.update_peer(weight(A, 1)).await.unwrap().into_inner().revision, 2, "nothing had been changed");
}

#[tokio::test]
async fn a_pincerd_that_is_away_exits_with_4() {
    let mut daemon = Daemon::start();
    daemon.kill();
    let told = daemon.ctl(&["node", "list"]).await;
    assert_eq!(told.code, 4, "{told:?}");
    assert!(told.errors.contains("refused"), "{told:?}");
    let empty = tempfile::tempdir().unwrap();
    let told = ctl(&["--dev", empty.path().to_str().unwrap(), "node", "list"]).await;
    assert_eq!(told.code, 4, "{told:?}");
}

#[tokio::test]
async fn flags_beat_the_environment_and_single_files_beat_the_folder() {
    let daemon = Daemon::start();
    let path = |name: &str| daemon.dir().join(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("operator.pem"), path("operator.key"));
    let files = ["--endpoint", &daemon.grpc, "--ca", &ca, "--cert", &cert, "--key", &key];
    assert_eq!(ctl(&[&files[..], &["node", "list"]].concat()).await.code, 0);
    let told = daemon.ctl(&["--endpoint", "127.0.0.1:1", "node", "list"]).await;
    assert_eq!(told.code, 4, "{told:?}");
    let (node_cert, node_key) = (path("node.pem"), path("node.key"));
    let told = daemon.ctl(&["--cert", &node_cert, "--key", &node_key, "node", "list"]).await;
    assert_eq!(told.code, 2, "{told:?}");
    assert!(told.errors.contains("OU=pincer-operator"), "{told:?}");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pincerctl"));
    command.args(["node", "list"]).env_clear().env("PINCER_DEV_DIR", "/nonexistent");
    command.env("PINCER_ENDPOINT", &daemon.grpc).env("PINCER_CA", ca).env("PINCER_CERT", cert).env("PINCER_KEY", key);
    assert!(command.output().await.unwrap().status.success());
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_with_its_file() {
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let path = |of: &Daemon, name: &str| of.dir().join(name).display().to_string();
    let (cert, key) = (path(&other, "operator.pem"), path(&other, "operator.key"));
    // Which of the two ends of the connection notices first is chance.
    for _ in 0..5 {
        let told = daemon.ctl(&["--cert", &cert, "--key", &key, "node", "list"]).await;
        let refused = format!("refuses the certificate in {cert}: UnknownCA");
        assert!(told.code == 4 && told.errors.contains(&refused), "{told:?}");
    }
    let told = daemon.ctl(&["--ca", &path(&other, "ca.pem"), "node", "list"]).await;
    assert!(told.code == 4 && told.errors.contains("invalid peer certificate: UnknownIssuer"), "{told:?}");
    let told = daemon.ctl(&["--key", &key, "node", "list"]).await;
    let said = format!("cannot use {key}: it is not the key of the certificate in");
    assert!(told.code == 2 && told.errors.contains(&said), "{told:?}");
}

#[tokio::test]
async fn apply_shows_first_and_changes_then() {
    let daemon = Daemon::start();
    let node = Node::joined(&daemon, "web-1", &[A, B]).await.answering();
    let text = format!(
        "upstreams:\n  llm:\n    peers:\n      {A}: {{ weight: 9 }}\n      {NEW}: {{ add: true, state: draining }}\n"
    );
    let (_folder, path) = file(&text);
    let path = path.to_str().unwrap();
    let told = daemon.ctl(&["apply", "-f", path, "--dry-run"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains(&format!("llm {A}: would be updated weight unset → 9\n")), "{told:?}");
    assert!(told.out.ends_with("revision 1 stays in force (dry run)\n"), "{told:?}");
    let told = daemon.ctl(&["--wait", "20s", "apply", "-f", path]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains(&format!("llm {NEW}: added state unset → draining\n")), "{told:?}");
    assert!(told.out.contains("revision 2\n"), "{told:?}");
    let told = daemon.ctl(&["apply", "-f", path]).await;
    assert_eq!(told.out, "revision 2 has it all already\n");
    let (_folder, path) = file("{\"upstreams\": {\"llm\": {\"peers\": {}}}}");
    let told = daemon.ctl(&["-o", "json", "apply", "-f", path.to_str().unwrap()]).await.json();
    assert_eq!((&told["revision"], told["changes"].as_array().unwrap().len()), (&3.into(), 2));
    let (_folder, path) = file("upstreams: {llm: {peers: {'127.0.0.1:1': {wieght: 1}}}}");
    let told = daemon.ctl(&["apply", "-f", path.to_str().unwrap()]).await;
    assert_eq!(told.code, 2, "{told:?}");
    assert!(told.errors.contains("wieght"), "{told:?}");
    node.abort();
}

#[tokio::test]
async fn watch_tells_of_nodes_and_revisions_as_they_come() {
    let mut daemon = Daemon::start();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pincerctl"));
    command.args(["--dev", daemon.dir().to_str().unwrap(), "watch"]).env_clear().kill_on_drop(true);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line_with = async |part: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(part) {
                    return line;
                }
            }
            panic!("watch ended before {part:?}");
        };
        time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no line with {part:?}"))
    };
    line_with("revision 1").await;
    let node = Node::joined(&daemon, "web-1", &[A]).await.answering();
    line_with("node web-1 connected, applied 1 in ").await;
    daemon.operator().await.update_peer(weight(A, 5)).await.unwrap();
    line_with("revision 2").await;
    line_with("node web-1 connected, applied 2 in ").await;
    node.abort();
    line_with("node web-1 not connected, applied 2").await;
    daemon.kill();
    let status = time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(4));
}

/// pincerctl with this standard output.
fn with_output(daemon: &Daemon, arguments: &[&str], output: std::process::Stdio) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pincerctl"));
    command.arg("--dev").arg(daemon.dir()).args(arguments).env_clear().kill_on_drop(true);
    command.stdin(std::process::Stdio::null()).stdout(output).stderr(std::process::Stdio::piped());
    command
}

#[tokio::test]
async fn a_watch_ends_when_nobody_reads_it_any_more() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let daemon = Daemon::start();
    let mut watch = with_output(&daemon, &["watch"], std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "revision 1");
    drop(lines);
    let status = tokio::time::timeout(common::PATIENCE, watch.wait()).await.expect("it ends without an event").unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_key_whose_secret_cannot_be_printed_is_revoked_and_named() {
    let daemon = Daemon::start();
    for (id, flags) in [("table", &[][..]), ("json", &["-o", "json"]), ("wait", &["-o", "json", "--wait", "1s"])] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let arguments = [flags, &["key", "create", "--tenant", "t", "--class", "c", "--id", id]].concat();
        let output = with_output(&daemon, &arguments, full.into()).spawn().unwrap().wait_with_output().await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(&format!("keys/{id} is made, but its secret is lost")), "{errors}");
        assert!(errors.contains("No space left on device") && errors.contains("the key is revoked"), "{errors}");
    }
    let keys = daemon.ctl(&["-o", "json", "key", "list"]).await.json();
    assert!(keys["keys"].as_array().unwrap().iter().all(|key| key["state"] == "revoked"), "{keys}");
}
