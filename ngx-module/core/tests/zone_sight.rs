//! What operators see: the JSON is JSON, the metrics are what a strict scraper takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use std::collections::BTreeSet;

use pincer_core::metrics::{self, Format};
use pincer_core::status::{self, Context};
use pincer_core::time::MonoNs;
use pincer_core::trust::{Distrust, Place};
use pincer_core::zone::{HeapZone, Link, Outcome, Overlay, PeerOverlay, PeerState, QueueClass, UpstreamOverlay, Zone};
use zone_support::*;

const LATER: MonoNs = MonoNs(NOW.0 + 1_500 * MS);
const CONTEXT: Context<'static> = Context {
    addresses: &["cp-0:9443", "cp-1:9443"],
    generation: 1,
    state_path: Some("/var/lib/pincer/\"last\""),
    now: LATER,
};

/// A zone in which a bit of everything has happened; names are as nasty as nginx.conf allows.
fn lived_in() -> HeapZone {
    let (heap, u) = pool(&[spec("a:1", 2), spec("unix:/tmp/\"q\\\n\u{1}", 4)]);
    let zone = heap.zone();
    let w = join(&zone, 4_711);
    for (random, outcome) in [GOOD, GOOD, Outcome::Failure, Outcome::Neutral].into_iter().enumerate() {
        let ticket = take(&zone, u, w, random as u64).unwrap();
        zone.release(ticket, w, outcome, &PARAMS, NOW, 0);
    }
    let held = take(&zone, u, w, 1).unwrap();
    assert!(held.start == NOW);
    let _ = held;
    let peers = [
        PeerOverlay { name: b"a:1", weight: Some(9), state: Some(PeerState::Draining), ..PeerOverlay::default() },
        PeerOverlay { name: b"n:1", added: Some(b"n:1"), ..PeerOverlay::default() },
    ];
    let upstreams =
        [UpstreamOverlay { name: b"llm", peers: &peers }, UpstreamOverlay { name: b"not here", peers: &[] }];
    zone.overlay_apply(&Overlay { revision: 42, upstreams: &upstreams, ..Overlay::default() }, NOW).unwrap();
    let link = Link { connected: true, address: 0, message: NOW, pulse: NOW, error: "" };
    for connected in [true, false, true] {
        assert!(zone.feed_report(w, 1, &Link { connected, address: 1, ..link }));
    }
    zone.header.connection.refused();
    zone.header.state_file.found(Some(Distrust::Writable { place: Place::Folder, mode: 0o777 }));
    zone.queue_enter(u, w, QueueClass::NONE, 10, &plain, NOW).unwrap();
    zone.queue_timeout(u, 3_000 * MS);
    zone.queue_left(u, 2 * MS);
    zone.queue_overflow(u);
    heap
}

fn json(zone: &Zone<'_>) -> serde_json::Value {
    let mut text = String::new();
    status::write_json(&zone.snapshot(LATER), &CONTEXT, &mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn exposition(zone: &Zone<'_>, format: Format) -> String {
    let mut text = String::new();
    metrics::write(&zone.snapshot(LATER), &CONTEXT, format, &mut text).unwrap();
    text
}

#[test]
fn the_status_is_json_and_says_what_happened() {
    let heap = lived_in();
    let value = json(&heap.zone());
    assert_eq!(
        (value["revision"].as_u64(), value["generation"].as_u64(), value["unknown"].as_u64()),
        (Some(42), Some(1), Some(1))
    );
    let control = &value["control_plane"];
    assert_eq!((&control["address"], &control["error"]), (&"cp-1:9443".into(), &"".into()));
    assert_eq!((control["connected"].as_bool(), control["age_ms"].as_f64()), (Some(true), Some(1_500.0)));
    assert_eq!((control["reconnects"].as_u64(), control["refused"].as_u64()), (Some(1), Some(1)));
    assert_eq!(value["state_file"]["path"], "/var/lib/pincer/\"last\"");
    assert_eq!(value["state_file"]["refused"], "mode 0777 lets others write to the file's folder, 0700 is needed");
    assert_eq!(
        (value["workers"][0]["pid"].as_u64(), value["workers"][0]["in_flight"].as_u64()),
        (Some(4_711), Some(1))
    );
    let upstream = &value["upstreams"][0];
    let queue = ["waiting", "size", "timeouts", "overflows"].map(|key| upstream["queue"][key].as_u64());
    assert_eq!(queue, [Some(1), Some(100), Some(1), Some(1)]);
    let peers = upstream["peers"].as_array().unwrap();
    assert_eq!(peers[1]["name"], "unix:/tmp/\"q\\\n\u{1}");
    assert_eq!(
        (&peers[0]["state"], &peers[0]["weight"]["live"], &peers[0]["weight"]["effective"]),
        (&"draining".into(), &9.into(), &9.into())
    );
    assert_eq!(
        (&peers[2]["added"], &peers[2]["declared"], &peers[2]["service_ms"]),
        (&true.into(), &false.into(), &serde_json::Value::Null)
    );
    let sum = |key: &str| peers.iter().map(|peer| peer[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("requests"), sum("failures"), sum("neutral"), sum("in_flight")), (5, 1, 1, 1));
    assert!(
        peers.iter().any(|peer| peer["service_ms"] == 20.0 && peer["hold_ms"] == 40.0 && peer["breaker"] == "closed")
    );
}

#[test]
fn a_link_that_is_down_is_shown_with_its_reason_and_an_address_only_to_whom_it_belongs() {
    let heap = lived_in();
    let zone = heap.zone();
    let w = pincer_core::zone::WorkerIdx(0);
    let down = Link { connected: false, address: 0, message: NOW, pulse: LATER, error: "cp-0:9443: \"no\"" };
    assert!(zone.feed_report(w, 1, &down));
    let control = &json(&zone)["control_plane"];
    assert_eq!((&control["connected"], &control["error"]), (&false.into(), &"cp-0:9443: \"no\"".into()));
    assert_eq!(control["address"], "cp-0:9443");
    assert!(exposition(&zone, Format::Prometheus).contains("\npincer_control_plane_connected 0\n"));
    let mut text = String::new();
    let of_another = Context { generation: 2, ..CONTEXT };
    status::write_json(&zone.snapshot(LATER), &of_another, &mut text).unwrap();
    assert!(text.contains("\"connected\":false,\"address\":null,"), "{text}");
}

#[test]
fn an_empty_zone_is_shown_too() {
    let heap = HeapZone::new(1, 4);
    let value = json(&heap.zone());
    assert_eq!(
        (value["upstreams"].as_array().map(Vec::len), &value["control_plane"]["address"]),
        (Some(0), &serde_json::Value::Null)
    );
    assert_eq!(value["state_file"]["refused"], serde_json::Value::Null);
    check(&exposition(&heap.zone(), Format::Prometheus), Format::Prometheus);
    check(&exposition(&heap.zone(), Format::OpenMetrics), Format::OpenMetrics);
}

#[test]
fn both_dialects_pass_a_strict_reader() {
    let heap = lived_in();
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = exposition(&heap.zone(), format);
        let samples = check(&text, format);
        let value = |name: &str, label: &str| {
            let found = samples.iter().filter(|(sample, labels, _)| sample == name && labels.contains(label));
            found.map(|(_, _, value)| value).sum::<f64>()
        };
        assert_eq!(value("pincer_revision", ""), 42.0);
        assert_eq!(value("pincer_peer_requests_total", "upstream=\"llm\""), 5.0);
        assert_eq!(value("pincer_peer_state", "state=\"draining\""), 1.0);
        assert_eq!(value("pincer_queue_wait_seconds_count", ""), 2.0);
        assert_eq!(value("pincer_queue_wait_seconds_sum", ""), 3.002);
        assert_eq!(value("pincer_queue_wait_seconds_bucket", "le=\"0.0025\""), 1.0);
        assert_eq!(value("pincer_service_seconds_bucket", "le=\"+Inf\""), 2.0);
        assert_eq!(value("pincer_control_plane_age_seconds", ""), 1.5);
        assert_eq!(value("pincer_state_file_refused", ""), 1.0);
        assert!(!text.contains("4711"), "a pid is no label");
    }
}

#[test]
fn the_dialect_follows_the_accept_header() {
    assert_eq!(Format::of_accept(b"application/openmetrics-text; version=1.0.0,text/plain;q=0.5"), Format::OpenMetrics);
    assert_eq!(Format::of_accept(b"text/plain"), Format::Prometheus);
    assert_eq!(Format::of_accept(b""), Format::Prometheus);
}

type Sample = (String, String, f64);

/// Reads an exposition line by line, and fails on whatever a strict parser would not take.
fn check(text: &str, format: Format) -> Vec<Sample> {
    let open = format == Format::OpenMetrics;
    assert_eq!(text.ends_with("# EOF\n"), open);
    assert_eq!(text.matches("# EOF").count(), usize::from(open));
    let (mut families, mut seen, mut samples) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let (mut family, mut kind, mut stage) = (String::new(), String::new(), "");
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                assert!(!help.is_empty() && help.ends_with('.'), "{line}");
                (family, stage) = (name.to_owned(), "help");
            }
            ["#", "TYPE", name, word] => {
                assert!(name == family && stage == "help", "{line}");
                assert_eq!(name.ends_with("_total"), word == "counter" && !open, "{line}");
                (kind, stage) = (word.to_owned(), "type");
            }
            ["#", "UNIT", name, unit] => {
                assert!(open && name == family && stage == "type" && name.ends_with(&format!("_{unit}")), "{line}");
            }
            _ => {
                stage = "samples";
                let sample = parse(line);
                let suffixes: &[&str] = match kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "counter" if open => &["_total"],
                    _ => &[""],
                };
                assert!(suffixes.iter().any(|suffix| sample.0 == format!("{family}{suffix}")), "{line} in {family}");
                assert!(seen.insert((sample.0.clone(), sample.1.clone())), "{line} comes twice");
                samples.push(sample);
            }
        }
    }
    assert!(open == text.contains("# UNIT"));
    check_buckets(&samples);
    samples
}

/// Buckets rise, and the last equals the count.
fn check_buckets(samples: &[Sample]) {
    let mut last = 0.0;
    for (name, labels, value) in samples {
        if name.ends_with("_bucket") {
            let first = labels.contains("le=\"0.001\"");
            assert!(first || *value >= last, "{name}{labels}");
            last = *value;
        } else if name.ends_with("_seconds_count") {
            assert_eq!(*value, last, "{name}{labels}");
        }
    }
}

/// `name{label="value",…} number`, with escapes undone only as far as finding the end needs it.
fn parse(line: &str) -> Sample {
    let mut end = None;
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in line.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted && end.is_none() => end = Some(at),
            _ => {}
        }
    }
    let (series, value) = line.split_at(end.unwrap_or_else(|| panic!("no value in {line:?}")));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    assert!(name.chars().all(|character| character.is_ascii_lowercase() || character == '_'), "{line}");
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line:?}"));
    assert!(labels.chars().all(|character| character >= ' ' || character == '\u{1}'), "{line:?}");
    (name.to_owned(), labels.to_owned(), value.trim().parse().unwrap_or_else(|_| panic!("{line:?}")))
}
