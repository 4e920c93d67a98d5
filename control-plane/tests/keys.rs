//! API keys: pincerd against nodes that pretend, and pincerctl. Secrets are looked for everywhere
//! they must not be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{path::Path, time::SystemTime};

use common::{Daemon, Node, hello};
use pincer_proto::v1::{self, key::State};
use sha2::{Digest as _, Sha256};
use tonic::Code;

const A: &str = "127.0.0.1:8001";

fn create(id: &str) -> v1::CreateKeyRequest {
    let key = v1::Key { tenant: "acme".into(), class: "vip".into(), ..Default::default() };
    v1::CreateKeyRequest { key_id: id.into(), key: Some(key), validate_only: false }
}

fn rotate(id: &str, overlap_s: i64) -> v1::RotateKeyRequest {
    let overlap = Some(prost_types::Duration { seconds: overlap_s, nanos: 0 });
    v1::RotateKeyRequest { name: format!("keys/{id}"), overlap, ..Default::default() }
}

fn revoke(id: &str) -> v1::RevokeKeyRequest {
    v1::RevokeKeyRequest { name: format!("keys/{id}"), ..Default::default() }
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

fn hashes(snapshot: &v1::Snapshot) -> Vec<Vec<u8>> {
    snapshot.keys.iter().map(|key| key.sha256.clone()).collect()
}

fn sorted<const N: usize>(mut hashes: [Vec<u8>; N]) -> [Vec<u8>; N] {
    hashes.sort();
    hashes
}

fn in_seconds(seconds: i64) -> Option<prost_types::Timestamp> {
    let now = prost_types::Timestamp::from(SystemTime::now());
    Some(prost_types::Timestamp { seconds: now.seconds + seconds, nanos: 0 })
}

#[tokio::test]
async fn a_key_is_made_rotated_and_revoked_and_nodes_hear_only_hashes() {
    let daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let mut request = create("");
    let key = request.key.as_mut().unwrap();
    (key.cidrs, key.expire_time) = (vec!["10.1.2.3/8".into(), "::1".into()], in_seconds(3_600));
    let made = operator.create_key(request).await.unwrap().into_inner();
    let (first, key) = (made.secret, made.key.unwrap());
    assert!(first.starts_with("pk_") && first.len() == 52, "no secret");
    let id = key.name.strip_prefix("keys/").unwrap().to_owned();
    assert_eq!(
        (key.state(), key.cidrs.as_slice()),
        (State::Active, &["10.0.0.0/8".to_owned(), "::1/128".to_owned()][..])
    );
    let snapshot = node.snapshot().await.unwrap();
    let told = &snapshot.keys[0];
    assert_eq!((told.sha256.clone(), told.tenant.as_str(), told.class.as_str()), (hash(&first), "acme", "vip"));
    assert_eq!((&told.cidrs, told.expire_time, &told.fingerprint), (&key.cidrs, key.expire_time, &key.fingerprint));
    assert!(key.fingerprint.len() == 8 && format!("{:02x}", told.sha256[0]) == key.fingerprint[..2]);

    let made = operator.rotate_key(rotate(&id, 600)).await.unwrap().into_inner();
    let (second, rotated) = (made.secret, made.key.unwrap());
    assert_eq!((rotated.state(), &rotated.old_fingerprint), (State::Rotating, &key.fingerprint));
    assert_eq!(hashes(&node.snapshot().await.unwrap()), sorted([hash(&first), hash(&second)]));
    let made = operator.rotate_key(rotate(&id, 0)).await.unwrap().into_inner();
    let third = made.secret;
    assert_eq!(hashes(&node.snapshot().await.unwrap()), [hash(&third)], "no overlap: only the new one");
    let revoked = operator.revoke_key(revoke(&id)).await.unwrap().into_inner();
    assert_eq!(revoked.state(), State::Revoked);
    assert!(node.snapshot().await.unwrap().keys.is_empty());
    assert_eq!(operator.revoke_key(revoke(&id)).await.unwrap().into_inner().revision, revoked.revision);
    assert_eq!(operator.rotate_key(rotate(&id, 1)).await.unwrap_err().code(), Code::FailedPrecondition);
    let delete = v1::DeleteKeyRequest { name: key.name, ..Default::default() };
    operator.delete_key(delete.clone()).await.unwrap();
    assert_eq!(operator.delete_key(delete).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_ends_by_the_clock_vanishes_by_a_revision_of_its_own() {
    let daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    let lasting = operator.create_key(create("lasting")).await.unwrap().into_inner();
    let mut request = create("short");
    request.key.as_mut().unwrap().expire_time = in_seconds(2);
    operator.create_key(request).await.unwrap();
    let rotated = operator.rotate_key(rotate("lasting", 1)).await.unwrap().into_inner();
    assert_eq!(node.snapshots_until(4).await.1.keys.len(), 3);
    let snapshot = loop {
        let snapshot = node.snapshot().await.unwrap();
        if snapshot.keys.len() == 1 {
            break snapshot;
        }
    };
    assert_eq!(hashes(&snapshot), [hash(&rotated.secret)]);
    assert_ne!(lasting.secret, rotated.secret);
    let keys = operator.list_keys(v1::ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(keys.iter().map(v1::Key::state).collect::<Vec<_>>(), [State::Active, State::Expired]);
    assert_eq!(keys[0].old_fingerprint, "");
    assert!(snapshot.revision >= 5);
}

#[tokio::test]
async fn a_secret_that_ended_while_pincerd_was_away_is_gone_when_it_is_back() {
    let mut daemon = Daemon::start();
    let mut request = create("short");
    // The end has whole seconds, so one second may be over at once.
    let end = in_seconds(2);
    request.key.as_mut().unwrap().expire_time = end;
    daemon.operator().await.create_key(request).await.unwrap();
    daemon.kill();
    common::eventually("the key has ended", || async {
        (prost_types::Timestamp::from(SystemTime::now()).seconds >= end.unwrap().seconds).then_some(())
    })
    .await;
    daemon.start_again();
    let mut node = Node::join(&daemon, hello("web-1", &[A])).await;
    let mut snapshot = node.snapshot().await.unwrap();
    while !snapshot.keys.is_empty() {
        snapshot = node.snapshot().await.unwrap();
    }
    assert_eq!(snapshot.revision, 3);
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_refused() {
    let daemon = Daemon::start();
    let mut operator = daemon.operator().await;
    let spoil: [fn(&mut v1::Key); 8] = [
        |k| k.tenant.clear(),
        |k| k.tenant = "a b".into(),
        |k| k.class = "a/b".into(),
        |k| k.class = "c".repeat(65),
        |k| k.cidrs = vec!["10.0.0.0/33".into()],
        |k| k.cidrs = vec!["10.0.0.0/8".into(); 17],
        |k| k.expire_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        |k| k.expire_time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
    ];
    for spoil in spoil {
        let mut request = create("k1");
        request.key.as_mut().map(spoil);
        assert_eq!(operator.create_key(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(operator.create_key(create("a/b")).await.unwrap_err().code(), Code::InvalidArgument);
    let checked = v1::CreateKeyRequest { validate_only: true, ..create("k1") };
    let would = operator.create_key(checked).await.unwrap().into_inner();
    assert!(would.secret.is_empty() && would.key.unwrap().revision == 0);
    operator.create_key(create("k1")).await.unwrap();
    assert_eq!(operator.create_key(create("k1")).await.unwrap_err().code(), Code::AlreadyExists);
    for overlap_s in [-1, 31 * 86_400] {
        assert_eq!(operator.rotate_key(rotate("k1", overlap_s)).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let stale = v1::RevokeKeyRequest { etag: "r1".into(), ..revoke("k1") };
    assert_eq!(operator.revoke_key(stale).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(operator.revoke_key(revoke("other")).await.unwrap_err().code(), Code::NotFound);
}

/// Whether any file in `folder` has `secret` in it.
fn is_in_files(folder: &Path, secret: &str) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).any(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
    })
}

#[tokio::test]
async fn a_secret_is_shown_once_and_found_nowhere_else() {
    let mut daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let words = ["--tenant", "acme", "--class", "vip", "--id", "canary", "--cidr", "10.0.0.0/8", "--expires", "90d"];
    let told = daemon.ctl(&[&["-o", "json", "key", "create"], &words[..]].concat()).await;
    assert_eq!(told.code, 0, "{}", told.errors);
    let secret = told.json()["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("pk_"));
    // The secret's own part: what would be left of it if the prefix were cut.
    let (body, hash) = (&secret[3..], told.json()["key"]["fingerprint"].as_str().unwrap().to_owned());
    let table = daemon.ctl(&["key", "list"]).await.out;
    assert!(table.contains(&hash) && table.contains("10.0.0.0/8") && table.contains("active"), "{table}");
    let json = daemon.ctl(&["-o", "json", "key", "list"]).await.out;
    let told = daemon.ctl(&["key", "rotate", "canary", "--overlap", "1h"]).await;
    assert!(told.out.contains("secret pk_") && told.out.contains(", rotating, fingerprint "), "no new secret");
    let second = told.out.split_whitespace().find(|word| word.starts_with("pk_")).unwrap()[3..].to_owned();
    let errors = daemon.ctl(&["key", "create", "--tenant", "acme", "--class", "vip", "--id", "canary"]).await;
    assert_eq!(errors.code, 3, "{}", errors.errors);
    let metrics = daemon.get("/metrics").await;
    daemon.ctl(&["key", "revoke", "canary"]).await;
    assert!(daemon.ctl(&["key", "list"]).await.out.contains("revoked"));
    assert_eq!(daemon.terminate().await, Some(0));
    for part in [body, &second] {
        for text in [&table, &json, &errors.out, &errors.errors, &metrics] {
            assert!(!text.contains(part));
        }
        assert!(!is_in_files(daemon.dir(), part), "store or log");
    }
    assert!(is_in_files(daemon.dir(), "canary"), "the search finds what is there");
}

#[tokio::test]
async fn a_class_that_nobody_knows_is_warned_of_and_the_key_is_made() {
    let daemon = Daemon::start();
    let classes = vec![v1::DeclaredClass { name: "vip".into(), settings: None }];
    let _node = Node::join(&daemon, v1::Hello { classes, ..hello("web-1", &[A]) }).await;
    let create =
        async |class: &str| daemon.ctl(&["-o", "json", "key", "create", "--tenant", "acme", "--class", class]).await;
    let warned = create("gold").await;
    assert_eq!(warned.code, 0, "{}", warned.errors);
    assert!(warned.json()["secret"].as_str().is_some_and(|secret| secret.starts_with("pk_")));
    assert!(warned.errors.contains("warning: no node declares the class \"gold\""), "{}", warned.errors);
    assert_eq!(daemon.ctl(&["class", "set", "gold", "--rate", "5r/s"]).await.code, 0);
    for known in ["vip", "gold"] {
        let made = create(known).await;
        assert_eq!((made.code, made.errors.as_str()), (0, ""), "{known}");
    }
}
