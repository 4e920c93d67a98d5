//! pincerd's services against a node that pretends and a real operator's client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Daemon, Node, add, eventually, hello, peer_name, weight};
use pincer_proto::v1::{self, node_message::Message, peer_change::Kind};
use prost_types::FieldMask;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

const A: &str = "127.0.0.1:8001";
const B: &str = "127.0.0.1:8002";
const NEW: &str = "127.0.0.1:8009";

#[tokio::test]
async fn a_node_gets_the_whole_state_at_once_and_again_with_every_change() {
    let daemon = Daemon::start();
    let mut node = Node::join(&daemon, hello("web-1", &[A, B])).await;
    let first = node.snapshot().await.unwrap();
    assert_eq!((first.revision, first.upstreams.len()), (1, 0));
    let mut operator = daemon.operator().await;
    let peer = operator.update_peer(weight(A, 0)).await.unwrap().into_inner();
    assert_eq!((peer.revision, peer.weight), (2, Some(0)));
    let second = node.snapshot().await.unwrap();
    assert_eq!(second.revision, 2);
    assert_eq!(second.upstreams[0].name, "llm");
    assert_eq!((second.upstreams[0].peers[0].address.as_str(), second.upstreams[0].peers[0].weight), (A, Some(0)));
    operator.create_peer(add(NEW)).await.unwrap();
    let third = node.snapshot().await.unwrap();
    assert_eq!(third.upstreams[0].peers.iter().map(|p| p.added).collect::<Vec<_>>(), [false, true]);
    let deleted = operator.delete_peer(v1::DeletePeerRequest { name: peer_name(NEW), ..Default::default() }).await;
    assert_eq!(deleted.unwrap().into_inner().revision, 4);
    assert_eq!(node.snapshot().await.unwrap().upstreams[0].peers.len(), 1);
    let mut late = Node::join(&daemon, hello("web-2", &[A])).await;
    assert_eq!(late.snapshot().await.unwrap().revision, 4, "a node that comes later has it at once");
}

#[tokio::test]
async fn operators_see_the_union_of_what_is_declared_and_added() {
    let daemon = Daemon::start();
    let _one = Node::joined(&daemon, "web-1", &[A, B]).await;
    let _two = Node::joined(&daemon, "web-2", &[A]).await;
    let mut operator = daemon.operator().await;
    operator.create_peer(add(NEW)).await.unwrap();
    let list = v1::ListPeersRequest { parent: "upstreams/llm".into(), ..Default::default() };
    let peers = operator.list_peers(list).await.unwrap().into_inner().peers;
    let seen: Vec<_> = peers.iter().map(|p| (p.name.clone(), p.declaring_nodes, p.added)).collect();
    assert_eq!(seen, [(peer_name(A), 2, false), (peer_name(B), 1, false), (peer_name(NEW), 0, true)]);
    let upstream =
        operator.get_upstream(v1::GetUpstreamRequest { name: "upstreams/llm".into() }).await.unwrap().into_inner();
    assert_eq!((upstream.declaring_nodes, upstream.peers, upstream.added_peers), (2, 3, 1));
}

#[tokio::test]
async fn setting_a_peer_that_nobody_knows_is_not_found() {
    let daemon = Daemon::start();
    let mut operator = daemon.operator().await;
    let status = operator.update_peer(weight(NEW, 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.get_error_details().error_info().unwrap().reason.as_str()),
        (Code::NotFound, "NO_UPSTREAM")
    );
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let status = operator.update_peer(weight(NEW, 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.get_error_details().error_info().unwrap().reason.as_str()),
        (Code::NotFound, "NO_PEER")
    );
    operator.create_peer(add(NEW)).await.unwrap();
    operator.update_peer(weight(NEW, 1)).await.unwrap();
    assert_eq!(operator.create_peer(add(NEW)).await.unwrap_err().code(), Code::AlreadyExists);
    let declared = v1::DeletePeerRequest { name: peer_name(A), ..Default::default() };
    assert_eq!(operator.delete_peer(declared).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn validate_only_checks_and_changes_nothing() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let checked = operator.update_peer(v1::UpdatePeerRequest { validate_only: true, ..weight(A, 7) }).await.unwrap();
    assert_eq!((checked.get_ref().weight, checked.get_ref().revision), (Some(7), 0));
    let bad = v1::UpdatePeerRequest { validate_only: true, ..weight(A, 70_000) };
    assert_eq!(operator.update_peer(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let peer = operator.get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.unwrap().into_inner();
    assert_eq!((peer.weight, peer.etag.as_str()), (None, checked.get_ref().etag.as_str()));
}

#[tokio::test]
async fn an_unset_field_in_the_mask_goes_back_to_nginx_conf() {
    let daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    operator.update_peer(weight(A, 7)).await.unwrap();
    let unset = v1::UpdatePeerRequest {
        peer: Some(v1::Peer { name: peer_name(A), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["weight".into()] }),
        validate_only: false,
    };
    let peer = operator.update_peer(unset).await.unwrap().into_inner();
    assert_eq!((peer.weight, peer.revision), (None, 3));
    assert!(node.snapshots_until(3).await.1.upstreams.is_empty());
}

#[tokio::test]
async fn the_slower_of_two_operators_is_told_so() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let seen = operator.get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.unwrap().into_inner();
    operator.update_peer(weight(A, 2)).await.unwrap();
    let mut late = weight(A, 3);
    late.peer.as_mut().unwrap().etag = seen.etag;
    assert_eq!(operator.update_peer(late).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn many_operators_at_once_each_make_a_revision_of_their_own() {
    let daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A, B]).await;
    let operator = daemon.operator().await;
    let change = |n: u32| {
        let mut operator = operator.clone();
        async move {
            operator
                .update_peer(weight(if n.is_multiple_of(2) { A } else { B }, n + 2))
                .await
                .unwrap()
                .into_inner()
                .revision
        }
    };
    let changes: Vec<_> = (0..40).map(|n| tokio::spawn(change(n))).collect();
    let mut revisions = Vec::new();
    for change in changes {
        revisions.push(change.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..42).collect::<Vec<_>>());
    let mut last = 1;
    while last < 41 {
        let revision = node.snapshot().await.unwrap().revision;
        assert!(revision > last, "revisions only rise");
        last = revision;
    }
}

#[tokio::test]
async fn a_stuck_node_holds_up_nobody_and_gets_only_the_newest() {
    let daemon = Daemon::start();
    let mut stuck = Node::connect_narrow(&daemon).await;
    stuck.say(Message::Hello(hello("stuck", &[A]))).await;
    stuck.snapshot().await.unwrap();
    let mut awake = Node::joined(&daemon, "awake", &[A]).await;
    let mut operator = daemon.operator().await;
    // Large snapshots, so that the connection's buffers hold few of them.
    let peer = |n: u32| v1::PeerSettings { peer_id: format!("unix:/{n:0>100}"), add: true, ..Default::default() };
    let upstreams = vec![v1::UpstreamSettings { name: "upstreams/llm".into(), peers: (0..127).map(peer).collect() }];
    operator.apply_upstreams(v1::ApplyUpstreamsRequest { upstreams, ..Default::default() }).await.unwrap();
    for n in 0..150 {
        let revision = operator.update_peer(weight(A, n)).await.unwrap().into_inner().revision;
        awake.snapshots_until(revision).await;
    }
    let (count, last) = stuck.snapshots_until(152).await;
    assert_eq!(last.revision, 152);
    assert!(count < 60, "{count} snapshots of 151 were queued");
}

#[tokio::test]
async fn a_node_that_breaks_the_rules_is_let_go_with_a_reason() {
    let daemon = Daemon::start();
    let early = Node::connect(&daemon).await;
    early.ack(1).await;
    assert_refused(early, "hello").await;
    let node = Node::joined(&daemon, "web-1", &[A]).await;
    node.ack(99).await;
    assert_refused(node, "never sent").await;
    let node = Node::joined(&daemon, "web-1", &[A]).await;
    node.say(Message::Hello(hello("web-1", &[A]))).await;
    assert_refused(node, "once").await;
    let node = Node::join(&daemon, hello("../etc", &[A])).await;
    assert_refused(node, "node").await;
    let node = Node::join(&daemon, hello(&"n".repeat(100_000), &[A])).await;
    assert_refused(node, "bytes").await;
    let node = Node::join(&daemon, hello("web-1", &["gpu1.internal:80"])).await;
    assert_refused(node, "address").await;
    let node = Node::join(&daemon, v1::Hello { applied_revision: u64::MAX, ..hello("web-1", &[A]) }).await;
    assert_refused(node, "applied_revision").await;
}

async fn assert_refused(mut node: Node, because: &str) {
    let status = loop {
        if let Err(status) = node.snapshot().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains(because), "{status:?}");
}

#[tokio::test]
async fn a_node_ahead_of_the_store_gets_nothing_until_the_next_change_which_is_past_it() {
    let daemon = Daemon::start();
    let mut ahead = Node::join(&daemon, v1::Hello { applied_revision: 57, ..hello("web-1", &[A]) }).await;
    let mut operator = daemon.operator().await;
    eventually("the node is there", || async {
        operator.clone().get_node(v1::GetNodeRequest { name: "nodes/web-1".into() }).await.ok()
    })
    .await;
    assert_eq!(operator.update_peer(weight(A, 3)).await.unwrap().into_inner().revision, 58);
    assert_eq!(ahead.snapshot().await.unwrap().revision, 58, "the first that it is sent");
}

#[tokio::test]
async fn what_a_node_says_of_itself_is_shown() {
    let daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A]).await;
    let stats = v1::PeerStats {
        address: A.into(),
        in_flight: 3,
        requests: 10,
        failures: 1,
        service_time: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..Default::default()
    };
    let upstreams = vec![v1::UpstreamStats { name: "llm".into(), waiting: 5, peers: vec![stats] }];
    node.say(Message::Stats(v1::Stats { upstreams, ..Default::default() })).await;
    let operator = daemon.operator().await;
    let peer = eventually("stats arrive", || async {
        let peer = operator.clone().get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.unwrap().into_inner();
        peer.stats.is_some().then_some(peer)
    })
    .await;
    let stats = peer.stats.unwrap();
    assert_eq!((stats.nodes, stats.in_flight, stats.requests, stats.failures), (1, 3, 10, 1));
    assert_eq!(stats.service_time.unwrap().seconds, 2);
    operator.clone().update_peer(weight(A, 3)).await.unwrap();
    node.snapshot().await.unwrap();
    node.nack(2, &"no room\u{1b}[31m".repeat(1000)).await;
    let get = || async {
        operator.clone().get_node(v1::GetNodeRequest { name: "nodes/web-1".into() }).await.unwrap().into_inner()
    };
    let shown =
        eventually("the refusal arrives", || async { Some(get().await).filter(|n| n.last_error.is_some()) }).await;
    assert_eq!((shown.applied_revision, shown.refused_revision, shown.worker_processes), (1, 2, 4));
    assert!(shown.last_error.unwrap().message.len() <= 1024);
    node.ack(2).await;
    let shown =
        eventually("the answer arrives", || async { Some(get().await).filter(|n| n.applied_revision == 2) }).await;
    assert!(shown.last_error.is_none() && shown.ack_latency.is_some());
    assert_eq!(shown.apply_duration.unwrap().nanos, 250_000);
    let delete = v1::DeleteNodeRequest { name: "nodes/web-1".into(), validate_only: false };
    assert_eq!(operator.clone().delete_node(delete.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    drop(node);
    eventually("the node is away", || async { Some(get().await).filter(|n| !n.connected) }).await;
    operator.clone().delete_node(delete.clone()).await.unwrap();
    assert_eq!(operator.clone().delete_node(delete).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_pages_of_a_list_are_the_list() {
    let daemon = Daemon::start();
    let addresses: Vec<String> = (1..=25).map(|n| format!("127.0.0.1:{}", 8000 + n)).collect();
    let _node = Node::joined(&daemon, "web-1", &addresses.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut operator = daemon.operator().await;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListPeersRequest { parent: "upstreams/llm".into(), page_size: 10, page_token: token };
        let page = operator.list_peers(request).await.unwrap().into_inner();
        seen.extend(page.peers.into_iter().map(|p| p.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        let elsewhere = v1::ListNodesRequest { page_size: 0, page_token: token.clone() };
        assert_eq!(operator.list_nodes(elsewhere).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(seen, addresses.iter().map(|a| peer_name(a)).collect::<Vec<_>>());
}

#[tokio::test]
async fn hostile_requests_are_refused_with_the_field_at_fault() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let huge = "x".repeat(1 << 20);
    let names =
        ["", "upstreams", "upstreams/llm/peers/", "upstreams/llm/peers/gpu1:80", "upstreams/../peers/x", huge.as_str()];
    for name in names {
        let status = operator.get_peer(v1::GetPeerRequest { name: name.into() }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "name");
    }
    for (path, value) in [("nginx", 1), ("peer.weight", 1), ("", 1)] {
        let mut request = weight(A, value);
        request.update_mask = Some(FieldMask { paths: vec![path.into()] });
        let status = operator.update_peer(request).await.unwrap_err();
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "update_mask");
    }
    for address in ["gpu1:80", "127.0.0.1:0", "unix:", "127.0.0.1:80 evil", huge.as_str()] {
        assert_eq!(operator.create_peer(add(address)).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let oversized = v1::GetPeerRequest { name: "x".repeat(5 << 20) };
    assert_eq!(operator.get_peer(oversized).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(operator.update_peer(v1::UpdatePeerRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    let mut full = None;
    for n in 0..200 {
        full = full.or(operator.create_peer(add(&format!("127.0.0.2:{}", n + 1))).await.err());
    }
    assert_eq!(full.unwrap().code(), Code::ResourceExhausted);
    assert!(operator.get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.is_ok(), "it serves on");
}

#[tokio::test]
async fn apply_is_one_revision_and_tells_what_changed() {
    let daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A, B]).await;
    let mut operator = daemon.operator().await;
    let settings =
        |peer_id: &str, weight, add| v1::PeerSettings { peer_id: peer_id.into(), weight, add, ..Default::default() };
    let request = |peers, validate_only| {
        let upstreams = vec![v1::UpstreamSettings { name: "upstreams/llm".into(), peers }];
        Request::new(v1::ApplyUpstreamsRequest { upstreams, validate_only, ..Default::default() })
    };
    let wanted = vec![settings(A, Some(9), false), settings(NEW, None, true)];
    let checked = operator.apply_upstreams(request(wanted.clone(), true)).await.unwrap().into_inner();
    assert_eq!((checked.revision, checked.changes.len()), (1, 2));
    let applied = operator.apply_upstreams(request(wanted.clone(), false)).await.unwrap().into_inner();
    assert_eq!((applied.revision, &applied.changes), (2, &checked.changes));
    assert_eq!(applied.changes[0].description, "weight unset → 9");
    assert_eq!(applied.changes[1].kind(), Kind::Added);
    assert_eq!(node.snapshots_until(2).await.1.upstreams[0].peers.len(), 2);
    let again = operator.apply_upstreams(request(wanted, false)).await.unwrap().into_inner();
    assert_eq!((again.revision, again.changes.len()), (2, 0));
    let bad = vec![settings(A, Some(1), false), settings("127.0.0.1:7", Some(1), false)];
    assert_eq!(operator.apply_upstreams(request(bad, false)).await.unwrap_err().code(), Code::NotFound);
    let peer = operator.get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.unwrap().into_inner();
    assert_eq!(peer.weight, Some(9), "all or nothing");
}

#[tokio::test]
async fn a_message_with_more_entries_than_any_node_has_is_refused_with_its_field() {
    let daemon = Daemon::start();
    let stats = |peers: usize| {
        let upstream =
            v1::UpstreamStats { peers: vec![v1::PeerStats::default(); peers], ..v1::UpstreamStats::default() };
        Message::Stats(v1::Stats { upstreams: vec![upstream], ..v1::Stats::default() })
    };
    let mut node = Node::joined(&daemon, "web-1", &[A]).await;
    let before = memory_kb(&daemon);
    node.say(stats(400_000)).await;
    let refused = node.snapshot().await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "stats.upstreams[0].peers has more than the 256 entries allowed",)
    );
    let grown = memory_kb(&daemon).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} kB more");
    let node = Node::joined(&daemon, "web-1", &[A]).await;
    node.say(stats(128)).await;
    daemon.operator().await.list_upstreams(v1::ListUpstreamsRequest::default()).await.unwrap();
}

/// Memory that pincerd has in use.
fn memory_kb(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn only_what_a_stream_was_sent_can_be_acknowledged_on_it() {
    let daemon = Daemon::start();
    let mut operator = daemon.operator().await;
    let mut other = Node::joined(&daemon, "web-1", &[A]).await;
    operator.update_peer(weight(A, 3)).await.unwrap();
    other.snapshot().await.unwrap();
    for revision in [0, 1, 3] {
        let mut node = Node::join(&daemon, hello("web-2", &[A])).await;
        assert_eq!(node.snapshot().await.unwrap().revision, 2);
        if revision % 2 == 0 {
            node.ack(revision).await
        } else {
            node.nack(revision, "no").await
        }
        let refused = node.snapshot().await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, &*format!("revision {revision} was never sent"))
        );
    }
    let node = Node::join(&daemon, v1::Hello { applied_revision: 1 << 40, ..hello("web-3", &[A]) }).await;
    node.ack(2).await;
    eventually("it ends", || async { (!daemon.ctl(&["node", "list"]).await.out.contains("web-3  yes")).then_some(()) })
        .await;
}

#[tokio::test]
async fn what_a_node_says_moves_no_terminal_and_no_log() {
    let daemon = Daemon::start();
    let mut node = Node::join(&daemon, hello("web-1", &[A])).await;
    let revision = node.snapshot().await.unwrap().revision;
    node.nack(revision, "\x1b[31mred\x07\n\u{202e}gnp.exe").await;
    let said = eventually("the node's error is shown", || async {
        let told = daemon.ctl(&["-o", "json", "node", "list"]).await;
        told.out.contains("gnp.exe").then_some(told.json().to_string())
    })
    .await;
    assert!(said.contains(" [31mred   gnp.exe"), "{said}");
    let table = daemon.ctl(&["node", "list"]).await.out;
    assert!(!table.contains(['\x1b', '\x07', '\u{202e}']), "{table:?}");
}

#[tokio::test]
async fn spans_moments_and_blocks_that_are_malformed_are_refused_and_ipv4_in_ipv6_is_ipv4() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let key = |cidrs: &[&str], nanos| v1::Key {
        tenant: "t".into(),
        class: "c".into(),
        cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
        expire_time: Some(prost_types::Timestamp { seconds: 9_000_000_000, nanos }),
        ..v1::Key::default()
    };
    let create = |key| v1::CreateKeyRequest { key_id: "k".into(), key: Some(key), ..Default::default() };
    for (field, bad) in [
        ("key.expire_time", key(&[], -1)),
        ("key.expire_time", key(&[], 1_000_000_000)),
        ("key.cidrs[0]", key(&["::ffff:10.0.0.0/95"], 0)),
    ] {
        let refused = operator.create_key(create(bad)).await.unwrap_err();
        assert_eq!(refused.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
    let made = operator.create_key(create(key(&["::ffff:10.1.2.3/104", "10.0.0.0/8"], 0))).await.unwrap().into_inner();
    assert_eq!(made.key.unwrap().cidrs, ["10.0.0.0/8"]);
    let overlap = Some(prost_types::Duration { seconds: 1, nanos: 2_000_000_000 });
    let rotate = v1::RotateKeyRequest { name: "keys/k".into(), overlap, ..Default::default() };
    assert_eq!(operator.rotate_key(rotate).await.unwrap_err().code(), Code::InvalidArgument);
    let refused = operator.create_peer(add("[::ffff:10.0.0.1]:80")).await.unwrap_err();
    assert_eq!(refused.get_error_details().bad_request().unwrap().field_violations[0].field, "peer_id");
}

#[tokio::test]
async fn each_change_and_each_refused_call_is_logged_with_who_and_from_where() {
    let daemon = Daemon::start_json();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    operator.update_peer(weight(A, 3)).await.unwrap();
    operator.update_peer(weight(A, 9)).await.unwrap();
    let key = v1::Key { tenant: "t".into(), class: "c".into(), ..v1::Key::default() };
    let request = v1::CreateKeyRequest { key_id: "k".into(), key: Some(key), validate_only: false };
    let secret = operator.create_key(request.clone()).await.unwrap().into_inner();
    operator.create_key(request).await.unwrap_err();
    let log = daemon.log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let made: Vec<_> = lines.iter().filter(|line| line["message"] == "pincer: changed").collect();
    let told: Vec<_> = made
        .iter()
        .map(|l| (l["what"].as_str().unwrap(), l["change"].as_str().unwrap(), l["revision"].as_u64()))
        .collect();
    let peer = peer_name(A);
    let fingerprint = secret.key.unwrap().fingerprint;
    let created = format!("created: secret {fingerprint} of t, class c");
    assert_eq!(
        told,
        [
            (&*peer, "updated: weight unset → 3", Some(2)),
            (&*peer, "updated: weight 3 → 9", Some(3)),
            ("keys/k", &*created, Some(4)),
        ]
    );
    assert!(made.iter().all(|line| line["who"].as_str().unwrap().len() > 1), "{log}");
    assert!(made.iter().all(|line| line["from"] == "127.0.0.1"), "{log}");
    let refused = lines.iter().find(|line| line["message"] == "pincer: call refused").unwrap();
    assert_eq!((refused["method"].as_str(), refused["code"].as_str()), (Some("CreateKey"), Some("AlreadyExists")));
    assert!(!log.contains(&secret.secret));
}
