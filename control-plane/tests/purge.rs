//! Purges: what operators ask, what nodes are told, and what comes of it when nodes are slow, gone
//! or of another mind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Daemon, Node, eventually, hello};
use pincer_proto::{
    google::rpc,
    v1::{self, purge, purge_cache_request as asked},
};
use tonic::Code;
use tonic_types::StatusExt as _;

const A: &str = "127.0.0.1:8001";
const CANARY: &str = "GEThttpexample/canary?user=4711";

fn one(text: &str) -> v1::PurgeCacheRequest {
    v1::PurgeCacheRequest {
        scope: Some(asked::Scope::Cache("answers".into())),
        entries: Some(asked::Entries::Key(v1::CacheKey { text: text.into() })),
        ..Default::default()
    }
}

fn all_of(upstream: &str) -> v1::PurgeCacheRequest {
    v1::PurgeCacheRequest {
        scope: Some(asked::Scope::Upstream(format!("upstreams/{upstream}"))),
        entries: Some(asked::Entries::All(())),
        ..Default::default()
    }
}

fn error(code: Code, message: &str) -> Option<rpc::Status> {
    Some(rpc::Status { code: code.into(), message: message.into(), details: vec![] })
}

/// Answers every purge with these numbers until the stream ends.
fn purging(mut node: Node, removed: u64, error: Option<rpc::Status>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let purge = node.purge().await;
            node.purged(purge.id, removed, error.clone()).await;
        }
    })
}

#[tokio::test]
async fn every_connected_node_is_told_the_digest_and_answers_for_itself() {
    let daemon = Daemon::start();
    let (mut web1, mut web2) = (Node::joined(&daemon, "web-1", &[A]).await, Node::joined(&daemon, "web-2", &[A]).await);
    let mut operator = daemon.operator().await;
    let answer = tokio::spawn(async move { operator.purge_cache(one(CANARY)).await });
    let first = web1.purge().await;
    assert_eq!(first.scope, Some(purge::Scope::Cache("answers".into())));
    // From `printf %s KEY | md5sum`.
    let Some(purge::Entries::Key(digest)) = &first.entries else { panic!("one key was asked for") };
    let hex: String = digest.md5.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "06b0b87f40a15274a149405bb0395a06");
    assert_eq!(first.timeout.unwrap().seconds, 30);
    web1.purged(first.id, 2, None).await;
    let second = web2.purge().await;
    web2.purged(second.id, 1, error(Code::Internal, "a file stays")).await;
    let answer = answer.await.unwrap().unwrap().into_inner();
    let seen: Vec<_> = answer.results.iter().map(|r| (r.node.as_str(), r.removed, r.bytes)).collect();
    assert_eq!(seen, [("nodes/web-1", 2, 8192), ("nodes/web-2", 1, 4096)]);
    assert!(answer.results[0].error.is_none() && answer.results[0].duration.is_some());
    assert_eq!(answer.results[1].error.as_ref().unwrap().code, i32::from(Code::Internal));
    assert!(answer.not_connected.is_empty());
    assert_eq!(
        daemon.operator().await.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().revision,
        1,
        "a purge makes no revision"
    );
}

#[tokio::test]
async fn nodes_that_are_away_are_named_and_one_alone_can_be_asked() {
    let daemon = Daemon::start();
    let gone = Node::joined(&daemon, "gone", &[A]).await;
    drop(gone);
    let here = purging(Node::joined(&daemon, "here", &[A]).await, 3, None);
    let mut operator = daemon.operator().await;
    let answer = eventually("the node is away", || {
        let mut operator = operator.clone();
        async move {
            let answer = operator.purge_cache(all_of("llm")).await.ok()?.into_inner();
            (answer.not_connected == ["nodes/gone"]).then_some(answer)
        }
    })
    .await;
    assert_eq!((answer.results.len(), answer.results[0].removed), (1, 3));
    let only = |node: &str| v1::PurgeCacheRequest { node: format!("nodes/{node}"), ..all_of("llm") };
    let answer = operator.purge_cache(only("here")).await.unwrap().into_inner();
    assert_eq!((answer.results.len(), answer.not_connected.len()), (1, 0));
    let refused = operator.purge_cache(only("gone")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "NOT_CONNECTED");
    assert_eq!(operator.purge_cache(only("never")).await.unwrap_err().code(), Code::NotFound);
    here.abort();
}

#[tokio::test]
async fn a_place_that_no_node_knows_is_not_found_and_one_that_some_know_is() {
    let daemon = Daemon::start();
    let without = purging(Node::joined(&daemon, "a", &[A]).await, 0, error(Code::NotFound, "no cache \"answers\""));
    let mut operator = daemon.operator().await;
    let refused = operator.purge_cache(one("x")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "no cache \"answers\""));
    let with = purging(Node::joined(&daemon, "b", &[A]).await, 1, None);
    let answer = operator.purge_cache(one("x")).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 2);
    without.abort();
    with.abort();
}

#[tokio::test]
async fn a_node_that_leaves_or_says_nothing_is_told_of_and_holds_up_nobody() {
    let daemon = Daemon::start();
    let mut silent = Node::joined(&daemon, "silent", &[A]).await;
    let mut leaving = Node::joined(&daemon, "leaving", &[A]).await;
    let fine = purging(Node::joined(&daemon, "fine", &[A]).await, 1, None);
    let mut operator = daemon.operator().await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let answer = tokio::spawn(async move {
        operator.purge_cache(v1::PurgeCacheRequest { timeout, ..all_of("llm") }).await.unwrap().into_inner()
    });
    leaving.purge().await;
    drop(leaving);
    let late = silent.purge().await;
    let answer = answer.await.unwrap();
    let seen: Vec<_> = answer.results.iter().map(|r| (r.node.as_str(), r.error.as_ref().map(|e| e.code))).collect();
    let codes = [Code::DeadlineExceeded, Code::Unavailable].map(i32::from);
    assert_eq!(seen, [("nodes/fine", None), ("nodes/leaving", Some(codes[1])), ("nodes/silent", Some(codes[0]))]);
    silent.purged(late.id, 9, None).await;
    silent.purged(12_345, 9, None).await;
    let mut operator = daemon.operator().await;
    let again = tokio::spawn(async move { operator.purge_cache(all_of("llm")).await.unwrap().into_inner() });
    let purge = silent.purge().await;
    silent.purged(purge.id, 5, None).await;
    let removed: Vec<_> = again.await.unwrap().results.iter().map(|r| r.removed).collect();
    assert_eq!(removed, [1, 5], "late and foreign answers count for nothing");
    fine.abort();
}

#[tokio::test]
async fn of_two_streams_of_an_instance_the_newer_is_asked_and_the_older_if_that_ends() {
    let daemon = Daemon::start();
    let mut old = Node::joined(&daemon, "web-1", &[A]).await;
    let mut new = Node::join(&daemon, hello("web-1", &[A])).await;
    new.snapshot().await.unwrap();
    let mut operator = daemon.operator().await;
    let answer = tokio::spawn(async move { operator.purge_cache(all_of("llm")).await.unwrap().into_inner() });
    new.purge().await;
    drop(new);
    let purge = old.purge().await;
    old.purged(purge.id, 7, None).await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.results.len(), answer.results[0].removed), (1, 7));
}

#[tokio::test]
async fn requests_of_the_wrong_form_are_refused_with_the_field() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let location = |name: String| Some(asked::Scope::Location(name));
    for (field, request) in [
        ("scope", v1::PurgeCacheRequest { scope: None, ..one("x") }),
        ("entries", v1::PurgeCacheRequest { entries: None, ..one("x") }),
        ("key.text", one("")),
        ("key.text", one(&"x".repeat(40_000))),
        ("upstream", all_of("a/b")),
        ("location", v1::PurgeCacheRequest { scope: location(String::new()), ..one("x") }),
        ("location", v1::PurgeCacheRequest { scope: location("a\nb".into()), ..one("x") }),
        ("location", v1::PurgeCacheRequest { scope: location("x".repeat(2000)), ..one("x") }),
        ("node", v1::PurgeCacheRequest { node: "web-1".into(), ..one("x") }),
        ("timeout", v1::PurgeCacheRequest { timeout: seconds(0), ..one("x") }),
        ("timeout", v1::PurgeCacheRequest { timeout: seconds(301), ..one("x") }),
        ("timeout", v1::PurgeCacheRequest { timeout: seconds(-1), ..one("x") }),
    ] {
        let refused = operator.purge_cache(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
        assert_eq!(refused.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
}

#[tokio::test]
async fn only_operators_may_purge_and_not_without_a_node() {
    let daemon = Daemon::start();
    let mut operator = daemon.operator().await;
    let refused = operator.purge_cache(all_of("llm")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "nobody is connected");
    let path = |name: &str| daemon.dir().join(name).display().to_string();
    let (cert, key) = (path("node.pem"), path("node.key"));
    let told = daemon.ctl(&["--cert", &cert, "--key", &key, "cache", "purge", "--every-cache", "--all"]).await;
    assert_eq!(told.code, 2, "{told:?}");
    assert!(told.errors.contains("OU=pincer-operator"), "{told:?}");
}

#[tokio::test]
async fn pincerctl_shows_each_node_and_fails_when_anything_is_left() {
    let daemon = Daemon::start();
    let fine = purging(Node::joined(&daemon, "fine", &[A]).await, 2, None);
    let told = daemon.ctl(&["cache", "purge", "--upstream", "llm", "--all"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("fine-zone") && told.out.ends_with("removed 2\n"), "{told:?}");
    let told = daemon.ctl(&["-o", "json", "cache", "purge", "--cache", "answers", "--cache-key", CANARY]).await;
    let json = told.json();
    assert_eq!((&json["removed"], &json["bytes"]), (&2.into(), &8192.into()));
    assert_eq!((&json["nodes"][0]["node"], &json["nodes"][0]["outcome"]), (&"fine".into(), &"done".into()));
    assert!(!told.out.contains("canary"), "{told:?}");
    let full = purging(Node::joined(&daemon, "full", &[A]).await, 1, error(Code::Internal, "a file\u{1b} stays"));
    let told = daemon.ctl(&["cache", "purge", "--location", "/v1/", "--all"]).await;
    assert_eq!(told.code, 5, "{told:?}");
    assert!(told.errors.contains("1 nodes failed") && told.out.contains("a file  stays"), "{told:?}");
    full.abort();
    eventually("the node is away", || async {
        let told = daemon.ctl(&["cache", "purge", "--every-cache", "--all"]).await;
        (told.code == 5
            && told.out.contains("not connected")
            && told.errors.contains("1 known nodes are not connected (node delete forgets"))
        .then_some(())
    })
    .await;
    assert_eq!(daemon.ctl(&["cache", "purge", "--all", "--upstream", "llm", "--node", "full"]).await.code, 3);
    assert_eq!(daemon.ctl(&["cache", "purge", "--all", "--upstream", "llm", "--node", "fine"]).await.code, 0);
    for arguments in [
        &["cache", "purge"][..],
        &["cache", "purge", "--all"],
        &["cache", "purge", "--upstream", "llm"],
        &["cache", "purge", "--upstream", "llm", "--cache", "answers", "--all"],
        &["cache", "purge", "--upstream", "llm", "--cache-key", CANARY, "--all"],
        &["cache", "purge", "--upstream", "a/b", "--cache-key", CANARY],
        &["cache", "purge", "--upstream", "llm", "--cache-key", CANARY, "--node", "a/b"],
        &["cache", "purge", "--upstream", "llm", "--cache-key", CANARY, "--timeout", "1ms"],
        &["cache", "purge", "--upstream", "llm", "--all", "--wait", "5s"],
        &["cache", "purge", "--upstream", "llm", "--cache-key", "-"],
    ] {
        let told = daemon.ctl(arguments).await;
        assert_eq!(told.code, 2, "{arguments:?}: {told:?}");
        assert!(!told.errors.contains("canary"), "{told:?}");
    }
    fine.abort();
}

#[tokio::test]
async fn no_log_of_pincerd_has_the_key_or_its_digest() {
    let daemon = Daemon::start_tracing();
    let node = purging(Node::joined(&daemon, "web-1", &[A]).await, 1, None);
    assert_eq!(daemon.ctl(&["cache", "purge", "--cache", "answers", "--cache-key", CANARY]).await.code, 0);
    let log = std::fs::read_to_string(daemon.dir().join("log")).unwrap();
    assert!(log.contains("purge done") && log.contains("TRACE"), "the log is the one that was asked for: {log}");
    assert!(!log.contains("canary") && !log.contains("06b0b87f40a15274a149405bb0395a06"), "the key is in the log");
    assert!(!log.contains("99, 97, 110, 97, 114, 121"), "the key's bytes are in the log");
    node.abort();
}
