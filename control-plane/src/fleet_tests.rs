//! How nodes connect, respond and disconnect.

use super::*;
use crate::{
    classes,
    store::{PeerRecord, UpstreamRecord},
};

fn hello(node: &str, instance: &str, addresses: &[&str]) -> Hello {
    let peer = |a: &&str| PeerRecord { address: (*a).into(), ..PeerRecord::default() };
    let upstreams = vec![UpstreamRecord { name: "llm".into(), peers: addresses.iter().map(peer).collect() }];
    Hello {
        node: node.into(),
        instance: instance.into(),
        record: NodeRecord { upstreams, ..NodeRecord::default() },
        applied_revision: 0,
    }
}

fn status(message: &str) -> rpc::Status {
    rpc::Status { code: 3, message: message.into(), details: vec![] }
}

#[test]
fn a_node_that_left_stays_known_with_its_peers() {
    let mut fleet = Fleet::default();
    let joined = fleet.join(hello("a", "1", &["127.0.0.1:1"]), 0).unwrap();
    assert_eq!(joined.to_store, ["a"]);
    fleet.ack(&joined.session, 7, None, None);
    fleet.leave(&joined.session, 5);
    let node = &fleet.nodes()["a"];
    assert!(!node.is_connected());
    assert_eq!((node.last.applied_revision, node.updated_s), (7, 5));
    assert!(fleet.declared().peer("llm", "127.0.0.1:1").is_some());
}

#[test]
fn a_hello_that_declares_the_same_is_not_written_again() {
    let mut fleet = Fleet::default();
    fleet.join(hello("a", "1", &["127.0.0.1:1"]), 0).unwrap();
    assert!(fleet.join(hello("a", "1", &["127.0.0.1:1"]), 0).unwrap().to_store.is_empty());
    assert_eq!(fleet.join(hello("a", "1", &["127.0.0.1:2"]), 0).unwrap().to_store, ["a"]);
    assert!(fleet.declared().peer("llm", "127.0.0.1:1").is_none());
}

#[test]
fn after_a_reload_either_stream_speaks_for_the_zone() {
    let mut fleet = Fleet::default();
    let old = fleet.join(hello("a", "1", &[]), 0).unwrap().session;
    let new = fleet.join(hello("a", "1", &[]), 0).unwrap().session;
    fleet.ack(&old, 3, None, None);
    assert_eq!(fleet.nodes()["a"].instances["1"].progress.applied_revision, 3);
    fleet.leave(&old, 0);
    assert!(fleet.nodes()["a"].is_connected());
    fleet.leave(&old, 0);
    fleet.leave(&new, 0);
    assert!(!fleet.nodes()["a"].is_connected());
}

#[test]
fn a_refusal_stands_until_a_newer_revision_is_applied() {
    let mut fleet = Fleet::default();
    let session = fleet.join(hello("a", "1", &[]), 0).unwrap().session;
    let progress = |fleet: &Fleet| fleet.nodes()["a"].instances["1"].progress.clone();
    fleet.ack(&session, 3, None, None);
    fleet.nack(&session, 4, status("no"));
    fleet.ack(&session, 3, None, None);
    assert_eq!(progress(&fleet).refused, Some((4, status("no"))));
    fleet.ack(&session, 5, Some(Duration::from_millis(1)), None);
    assert_eq!(progress(&fleet).refused, None);
    fleet.ack(&session, 2, None, None);
    assert_eq!(progress(&fleet).applied_revision, 5, "revisions only rise");
}

#[test]
fn a_watcher_sees_what_changed_since_it_looked() {
    let mut fleet = Fleet::default();
    let a = fleet.join(hello("a", "1", &[]), 0).unwrap().session;
    fleet.join(hello("b", "1", &[]), 0).unwrap();
    let seen = fleet.version();
    assert_eq!(fleet.changed_since(seen).count(), 0);
    fleet.stats(&a, v1::Stats::default());
    assert_eq!(fleet.changed_since(seen).count(), 0);
    fleet.ack(&a, 1, None, None);
    assert_eq!(fleet.changed_since(seen).map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_full_fleet_lets_the_longest_silent_node_go_and_never_a_connected_one() {
    let mut fleet = Fleet::default();
    let mut sessions: Vec<_> =
        (0..NODES_MAX).map(|n| fleet.join(hello(&format!("n{n}"), "1", &[]), 0).unwrap().session).collect();
    assert_eq!(fleet.join(hello("late", "1", &[]), 0), Err(JoinError::Nodes));
    fleet.leave(&sessions.remove(9), 0);
    fleet.leave(&sessions.remove(4), 0);
    assert_eq!(fleet.join(hello("late", "1", &[]), 0).unwrap().to_store, ["n4", "late"]);
    assert_eq!(fleet.nodes().len(), NODES_MAX);
}

#[test]
fn one_name_has_a_bounded_number_of_streams() {
    let mut fleet = Fleet::default();
    for n in 0..SESSIONS_PER_NODE_MAX {
        fleet.join(hello("a", &n.to_string(), &[]), 0).unwrap();
    }
    assert_eq!(fleet.join(hello("a", "x", &[]), 0), Err(JoinError::Sessions));
}

#[test]
fn only_a_node_that_is_away_is_forgotten() {
    let mut fleet = Fleet::default();
    let session = fleet.join(hello("a", "1", &["127.0.0.1:1"]), 0).unwrap().session;
    assert!(matches!(fleet.forget("a"), Err(ForgetError::Connected(_))));
    fleet.leave(&session, 0);
    fleet.forget("a").unwrap();
    assert!(matches!(fleet.forget("a"), Err(ForgetError::Unknown(_))));
    assert_eq!(*fleet.declared(), Declared::default());
}

/// `hello` with a peer that has `max_conns`, and a class with `burst`.
fn declaring(node: &str, max_conns: u32, burst: u32) -> Hello {
    let mut hello = hello(node, "1", &["127.0.0.1:1"]);
    hello.record.upstreams[0].peers[0].max_conns = max_conns;
    let settings = classes::Settings { burst: Some(burst), ..classes::Settings::default() };
    hello.record.classes = vec![classes::Declared { name: "vip".into(), settings }];
    hello
}

/// What is shown of the peer and of the class.
fn shown(fleet: &Fleet) -> (u32, Option<u32>) {
    let declared = fleet.declared();
    let peer = declared.peer("llm", "127.0.0.1:1").unwrap();
    assert_eq!(u32::try_from(fleet.nodes().len()), Ok(peer.nodes));
    (peer.spec.max_conns, declared.classes["vip"].settings.burst)
}

#[test]
fn what_a_connected_node_declares_is_shown_before_the_word_of_one_that_is_away() {
    let mut fleet = Fleet::default();
    fleet.join(declaring("a", 2, 20), 0).unwrap();
    let b = fleet.join(declaring("b", 2, 20), 0).unwrap().session;
    let c = fleet.join(declaring("c", 0, 0), 0).unwrap().session;
    assert_eq!(shown(&fleet), (0, Some(0)), "all are connected: the last Hello");
    fleet.leave(&c, 0);
    assert_eq!(shown(&fleet), (2, Some(20)));
    fleet.leave(&b, 0);
    assert_eq!(shown(&fleet), (2, Some(20)), "a is connected");
    let c = fleet.join(declaring("c", 0, 0), 0).unwrap();
    assert!(c.to_store.is_empty());
    assert_eq!(shown(&fleet), (0, Some(0)), "c is back with the last Hello");
}

#[test]
fn after_a_restart_nodes_that_reconnect_unchanged_are_shown_before_those_that_do_not() {
    let records = [("a", 2, 20), ("b", 2, 20), ("c", 0, 0)];
    let records = records.map(|(node, max_conns, burst)| (node.to_owned(), declaring(node, max_conns, burst).record));
    let mut fleet = Fleet::restored(records.to_vec());
    shown(&fleet);
    for node in ["a", "b"] {
        assert!(fleet.join(declaring(node, 2, 20), 0).unwrap().to_store.is_empty(), "unchanged");
        assert_eq!(shown(&fleet), (2, Some(20)));
    }
}

#[test]
fn where_all_nodes_agree_their_coming_and_going_costs_nothing() {
    let mut fleet = Fleet::default();
    let a = fleet.join(declaring("a", 2, 20), 0).unwrap().session;
    fleet.join(declaring("b", 2, 20), 0).unwrap();
    let before = fleet.declared();
    fleet.leave(&a, 0);
    fleet.join(declaring("a", 2, 20), 0).unwrap();
    assert!(Arc::ptr_eq(&before, &fleet.declared()));
}
