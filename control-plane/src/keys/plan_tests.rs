//! What each request, and the clock, changes of keys.

use pincer_proto::v1::key::State;

use super::*;

const FIRST: Hash = Hash([1; 32]);
const SECOND: Hash = Hash([2; 32]);
const THIRD: Hash = Hash([3; 32]);

fn holder(expire_s: Option<i64>) -> Holder {
    Holder { tenant: "acme".into(), class: "vip".into(), cidrs: vec!["10.0.0.0/8".into()], expire_s }
}

fn create(expire_s: Option<i64>) -> Kind {
    Kind::Create { id: "k1".into(), holder: holder(expire_s), sha256: FIRST }
}

fn rotate(sha256: Hash, overlap_s: i64) -> Kind {
    Kind::Rotate { id: "k1".into(), sha256, overlap_s, etag: None }
}

fn revoke() -> Kind {
    Kind::Revoke { id: "k1".into(), etag: None }
}

fn delete() -> Kind {
    Kind::Delete { id: "k1".into(), etag: None }
}

fn try_at(config: &Config, now_s: i64, kind: Kind) -> Result<Config, Refusal> {
    let keys = plan(&Op { now_s, kind }, config)?;
    let changes = crate::model::Changes { keys, ..Default::default() };
    Ok(if changes.is_empty() { config.clone() } else { config.with_all(&changes, config.revision + 1, now_s) })
}

fn at(config: &Config, now_s: i64, kind: Kind) -> Config {
    try_at(config, now_s, kind).unwrap()
}

/// The hashes that nodes are told, with their ends.
fn told(config: &Config, now_s: i64) -> Vec<(u8, Option<i64>)> {
    config.snapshot(now_s).keys.iter().map(|key| (key.sha256[0], key.expire_time.map(|end| end.seconds))).collect()
}

#[test]
fn a_key_is_told_with_its_holder_until_it_is_revoked() {
    let config = at(&Config::default(), 100, create(Some(900)));
    let key = &config.snapshot(100).keys[0];
    assert_eq!((key.tenant.as_str(), key.class.as_str(), key.cidrs.len()), ("acme", "vip", 1));
    assert_eq!((key.fingerprint.as_str(), key.sha256.len()), ("01010101", 32));
    assert!(matches!(try_at(&config, 100, create(None)), Err(Refusal::Exists(_))));
    assert!(matches!(try_at(&config, 100, delete()), Err(Refusal::KeyValid(_))));
    let config = at(&config, 200, revoke());
    assert_eq!((told(&config, 200), config.keys["k1"].state(200)), (vec![], State::Revoked));
    let again = at(&config, 300, revoke());
    assert_eq!(again, config, "again changes nothing");
    assert!(matches!(try_at(&config, 300, rotate(SECOND, 60)), Err(Refusal::KeyEnded(_))));
    assert!(at(&config, 300, delete()).keys.is_empty());
}

#[test]
fn both_secrets_are_valid_during_the_overlap_and_the_one_before_is_not() {
    let config = at(&Config::default(), 100, create(None));
    let config = at(&config, 200, rotate(SECOND, 60));
    assert_eq!((told(&config, 200), config.keys["k1"].state(200)), (vec![(1, Some(260)), (2, None)], State::Rotating));
    let config = at(&config, 210, rotate(THIRD, 60));
    assert_eq!(told(&config, 210), [(2, Some(270)), (3, None)], "the first is gone at once");
    assert_eq!(told(&config, 269).len(), 2);
    assert_eq!((told(&config, 270), config.keys["k1"].state(270)), (vec![(3, None)], State::Active));
    let config = at(&config, 300, rotate(FIRST, 0));
    assert_eq!(told(&config, 300), [(1, None)], "without an overlap the old one ends at once");
}

#[test]
fn an_expired_key_vanishes_with_both_its_secrets_and_cannot_be_rotated() {
    let config = at(&Config::default(), 100, create(Some(250)));
    let config = at(&config, 200, rotate(SECOND, 3_600));
    assert_eq!(told(&config, 200), [(1, Some(250)), (2, Some(250))], "no overlap outlives the key");
    assert_eq!(config.keys["k1"].next_end_s(200), Some(250));
    assert_eq!(config.keys["k1"].state(250), State::Expired);
    assert!(matches!(try_at(&config, 250, rotate(THIRD, 60)), Err(Refusal::KeyEnded(_))));
    assert_eq!((told(&config, 250), config.keys["k1"].next_end_s(250)), (vec![], None));
    assert_eq!(config.keys["k1"].state(249), State::Rotating, "a clock that was wrong has ended nothing");
    assert!(at(&config, 251, delete()).keys.is_empty());
}

#[test]
fn an_old_etag_or_an_unknown_key_is_refused() {
    let config = at(&Config::default(), 100, create(None));
    for kind in [
        Kind::Rotate { id: "k1".into(), sha256: SECOND, overlap_s: 0, etag: Some("r0".into()) },
        Kind::Revoke { id: "k1".into(), etag: Some("r0".into()) },
        Kind::Delete { id: "k1".into(), etag: Some("r0".into()) },
    ] {
        assert!(matches!(try_at(&config, 100, kind), Err(Refusal::Stale { .. })));
    }
    let unknown = Kind::Revoke { id: "other".into(), etag: None };
    assert!(matches!(try_at(&config, 100, unknown), Err(Refusal::NoKey(_))));
}
