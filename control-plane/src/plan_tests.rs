//! What each request changes, and what is refused.

use pincer_proto::v1;

use super::*;
use crate::{model::State, refusal::etag};

const A: &str = "127.0.0.1:1";
const B: &str = "127.0.0.1:2";
const NEW: &str = "127.0.0.1:9";

/// Node 1 declares A and B, node 2 only A.
fn declared() -> Declared {
    let peer = |a: &&str| v1::DeclaredPeer { address: (*a).into(), weight: 1, ..v1::DeclaredPeer::default() };
    let node = |addresses: &[&str]| {
        vec![v1::DeclaredUpstream { name: "llm".into(), peers: addresses.iter().map(peer).collect() }]
    };
    let nodes = [node(&[A, B]), node(&[A])];
    Declared::of(nodes.iter().map(Vec::as_slice))
}

fn weight(weight: u16) -> Settings {
    Settings { weight: Some(weight), ..Settings::default() }
}

fn update(address: &str, settings: Settings, etag: Option<&str>) -> Op {
    let mask = Mask { weight: true, ..Mask::default() };
    Op::Update { upstream: "llm".into(), address: address.into(), settings, mask, etag: etag.map(Into::into) }
}

fn create(address: &str) -> Op {
    Op::Create { upstream: "llm".into(), address: address.into(), settings: Settings::default() }
}

fn delete(address: &str) -> Op {
    Op::Delete { upstream: "llm".into(), address: address.into(), etag: None }
}

fn desired(address: &str, settings: Settings, add: bool) -> DesiredPeer {
    DesiredPeer { address: address.into(), settings, add, etag: None }
}

fn apply(peers: Vec<DesiredPeer>) -> Op {
    Op::Apply(vec![Desired { upstream: "llm".into(), peers }])
}

/// Applies `op` as the next revision.
fn done(config: &Config, op: &Op) -> Config {
    let changes = plan(op, config, &declared()).unwrap();
    assert!(!changes.is_empty());
    config.with(&changes, config.revision + 1, 0)
}

fn refused(config: &Config, op: &Op) -> Refusal {
    plan(op, config, &declared()).unwrap_err()
}

#[test]
fn a_declared_peer_is_set_and_set_again_changes_nothing() {
    let config = done(&Config::default(), &update(A, weight(9), None));
    assert_eq!(config.record("llm", A).map(|r| (r.settings, r.added, r.revision)), Some((weight(9), false, 1)));
    assert_eq!(plan(&update(A, weight(9), None), &config, &declared()), Ok(vec![]));
}

#[test]
fn that_a_peer_is_active_is_news_each_time_an_operator_says_so() {
    let state = |state| {
        let (settings, mask) = (Settings { state, ..Settings::default() }, Mask { state: true, ..Mask::default() });
        Op::Update { upstream: "llm".into(), address: A.into(), settings, mask, etag: None }
    };
    let active = state(Some(State::Active));
    let again = done(&done(&Config::default(), &active), &active);
    assert_eq!(again.snapshot(0).upstreams[0].peers[0].revision, again.revision);
    let down = done(&again, &state(Some(State::Down)));
    assert_eq!(plan(&state(Some(State::Down)), &down, &declared()), Ok(vec![]));
    let file = apply(vec![desired(A, Settings { state: Some(State::Active), ..Settings::default() }, false)]);
    assert_eq!(plan(&file, &again, &declared()), Ok(vec![]), "a file only says what is to be");
}

#[test]
fn only_the_masks_fields_change() {
    let config =
        done(&Config::default(), &update(A, Settings { weight: Some(9), max_conns: Some(3), state: None }, None));
    assert_eq!(config.record("llm", A).unwrap().settings, weight(9));
}

#[test]
fn a_peer_that_nobody_knows_is_not_found_until_it_is_added() {
    let config = Config::default();
    assert!(matches!(refused(&config, &update(NEW, weight(1), None)), Refusal::NoPeer(_)));
    assert!(matches!(refused(&config, &delete(NEW)), Refusal::NoPeerToRemove(_)));
    let config = done(&config, &create(NEW));
    let config = done(&config, &update(NEW, weight(1), None));
    let config = done(&config, &delete(NEW));
    assert_eq!(config.record("llm", NEW), None);
}

#[test]
fn an_upstream_that_nobody_declares_is_not_found() {
    let op = Op::Create { upstream: "other".into(), address: NEW.into(), settings: Settings::default() };
    assert!(matches!(refused(&Config::default(), &op), Refusal::NoUpstream(_)));
    let op = Op::Apply(vec![Desired { upstream: "other".into(), peers: vec![] }]);
    assert!(matches!(refused(&Config::default(), &op), Refusal::NoUpstream(_)));
}

#[test]
fn a_peer_is_added_only_where_some_node_lacks_it() {
    let config = Config::default();
    assert!(matches!(refused(&config, &create(A)), Refusal::Exists(_)));
    let config = done(&config, &create(B));
    assert!(matches!(refused(&config, &create(B)), Refusal::Exists(_)));
}

#[test]
fn a_declared_peer_is_not_removed() {
    let config = done(&Config::default(), &update(A, weight(0), None));
    assert!(matches!(refused(&config, &delete(A)), Refusal::Declared(_)));
    assert!(matches!(refused(&Config::default(), &delete(A)), Refusal::Declared(_)));
}

#[test]
fn an_old_etag_is_refused_even_after_the_value_came_back() {
    let config = done(&Config::default(), &update(A, weight(1), Some("r0")));
    let seen = etag(config.record("llm", A));
    let config = done(&config, &update(A, weight(2), Some(&seen)));
    let config = done(&config, &update(A, weight(1), None));
    let refusal = refused(&config, &update(A, weight(5), Some(&seen)));
    assert!(matches!(refusal, Refusal::Stale { current, .. } if current == "r3"));
}

#[test]
fn unsetting_all_of_a_peer_keeps_its_etag_rising() {
    let config = done(&Config::default(), &update(A, weight(1), None));
    let config = done(&config, &update(A, Settings::default(), None));
    assert_eq!(etag(config.record("llm", A)), "r2");
}

#[test]
fn settings_left_by_a_peer_that_is_declared_no_more_can_be_removed() {
    let config = done(&Config::default(), &update(A, weight(0), None));
    let gone = Declared::default();
    let op = update(A, Settings::default(), None);
    assert_eq!(plan(&op, &config, &gone).unwrap()[0].after, None);
    assert_eq!(plan(&delete(A), &config, &gone).unwrap()[0].after, None);
}

#[test]
fn apply_makes_it_exactly_so() {
    let config = done(&Config::default(), &create(NEW));
    let config = done(&config, &update(A, weight(7), None));
    let draining = Settings { state: Some(State::Draining), ..Settings::default() };
    let config = done(&config, &apply(vec![desired(B, draining, false)]));
    assert_eq!(config.record("llm", NEW), None);
    assert_eq!(config.record("llm", A).unwrap().settings, Settings::default());
    assert_eq!(config.record("llm", B).unwrap().settings, draining);
    assert_eq!(plan(&apply(vec![desired(B, draining, false)]), &config, &declared()), Ok(vec![]));
}

#[test]
fn apply_adds_only_what_says_so_and_refuses_what_is_named_twice() {
    let config = Config::default();
    assert!(matches!(refused(&config, &apply(vec![desired(NEW, weight(1), false)])), Refusal::NoPeer(_)));
    let twice = vec![desired(NEW, weight(1), true), desired(NEW, weight(2), true)];
    assert!(matches!(refused(&config, &apply(twice)), Refusal::Twice(_)));
    let config = done(&config, &apply(vec![desired(NEW, weight(1), true), desired(A, weight(2), true)]));
    assert!(config.record("llm", NEW).unwrap().added);
    assert!(!config.record("llm", A).unwrap().added, "every node declares it");
}

#[test]
fn an_upstream_never_gets_more_peers_than_allowed() {
    let free = limits::PEERS_PER_UPSTREAM_MAX - 2;
    let many = |n: usize| (0..n).map(|n| desired(&format!("127.0.0.2:{}", n + 1), weight(1), true)).collect();
    let config = done(&Config::default(), &apply(many(free)));
    assert!(matches!(refused(&config, &create(NEW)), Refusal::Full(_)));
    assert!(matches!(refused(&Config::default(), &apply(many(free + 1))), Refusal::Full(_)));
    let swapped = apply(vec![desired(NEW, weight(1), true)]);
    assert!(plan(&swapped, &config, &declared()).is_ok());
}
