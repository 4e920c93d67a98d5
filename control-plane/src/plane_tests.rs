//! Tests of the plane over disks that fail.

use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::{keys, store::faulty::Disk};

/// Creates the API key `id`.
fn create(id: &str) -> Op {
    let holder = keys::plan::Holder { tenant: "t".into(), class: "c".into(), cidrs: Vec::new(), expire_s: None };
    let kind = keys::plan::Kind::Create { id: id.to_owned(), holder, sha256: keys::Hash([7; 32]) };
    Op::Key(keys::plan::Op { now_s: 1, kind })
}

fn kept(path: &Path) -> Vec<String> {
    Store::open(path).unwrap().load().unwrap().keys.into_keys().collect()
}

#[tokio::test]
async fn after_an_error_of_the_disk_at_any_write_the_next_change_is_made_and_every_answer_was_true() {
    let mut met = BTreeMap::new();
    for k in 1..=40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let disk = Arc::new(Disk::default());
        let plane = Plane::open(disk.open(&path).unwrap()).unwrap();
        plane.change(create("before"), false).await.unwrap();
        disk.fails_in.store(k, Ordering::SeqCst);
        let mut made = vec!["before".to_owned()];
        for n in 0..6 {
            let id = format!("k{n}");
            let before = plane.current().config.revision;
            let word = match plane.change(create(&id), false).await {
                Ok(changed) => {
                    assert_eq!(changed.revision, plane.current().config.revision);
                    made.push(id);
                    "made"
                }
                Err(ChangeError::Store(_)) => {
                    assert_eq!(plane.current().config.revision, before, "what was not made is not published");
                    "not made"
                }
                Err(ChangeError::Unknown(_)) => "unknown",
                Err(other) => panic!("{other}"),
            };
            *met.entry(word).or_insert(0) += 1;
        }
        assert!(made.len() >= 6, "one error of the disk fails one change at most: {made:?}");
        assert!(plane.trouble().borrow().is_none());
        let published: Vec<_> = plane.current().config.keys.keys().cloned().collect();
        drop(plane);
        assert!(kept(&path) == published && published == made, "error at {k}");
    }
    assert!(met["not made"] > 5, "{met:?}");
}

#[tokio::test]
async fn a_full_disk_is_said_and_left_by_itself_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let disk = Arc::new(Disk::default());
    let plane = Plane::open(disk.open(&path).unwrap()).unwrap();
    disk.is_full.store(true, Ordering::SeqCst);
    for n in 0..3 {
        let error = plane.change(create(&format!("k{n}")), false).await.unwrap_err();
        assert!(matches!(error, ChangeError::Store(_) | ChangeError::Unknown(_)), "{error}");
        assert!(plane.trouble().borrow().is_some(), "readiness follows the store");
        assert!(!plane.look_after_store().await);
    }
    disk.is_full.store(false, Ordering::SeqCst);
    assert!(plane.look_after_store().await, "no change has to ask for it");
    assert!(plane.trouble().borrow().is_none());
    assert_eq!(plane.change(create("last"), false).await.unwrap().revision, 2);
    drop(plane);
    assert_eq!(kept(&path), ["last"]);
}

#[tokio::test]
async fn nothing_is_answered_that_goes_into_a_file_which_was_moved_away_or_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (folder.path().join("store.redb"), folder.path().join("away"));
    let plane = Plane::open(Store::open(&path).unwrap()).unwrap();
    plane.change(create("a"), false).await.unwrap();
    std::fs::rename(&path, &away).unwrap();
    assert!(!plane.look_after_store().await);
    let error = plane.change(create("b"), false).await.unwrap_err();
    assert!(matches!(error, ChangeError::Store(StoreError::Moved { .. })), "{error}");
    std::fs::copy(&away, &path).unwrap();
    let error = plane.change(create("b"), false).await.unwrap_err();
    assert!(error.to_string().contains("was replaced"), "{error}");
    assert_eq!(plane.current().config.revision, 2);
    std::fs::rename(&away, &path).unwrap();
    assert!(plane.look_after_store().await);
    plane.change(create("b"), false).await.unwrap();
    drop(plane);
    assert_eq!(kept(&path), ["a", "b"]);
}
