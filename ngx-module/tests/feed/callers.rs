//! What the classes and API keys of a snapshot must keep to before they may reach the zone.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pincer_core::limit::{ClassSettings, DELAY_NONE, Per, Rate as Wanted};
use pincer_core::time::{MonoNs, SECOND_NS};
use pincer_core::zone::{HeapZone, KeyVerdict};
use pincer_proto::limits;
use pincer_proto::v1::{self, ClassConfig, KeyConfig, Rate, RatePeriod, Snapshot};

use crate::feed::report;
use crate::feed::state::{self, Loaded};
use crate::feed::translate::{Now, Rules};
use crate::server::{ControlPlane, said};
use crate::user::{EventLoop, state_file, tcp};

/// Seconds since 1970 when these tests are.
const WALL_S: u64 = 1_800_000_000;

pub(crate) fn now() -> Now {
    Now { wall: UNIX_EPOCH + Duration::from_secs(WALL_S), mono: MonoNs(50 * SECOND_NS) }
}

fn rules() -> Rules {
    Rules::new(&[], Vec::new())
}

fn full() -> v1::ClassSettings {
    v1::ClassSettings {
        rate: Some(Rate { requests: 30, period: RatePeriod::Minute.into() }),
        burst: Some(20),
        delay: Some(limits::DELAY_NONE),
        concurrency: Some(4),
        bandwidth: Some(512 << 10),
        priority: Some(0),
        share: Some(100),
        queue: Some(7),
        queue_timeout: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
    }
}

fn class(name: &str, settings: v1::ClassSettings) -> ClassConfig {
    ClassConfig { name: name.to_owned(), settings: Some(settings), added: true }
}

fn key(byte: u8) -> KeyConfig {
    KeyConfig {
        sha256: vec![byte; 32],
        tenant: "acme@example.com".to_owned(),
        class: "vip".to_owned(),
        cidrs: vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()],
        expire_time: Some(prost_types::Timestamp { seconds: WALL_S as i64 + 10, nanos: 0 }),
        fingerprint: format!("{byte:02x}").repeat(4),
    }
}

fn snapshot(classes: Vec<ClassConfig>, keys: Vec<KeyConfig>) -> Snapshot {
    Snapshot { revision: 3, classes, keys, ..Snapshot::default() }
}

fn refused(snapshot: &Snapshot) -> String {
    rules().check(snapshot).expect_err("it passed").to_string()
}

#[test]
fn sound_classes_become_an_overlay_word_for_word() {
    let bare = ClassConfig { name: "bare".to_owned(), settings: None, added: false };
    let snapshot = snapshot(vec![class("vip", full()), bare], vec![]);
    rules().check(&snapshot).unwrap().with_overlay(now(), |overlay| {
        let [vip, bare] = overlay.classes else { panic!("{overlay:?}") };
        assert_eq!((vip.name, vip.added, bare.name, bare.added), (&b"vip"[..], true, &b"bare"[..], false));
        let settings = ClassSettings {
            rate: Some(Wanted { requests: 30, per: Per::Minute }),
            burst: Some(20),
            delay: Some(DELAY_NONE),
            concurrency: Some(4),
            bandwidth: Some(512 << 10),
            priority: Some(0),
            share: Some(100),
            queue: Some(7),
            queue_timeout_ms: Some(1_500),
        };
        assert_eq!((vip.settings, bare.settings), (settings, ClassSettings::default()));
    });
}

#[test]
fn a_value_of_a_class_out_of_range_refuses_the_whole_revision_with_value_need_and_place() {
    type Spoil = fn(&mut v1::ClassSettings);
    let spoil: [(&str, Spoil); 15] = [
        ("rate 1000000001 is out of range, 0 to 1000000000", |s| s.rate.as_mut().unwrap().requests = 1_000_000_001),
        ("period 0 is unknown", |s| s.rate.as_mut().unwrap().period = 0),
        ("period 3 is unknown", |s| s.rate.as_mut().unwrap().period = 3),
        ("burst 1000001", |s| s.burst = Some(1_000_001)),
        ("delay 1000001", |s| s.delay = Some(1_000_001)),
        ("delay 4294967294", |s| s.delay = Some(u32::MAX - 1)),
        ("concurrency 4294967295", |s| s.concurrency = Some(u32::MAX)),
        ("bandwidth 18446744073709551615", |s| s.bandwidth = Some(u64::MAX)),
        ("priority 256", |s| s.priority = Some(256)),
        ("share 101", |s| s.share = Some(101)),
        ("queue 1000001", |s| s.queue = Some(1_000_001)),
        ("queue_timeout of -1 s", |s| s.queue_timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
        ("86400 s and 1000000 ns", |s| {
            s.queue_timeout = Some(prost_types::Duration { seconds: 86_400, nanos: 1_000_000 })
        }),
        ("0 s and 1 ns", |s| s.queue_timeout = Some(prost_types::Duration { seconds: 0, nanos: 1 })),
        ("9223372036854775807 s", |s| {
            s.queue_timeout = Some(prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX })
        }),
    ];
    for (words, spoil) in spoil {
        let mut settings = full();
        spoil(&mut settings);
        let text = refused(&snapshot(vec![class("fine", full()), class("vip", settings)], vec![]));
        assert!(text.contains(words) && text.ends_with("of class \"vip\""), "{text}");
    }
    for name in ["", "a b", "a/b", "a\n", "é", &"x".repeat(65)] {
        assert!(refused(&snapshot(vec![class(name, full())], vec![])).contains("A-Z a-z 0-9"), "{name:?}");
    }
    let huge = refused(&snapshot(vec![class(&"é".repeat(100_000), full())], vec![]));
    assert!(huge.len() < 400);
}

#[test]
fn a_sound_key_becomes_an_entry_that_ends_by_the_monotonic_clock() {
    let forever = KeyConfig { cidrs: vec![], expire_time: None, ..key(2) };
    let mut over = key(3);
    over.expire_time = Some(prost_types::Timestamp { seconds: 1, nanos: 999_999_999 });
    let snapshot = snapshot(vec![], vec![key(1), forever, over]);
    rules().check(&snapshot).unwrap().with_overlay(now(), |overlay| {
        let [key, forever, over] = overlay.keys else { panic!("{overlay:?}") };
        assert_eq!((key.sha256, key.tenant, key.class), ([1; 32], &b"acme@example.com"[..], &b"vip"[..]));
        assert_eq!(key.expires.map(|end| (end.wall_s, end.deadline)), Some((WALL_S + 10, MonoNs(60 * SECOND_NS))));
        assert!(
            key.cidrs[0].contains(IpAddr::from([10, 9, 9, 9])) && !key.cidrs[1].contains(IpAddr::from([10, 9, 9, 9]))
        );
        assert_eq!((forever.expires, forever.cidrs.len()), (None, 0));
        assert_eq!(over.expires.map(|end| end.deadline), Some(now().mono), "it ends now");
        let heap = HeapZone::new(1, 4);
        let zone = heap.zone();
        zone.overlay_apply(overlay, now().mono).unwrap();
        let at = |addr: [u8; 4], seconds| zone.key_find(&[1; 32], addr.into(), MonoNs(seconds * SECOND_NS));
        assert!(matches!(at([10, 0, 0, 1], 59), KeyVerdict::Found { .. }));
        assert_eq!((at([10, 0, 0, 1], 60), at([11, 0, 0, 1], 59)), (KeyVerdict::Expired, KeyVerdict::Forbidden));
        let later = Now { wall: SystemTime::now() - Duration::from_secs(86_400), mono: now().mono };
        rules()
            .check(&snapshot)
            .unwrap()
            .with_overlay(later, |overlay| zone.overlay_apply(overlay, later.mono).unwrap());
        assert_eq!(at([10, 0, 0, 1], 60), KeyVerdict::Expired, "the wall clock was set back a day");
    });
}

#[test]
fn a_fault_of_one_key_refuses_the_whole_revision_and_shows_no_more_than_its_fingerprint() {
    type Spoil = fn(&mut KeyConfig);
    let spoil: [(&str, Spoil); 16] = [
        ("sha256 has 0 bytes, 32 are needed", |k| k.sha256.clear()),
        ("sha256 has 33 bytes", |k| k.sha256.push(1)),
        ("fingerprint \"\"", |k| k.fingerprint.clear()),
        ("fingerprint \"0a0a0a0b\"", |k| k.fingerprint = "0a0a0a0b".to_owned()),
        ("fingerprint \"0A0A0A0A\"", |k| k.fingerprint = "0A0A0A0A".to_owned()),
        ("tenant \"\"", |k| k.tenant.clear()),
        ("tenant \"a\\r\\nX-Class: vip\"", |k| k.tenant = "a\r\nX-Class: vip".to_owned()),
        ("tenant \"aaaa", |k| k.tenant = "a".repeat(65)),
        ("class \"a@b\"", |k| k.class = "a@b".to_owned()),
        ("class \"\"", |k| k.class.clear()),
        ("17 blocks", |k| k.cidrs = vec!["::1/128".to_owned(); 17]),
        ("block \"10.0.0.0\"", |k| k.cidrs[0] = "10.0.0.0".to_owned()),
        ("block \"10.0.0.0/33\"", |k| k.cidrs[1] = "10.0.0.0/33".to_owned()),
        ("block \"10.0.0.0/+8\"", |k| k.cidrs[1] = "10.0.0.0/+8".to_owned()),
        ("expire_time of -1 s", |k| k.expire_time = Some(prost_types::Timestamp { seconds: -1, nanos: 0 })),
        ("9223372036854775807 s", |k| {
            k.expire_time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MIN })
        }),
    ];
    for (words, spoil) in spoil {
        let mut bad = key(10);
        spoil(&mut bad);
        let text = refused(&snapshot(vec![], vec![key(1), bad]));
        assert!(text.contains(words), "{text}");
        assert!(text.contains("sha256 has") || text.ends_with("of key 0a0a0a0a"), "{text}");
        assert!(!text.contains("0a0a0a0a0a") && text.len() < 400, "{text}");
    }
}

#[test]
fn what_a_class_has_in_force_and_how_it_is_used_goes_up() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let sent = snapshot(vec![class("vip", full())], vec![]);
    rules().check(&sent).unwrap().with_overlay(now(), |overlay| zone.overlay_apply(overlay, now().mono)).unwrap();
    let stats = report::of(&zone.snapshot(now().mono));
    let [vip] = stats.classes.as_slice() else { panic!("{stats:?}") };
    assert_eq!((vip.name.as_str(), vip.settings), ("vip", Some(full())));
    assert_eq!((vip.in_flight, vip.waiting, vip.passed, vip.rejected, vip.queue_time), (0, 0, 0, 0, None));
}

#[test]
fn counts_of_classes_and_keys_are_bounded() {
    let classes = |count: usize| (0..count).map(|n| class(&format!("c{n}"), v1::ClassSettings::default())).collect();
    assert!(rules().check(&snapshot(classes(limits::CLASSES_MAX), vec![])).is_ok());
    assert!(refused(&snapshot(classes(limits::CLASSES_MAX + 1), vec![])).contains("257 classes"));
    let keys = |count: usize| vec![key(1); count];
    assert!(rules().check(&snapshot(vec![], keys(limits::KEYS_MAX))).is_ok());
    assert!(refused(&snapshot(vec![], keys(limits::KEYS_MAX + 1))).contains("8193 keys"));
}

#[test]
fn classes_and_keys_are_kept_in_the_state_file_and_a_file_from_before_them_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    // As version 0.1.0 wrote it: revision 7, and an upstream `chat` with a weight of 9 for
    // 10.0.0.1:80.
    let payload = b"\x08\x07\x1a\x17\x0a\x04chat\x12\x0f\x0a\x0b10.0.0.1:80\x10\x09";
    let mut old = b"PINCERST\x01\0\0\0".to_vec();
    old.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    let checked = [&7_u64.to_le_bytes()[..], payload].concat();
    old.extend(xxhash_rust::xxh3::xxh3_64(&checked).to_le_bytes());
    old.extend(checked);
    std::fs::write(&path, old).unwrap();
    let Loaded::Good(found) = state_file(&path).load() else { panic!("not read") };
    assert_eq!((found.revision, found.upstreams[0].peers[0].weight), (7, Some(9)));
    assert!(found.classes.is_empty() && found.keys.is_empty());

    let sent = snapshot(vec![class("vip", full())], vec![key(1), key(2)]);
    let plane = ControlPlane::start(vec![said(sent.clone())]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], None, Some(path.clone()));
    user.apply();
    user.stop();
    // Revision 7 is higher than 3, and stays.
    let Loaded::Good(found) = state_file(&path).load() else { panic!("not read") };
    assert_eq!(found.revision, 7);
    std::fs::remove_file(&path).unwrap();
    let user = EventLoop::start_with(vec![tcp(plane.address)], None, Some(path.clone()));
    user.apply();
    user.stop();
    let Loaded::Good(found) = state_file(&path).load() else { panic!("not read") };
    assert_eq!(found, sent);
    assert!(rules().check(&found).is_ok());
}
