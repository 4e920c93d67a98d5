//! Classes in the zone: from nginx.conf, from the control plane, over reloads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::limit::{ClassSettings, DELAY_NONE, Effective, Rate};
use pincer_core::metrics::{self, Format};
use pincer_core::status::{Context, write_json};
use pincer_core::zone::{
    CLASSES_MAX, ClassIdx, ClassOverlay, ClassSpec, HeapZone, Layout, Overlay, OverlayError, QueueRule, Zone,
    ZoneError, check_classes,
};
use zone_support::*;

const NOTHING: ClassSettings = ClassSettings {
    rate: None,
    burst: None,
    delay: None,
    concurrency: None,
    bandwidth: None,
    priority: None,
    share: None,
    queue: None,
    queue_timeout_ms: None,
};

fn rate(requests: u32) -> ClassSettings {
    ClassSettings { rate: Some(Rate::per_second(requests)), ..NOTHING }
}

fn share(percent: u8) -> ClassSettings {
    ClassSettings { share: Some(percent), ..NOTHING }
}

/// The next configuration, with these classes.
fn declare(zone: &Zone<'_>, classes: &[(&str, ClassSettings)]) -> Vec<ClassIdx> {
    zone.header.generation_begin();
    let indices: Vec<_> = classes.iter().map(|(name, _)| zone.class_reserve(name.as_bytes()).unwrap()).collect();
    zone.retire(NOW);
    for (index, (_, settings)) in indices.iter().zip(classes) {
        zone.class_configure(*index, settings, NOW).unwrap();
    }
    indices
}

fn apply(zone: &Zone<'_>, revision: u64, classes: &[ClassOverlay<'_>]) -> Result<(), OverlayError> {
    let overlay = Overlay { revision, classes, ..Overlay::default() };
    zone.overlay_check(&overlay)?;
    zone.overlay_apply(&overlay, NOW)
}

fn over(name: &str, settings: ClassSettings) -> ClassOverlay<'_> {
    ClassOverlay { name: name.as_bytes(), settings, added: false }
}

fn added(name: &str, settings: ClassSettings) -> ClassOverlay<'_> {
    ClassOverlay { added: true, ..over(name, settings) }
}

fn find(zone: &Zone<'_>, name: &str) -> Option<ClassIdx> {
    zone.class_find(name.as_bytes(), zone.header.generation())
}

fn effective(zone: &Zone<'_>, name: &str) -> Effective {
    zone.class(find(zone, name).expect("the class")).unwrap().effective()
}

#[test]
fn a_class_without_a_word_is_unlimited_at_priority_100_with_a_share_of_5() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let index = declare(&zone, &[("default", NOTHING)])[0];
    let class = zone.class(index).unwrap();
    let defaults = Effective {
        rate: Rate::UNLIMITED,
        burst: 0,
        delay: 0,
        concurrency: 0,
        bandwidth: 0,
        priority: 100,
        share: 5,
        queue: 0,
        queue_timeout_ms: 0,
    };
    assert_eq!((class.effective(), class.name(&mut [0; 128])), (defaults, &b"default"[..]));
    assert_eq!(class.queue_rule(), QueueRule { priority: 100, share: 5, queue_max: 0, timeout_ms: 0 });
    assert_eq!(zone.class_find(b"other", 1), None);
}

#[test]
fn the_control_plane_lies_above_the_configuration_stays_over_a_reload_and_goes_with_its_revision() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let vip = ClassSettings { burst: Some(20), delay: Some(DELAY_NONE), priority: Some(1), ..rate(10) };
    let index = declare(&zone, &[("vip", vip)])[0];
    apply(&zone, 1, &[over("vip", ClassSettings { concurrency: Some(3), ..rate(100) })]).unwrap();
    assert_eq!(declare(&zone, &[("vip", ClassSettings { burst: Some(30), ..vip })]), [index]);
    let now = effective(&zone, "vip");
    assert_eq!((now.rate, now.burst, now.concurrency, now.priority), (Rate::per_second(100), 30, 3, 1));
    // A live value of zero lifts a limit of nginx.conf.
    apply(&zone, 2, &[over("vip", ClassSettings { rate: Some(Rate::UNLIMITED), ..NOTHING })]).unwrap();
    assert_eq!((effective(&zone, "vip").rate, effective(&zone, "vip").concurrency), (Rate::UNLIMITED, 0));
    apply(&zone, 3, &[]).unwrap();
    assert_eq!(effective(&zone, "vip").rate, Rate::per_second(10));
}

#[test]
fn a_class_comes_and_goes_with_the_control_plane_alone() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    declare(&zone, &[("default", NOTHING)]);
    apply(&zone, 1, &[added("gold", rate(7)), over("elsewhere", rate(1))]).unwrap();
    let first = find(&zone, "gold").unwrap();
    assert_eq!((effective(&zone, "gold").rate, zone.header.unknown()), (Rate::per_second(7), 1));
    declare(&zone, &[("default", NOTHING)]);
    assert_eq!(find(&zone, "gold"), Some(first), "it stays over a reload");
    declare(&zone, &[("default", NOTHING), ("gold", rate(2))]);
    apply(&zone, 2, &[]).unwrap();
    assert_eq!(effective(&zone, "gold").rate, Rate::per_second(2), "nginx.conf has come to declare it");
    apply(&zone, 3, &[added("gold", rate(8))]).unwrap();
    declare(&zone, &[("default", NOTHING)]);
    assert_eq!(effective(&zone, "gold").rate, Rate::per_second(8), "and ceased to");
    apply(&zone, 4, &[]).unwrap();
    assert_eq!((find(&zone, "gold"), zone.room().classes), (None, 7));
    let life = zone.class(first).unwrap().generation();
    apply(&zone, 5, &[added("silver", rate(1))]).unwrap();
    assert_eq!(find(&zone, "silver"), Some(first));
    assert!(zone.class(first).unwrap().generation() > life, "another life of the record");
}

#[test]
fn a_class_that_a_reload_drops_serves_the_old_workers_and_no_new_one() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let index = declare(&zone, &[("old", rate(3)), ("default", NOTHING)])[0];
    let old = zone.header.generation();
    let w = join(&zone, 1);
    declare(&zone, &[("default", NOTHING)]);
    assert_eq!(zone.class_find(b"old", old), Some(index));
    assert_eq!(zone.class(index).unwrap().effective().rate, Rate::per_second(3));
    assert_eq!(find(&zone, "old"), None);
    let shown: Vec<_> = zone.snapshot(NOW).classes.into_iter().map(|class| class.name).collect();
    assert_eq!((shown, zone.room().classes), (vec!["default".to_owned()], 6));
    zone.worker_leave(w);
    assert_eq!(zone.room().classes, 7);
    declare(&zone, &[("default", NOTHING)]);
    assert_eq!(zone.class_find(b"old", old), None);
}

#[test]
fn shares_that_are_set_are_kept_and_the_others_divide_the_rest() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    declare(&zone, &[("a", share(60)), ("b", share(36)), ("c", NOTHING), ("d", NOTHING)]);
    let shares = |zone: &Zone<'_>| ["a", "b", "c", "d"].map(|name| effective(zone, name).share);
    assert_eq!(shares(&zone), [60, 36, 2, 2]);
    let refused = apply(&zone, 1, &[over("a", share(65))]).unwrap_err();
    assert_eq!(refused, OverlayError::Content(ZoneError::ShareSum { sum: 101 }));
    assert!(refused.is_invalid());
    apply(&zone, 2, &[over("a", share(10)), over("c", share(0))]).unwrap();
    assert_eq!(shares(&zone), [10, 36, 0, 5]);
    // Both layers together may pass 100 % only by a reload, which can't be refused: then all are
    // lowered.
    declare(&zone, &[("a", share(1)), ("b", share(90)), ("c", NOTHING), ("d", share(100))]);
    assert_eq!(shares(&zone), [5, 45, 0, 50]);
}

#[test]
fn any_fault_refuses_the_whole_revision_and_names_the_class() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    declare(&zone, &[("vip", rate(10))]);
    let wrong = ClassSettings { bandwidth: Some((1 << 40) + 1), ..NOTHING };
    let many: Vec<String> = (0..9).map(|i| format!("c{i}")).collect();
    let many: Vec<_> = many.iter().map(|name| added(name, NOTHING)).collect();
    let long = "x".repeat(129);
    let faults: [(Vec<ClassOverlay<'_>>, &str, bool); 5] = [
        (vec![over("vip", wrong)], "bandwidth 1099511627777 of class \"vip\", 0 to 1099511627776 are allowed", true),
        (vec![over("vip", rate(1)), over("vip", rate(1))], "class \"vip\" is given twice", true),
        (vec![over("", rate(1))], "name \"\" of 0 bytes, 1 to 128 are allowed for a class", true),
        (vec![over(&long, rate(1))], "1 to 128", true),
        (many, "has no room in the zone of 8 classes", false),
    ];
    for (mut classes, text, invalid) in faults {
        classes.insert(0, added("good", rate(1)));
        let error = apply(&zone, 9, &classes).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!((error.is_invalid(), zone.header.revision(), find(&zone, "good")), (invalid, 0, None));
    }
    let crowd = vec![over("vip", rate(1)); 257];
    assert!(matches!(apply(&zone, 9, &crowd), Err(OverlayError::TooManyClasses { have: 257, max: 256 })));
}

#[test]
fn a_full_zone_names_the_size_that_would_do() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    zone.header.generation_begin();
    for i in 0..8 {
        zone.class_reserve(format!("c{i}").as_bytes()).unwrap();
    }
    let Err(ZoneError::ClassesFull { have: 8, need_bytes, .. }) = zone.class_reserve(b"ninth") else {
        panic!("another answer")
    };
    assert!(Layout::for_bytes(need_bytes).unwrap().parts.classes.count >= 9);
}

#[test]
fn nginx_t_refuses_what_the_zone_would() {
    let spec = |name: &'static str, settings| ClassSpec { name: name.as_bytes(), settings };
    assert_eq!(check_classes(&[spec("a", rate(1)), spec("b", share(100))]), Ok(()));
    let refuse = |classes: &[ClassSpec<'_>]| check_classes(classes).unwrap_err().to_string();
    assert_eq!(refuse(&[spec("a", NOTHING), spec("a", NOTHING)]), "class \"a\" is given twice");
    let sum = refuse(&[spec("a", share(51)), spec("b", share(50))]);
    assert_eq!(sum, "the shares of all classes are 101 % together, at most 100 % are allowed");
    let burst = ClassSettings { burst: Some(1_000_001), ..NOTHING };
    assert_eq!(refuse(&[spec("a", burst)]), "burst 1000001 of class \"a\", 0 to 1000000 are allowed");
    let names: Vec<String> = (0..=CLASSES_MAX).map(|i| format!("c{i}")).collect();
    let many: Vec<_> = names.iter().map(|name| ClassSpec { name: name.as_bytes(), settings: NOTHING }).collect();
    assert_eq!(refuse(&many), "65 classes are declared, at most 64 are allowed");
}

#[test]
fn status_and_metrics_show_every_class_with_its_layers() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    declare(&zone, &[("vip", ClassSettings { burst: Some(5), ..rate(10) })]);
    apply(&zone, 1, &[over("vip", rate(100)), added("g\"old", NOTHING)]).unwrap();
    let w = join(&zone, 1);
    let vip = find(&zone, "vip").unwrap();
    zone.class_waiting_add(vip, w);
    zone.class_queue_left(vip, 30 * MS, true);
    zone.class_queue_overflow(vip);
    zone.class_sent(vip, 4_096);
    let snapshot = zone.snapshot(NOW);
    let context = Context { addresses: &[], generation: 1, state_path: None, now: NOW };
    let mut json = String::new();
    write_json(&snapshot, &context, &mut json).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let class = &status["classes"][0];
    assert_eq!((&class["name"], &class["waiting"], &class["bytes"]), (&"vip".into(), &1.into(), &4_096.into()));
    assert_eq!(class["rate"].to_string(), r#"{"configured":"10r/s","effective":"100r/s","live":"100r/s"}"#);
    assert_eq!(class["burst"].to_string(), r#"{"configured":5,"effective":5,"live":null}"#);
    assert_eq!((&class["queue_timeouts"], &class["queue_overflows"]), (&1.into(), &1.into()));
    assert_eq!((&status["classes"][1]["name"], &status["classes"][1]["added"]), (&"g\"old".into(), &true.into()));
    assert_eq!(status["class_records"]["free"], 6);
    let mut text = String::new();
    metrics::write(&snapshot, &context, Format::Prometheus, &mut text).unwrap();
    for line in [
        "pincer_class_requests_total{class=\"vip\",result=\"passed\"} 0",
        "pincer_class_sent_bytes_total{class=\"vip\"} 4096",
        "pincer_class_waiting{class=\"g\\\"old\"} 0",
        "pincer_class_queue_wait_seconds_count{class=\"vip\"} 1",
        "pincer_limit_evictions_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
    zone.class_waiting_sub(vip, w);
    zone.class_waiting_sub(vip, w);
    let unbalanced = zone.snapshot(NOW).counters.into_iter().find(|counter| counter.name == "unbalanced");
    assert_eq!(unbalanced.map(|counter| counter.value), Some(1));
}
