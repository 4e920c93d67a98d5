//! Tests of the store.

use std::os::unix::fs::FileExt as _;

use super::*;
use crate::{
    classes, keys,
    model::{Change, Replaced, Settings},
};

fn change(address: &str, after: Option<Record>) -> Change {
    Change { upstream: "llm".into(), address: address.into(), before: None, after }
}

/// A record of a node that another program wrote.
fn put_raw(store: &Store, name: &str, record: &[u8]) {
    let state = store.state.lock();
    let write = state.db.as_ref().unwrap().begin_write().unwrap();
    write.open_table(NODES).unwrap().insert(name, record).unwrap();
    write.commit().unwrap();
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let settings = Settings { weight: Some(9), ..Settings::default() };
    let changes = [
        change("127.0.0.1:1", Some(Record { settings, added: false, revision: 0 })),
        change("unix:/a", Some(Record { added: true, ..Record::default() })),
    ];
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load().unwrap().revision, 1, "a fresh store starts at revision 1");
    let config = store.load().unwrap().with(&changes, 2, 1_700_000_000);
    store.commit(&config, &changes.to_vec().into()).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Locked(_))));
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load().unwrap(), config);
    let next = config.with(&[change("unix:/a", None)], 3, 1_700_000_001);
    store.commit(&next, &vec![change("unix:/a", None)].into()).unwrap();
    assert_eq!(store.load().unwrap(), next);
}

fn key() -> keys::Record {
    keys::Record {
        tenant: "acme".into(),
        class: "vip".into(),
        cidrs: vec!["10.0.0.0/8".into()],
        expire_s: Some(7),
        sha256: keys::Hash([7; 32]),
        old: Some(keys::Old { sha256: keys::Hash([8; 32]), until_s: 5 }),
        created_s: 1,
        rotated_s: 2,
        revoked_s: None,
        revision: 0,
    }
}

#[test]
fn classes_and_keys_are_kept_with_the_revision() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let settings = classes::Settings { burst: Some(7), ..classes::Settings::default() };
    let class = classes::Record { settings, added: true, revision: 0 };
    let changes = Changes {
        classes: vec![Replaced { id: "vip".into(), before: None, after: Some(class) }],
        keys: vec![Replaced { id: "k1".into(), before: None, after: Some(key()) }],
        ..Changes::default()
    };
    let store = Store::open(&path).unwrap();
    let config = store.load().unwrap().with_all(&changes, 2, 3);
    store.commit(&config, &changes).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load().unwrap(), config);
    assert_eq!(config.keys["k1"].revision, 2);
    let gone = Changes {
        classes: vec![Replaced { id: "vip".into(), before: None, after: None }],
        keys: vec![Replaced { id: "k1".into(), before: None, after: None }],
        ..Changes::default()
    };
    let next = config.with_all(&gone, 3, 4);
    store.commit(&next, &gone).unwrap();
    let found = store.load().unwrap();
    assert!(found == next && found.classes.is_empty() && found.keys.is_empty());
}

#[test]
fn a_store_from_before_classes_and_keys_opens_with_all_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let db = Database::create(&path).unwrap();
    let write = db.begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        for (key, value) in [("format", 1), ("revision", 41), ("created_s", 1_700_000_000)] {
            meta.insert(key, value).unwrap();
        }
        let record = br#"{"settings":{"weight":9},"added":false,"revision":41}"#;
        write.open_table(PEERS).unwrap().insert(("llm", "127.0.0.1:1"), record.as_slice()).unwrap();
        let node = br#"{"module_version":"0.1.0","nginx_version":"1.22.1","worker_processes":4,"upstreams":[]}"#;
        write.open_table(NODES).unwrap().insert("web-1", node.as_slice()).unwrap();
    }
    write.commit().unwrap();
    drop(db);
    let store = Store::open(&path).unwrap();
    let config = store.load().unwrap();
    assert_eq!((config.revision, config.created_s), (41, 1_700_000_000));
    assert_eq!(config.record("llm", "127.0.0.1:1").and_then(|r| r.settings.weight), Some(9));
    assert!(config.classes.is_empty() && config.keys.is_empty());
    let nodes = store.load_nodes().unwrap();
    assert_eq!((nodes[0].0.as_str(), nodes[0].1.worker_processes, nodes[0].1.classes.len()), ("web-1", 4, 0));
}

#[test]
fn nodes_are_kept_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.redb")).unwrap();
    let node = NodeRecord { nginx_version: "1.22.1".into(), ..NodeRecord::default() };
    store.put_nodes(&[("web-1".to_owned(), Some(node.clone()))]).unwrap();
    assert_eq!(store.load_nodes().unwrap(), [("web-1".to_owned(), node)]);
    store.put_nodes(&[("web-1".to_owned(), None)]).unwrap();
    assert_eq!(store.load_nodes().unwrap(), []);
}

#[test]
fn a_file_that_is_no_store_or_damaged_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let named = |error: StoreError| {
        let said = error.to_string();
        let advice = format!("restore it from a backup, or move it away (mv {0} {0}.damaged)", path.display());
        assert!(said.contains(&path.display().to_string()) && said.contains(&advice), "{said}");
    };
    std::fs::write(&path, "no store at all, but long enough to be taken for one".repeat(100)).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::NoStore { .. }), "{error}");
    named(error);
    std::fs::remove_file(&path).unwrap();
    let store = Store::open(&path).unwrap();
    put_raw(&store, "web-1", b"{");
    let error = store.load_nodes().unwrap_err();
    assert!(error.to_string().contains("its record of web-1 cannot be read"), "{error}");
    named(error);
}

#[test]
fn a_byte_that_changed_is_named_with_its_place_or_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let changes: Vec<_> = (1..=2000)
        .map(|n| change(&format!("127.0.0.1:{n}"), Some(Record { added: true, ..Record::default() })))
        .collect();
    let store = Store::open(&path).unwrap();
    let config = store.load().unwrap().with(&changes, 2, 0);
    store.commit(&config, &changes.into()).unwrap();
    drop(store);
    let sound = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in (320..sound.len()).step_by(20_011) {
        let copy = folder.path().join("copy");
        std::fs::write(&copy, &sound).unwrap();
        let file = OpenOptions::new().write(true).open(&copy).unwrap();
        file.write_all_at(&[!sound[at]], at as u64).unwrap();
        match Store::open(&copy).and_then(|store| store.load()) {
            Ok(read) => assert_eq!(read, config, "byte {at} is in use"),
            Err(StoreError::Spoiled { offset, .. }) => {
                refused += 1;
                assert!((offset..offset + 65_536).contains(&(at as u64)), "byte {at} is not in the page at {offset}");
                assert!(std::fs::read(&copy).unwrap()[at] != sound[at], "nothing was repaired without a word");
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
        std::fs::remove_file(&copy).unwrap();
    }
    assert!(refused > 2, "{refused} of the changed bytes were in use");
}

#[test]
fn a_record_with_a_value_that_nobody_can_set_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let bad = Record { revision: 9, ..Record::default() };
    let store = Store::open(&path).unwrap();
    for (address, revision) in [("127.0.0.1:0", 2), ("gpu1:80", 3), ("127.0.0.1:7", 4)] {
        let mut next = store.load().unwrap_or_default().with(&[change(address, Some(bad))], revision, 0);
        if let Some(record) = next.upstreams.get_mut("llm").and_then(|peers| peers.get_mut("127.0.0.1:7")) {
            record.revision = 9;
        }
        store.commit(&next, &vec![change(address, Some(bad))].into()).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(&error, StoreError::Value { key, .. } if key == address), "{error}");
        store.commit(&Config { revision, ..Config::default() }, &vec![change(address, None)].into()).unwrap();
    }
    put_raw(&store, "web-1", br#"{"upstreams":[{"name":"a b","peers":[]}]}"#);
    assert!(matches!(store.load_nodes().unwrap_err(), StoreError::Value { .. }));
}
