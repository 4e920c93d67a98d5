//! Configurations and reloads: what stays, what goes, what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::breaker::State;
use pincer_core::zone::{HeapZone, Layout, PeerSpec, UpstreamIdx, WorkerIdx, ZoneError};
use zone_support::*;

#[test]
fn a_reload_keeps_what_was_learned_of_peers_that_stay() {
    let (heap, u) = pool(&[spec("a:1", 2), spec("b:1", 2)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    for random in 0..20 {
        let ticket = take(&zone, u, w, random).unwrap();
        zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    }
    let (a, b) = (peer(&zone, "a:1"), peer(&zone, "b:1"));
    let held = take(&zone, u, w, 0).unwrap();
    let again = configure(&zone, &[spec("c:1", 2), spec("b:1", 5), spec("a:1", 2)]);
    assert_eq!(again, u);
    assert_eq!(names(&zone), ["a:1", "b:1", "c:1"]);
    assert_eq!(peer(&zone, "a:1").service_ns, a.service_ns);
    assert_eq!((peer(&zone, "b:1").picks, peer(&zone, "b:1").max_conns), (b.picks, 5));
    assert_eq!((peer(&zone, "c:1").service_ns, peer(&zone, "c:1").slots), (0, 1));
    assert_eq!(in_flight(&zone, "a:1") + in_flight(&zone, "b:1"), 1);
    zone.release(held, w, GOOD, &PARAMS, NOW, 0);
}

#[test]
fn a_peer_that_left_the_configuration_finishes_what_it_has_and_takes_nothing_new() {
    let (heap, u) = pool(&[spec("a:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let held = take(&zone, u, w, 0).unwrap();
    configure(&zone, &[spec("b:1", 1)]);
    assert_eq!(names(&zone), ["b:1"]);
    let next = take(&zone, u, w, 0).unwrap();
    assert_ne!(next.peer, held.peer);
    assert_eq!(zone.peer(held.peer).unwrap().name(&mut [0; 128]), b"a:1");
    assert_eq!(zone.room().peers, zone.peers.len() - 2, "its record is not free while a request is there");
    zone.release(held, w, GOOD, &PARAMS, NOW, 0);
    assert_eq!(zone.room().peers, zone.peers.len() - 1);
    zone.release(next, w, GOOD, &PARAMS, NOW, 0);
}

/// One peer that a single failure takes out for hours, out.
fn out_for_hours(spec: &PeerSpec<'_>) -> (HeapZone, UpstreamIdx, WorkerIdx) {
    let (heap, u) = pool(&[*spec]);
    let w = join(&heap.zone(), 1);
    fail_once(&heap.zone(), u, w);
    assert_eq!(peer(&heap.zone(), "a:1").breaker, State::Open);
    (heap, u, w)
}

#[test]
fn a_reload_and_changed_parameters_let_a_peer_try_that_is_out_for_hours() {
    let strict = PeerSpec { max_fails_explicit: true, fail_timeout_ms: 10_000_000, ..spec("a:1", 2) };
    let again = [strict, PeerSpec { fail_timeout_ms: 1_000, ..strict }, spec("a:1", 2)];
    for next in again {
        let (heap, u, w) = out_for_hours(&strict);
        let zone = heap.zone();
        configure(&zone, &[next]);
        assert_eq!(peer(&zone, "a:1").breaker, State::HalfOpen, "{next:?}");
        let trial = take(&zone, u, w, 0).unwrap();
        zone.release(trial, w, GOOD, &PARAMS, NOW, 0);
        assert_eq!(peer(&zone, "a:1").breaker, State::Closed);
    }
}

#[test]
fn a_reused_record_remembers_nothing_of_its_former_life() {
    let heap = HeapZone::new(1, 2);
    let zone = heap.zone();
    let u = configure(&zone, &[spec("a:1", 1), spec("b:1", 1)]);
    let w = join(&zone, 1);
    for random in 0..10 {
        let ticket = take(&zone, u, w, random).unwrap();
        zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    }
    configure(&zone, &[spec("a:1", 1)]);
    configure(&zone, &[spec("a:1", 1), spec("c:1", 1)]);
    let c = peer(&zone, "c:1");
    assert_eq!((c.requests(), c.service_ns, c.first_byte_times.count, c.failures), (0, 0, 0, 0));
    assert!(peer(&zone, "a:1").requests() > 0);
}

#[test]
fn two_servers_of_one_address_are_two_peers_over_reloads_too() {
    let (heap, _) = pool(&[spec("a:1", 1), spec("a:1", 2)]);
    let zone = heap.zone();
    assert_eq!(names(&zone), ["a:1", "a:1"]);
    configure(&zone, &[spec("a:1", 1), spec("a:1", 2)]);
    assert_eq!(zone.snapshot(NOW).upstreams[0].peers.iter().map(|peer| peer.max_conns).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_refused_configuration_changes_nothing_and_names_value_need_and_place() {
    let heap = HeapZone::new(1, 3);
    let zone = heap.zone();
    let u = configure(&zone, &[spec("a:1", 1), spec("b:1", 1)]);
    let refuse = |peers: &[_]| zone.upstream_configure(u, &SETTINGS, peers, NOW).unwrap_err().to_string();
    let mut heavy = spec("c:1", 1);
    heavy.weight = 65_536;
    assert_eq!(refuse(&[heavy]), "weight 65536 of peer \"c:1\" in upstream \"llm\", 1 to 65535 are allowed");
    assert!(refuse(&[spec("c:1", 65_536)]).starts_with("max_conns 65536 of peer"));
    assert!(refuse(&[spec("", 1)]).contains("1 to 128"));
    let four = ["d:1", "e:1", "f:1", "g:1"].map(|name| spec(name, 1));
    let ZoneError::PeersFull { need, free, need_bytes, .. } =
        zone.upstream_configure(u, &SETTINGS, &four, NOW).unwrap_err()
    else {
        panic!("another error")
    };
    assert_eq!((need, free), (4, 1));
    assert!(Layout::for_bytes(need_bytes).unwrap().parts.peers.count >= 6);
    assert_eq!(names(&zone), ["a:1", "b:1"]);
    assert!(matches!(zone.upstream_reserve(b"other"), Err(ZoneError::UpstreamsFull { have: 1, .. })));
    let crowd: Vec<String> = (0..129).map(|i| format!("h{i}:1")).collect();
    let crowd: Vec<_> = crowd.iter().map(|name| spec(name, 1)).collect();
    assert!(refuse(&crowd).contains("has 129 peers, at most 128"));
}

#[test]
fn a_full_table_changes_all_of_its_peers_at_once() {
    let heap = HeapZone::new(1, 256);
    let zone = heap.zone();
    let old: Vec<String> = (0..128).map(|i| format!("old{i}:1")).collect();
    let new: Vec<String> = (0..128).map(|i| format!("new{i}:1")).collect();
    configure(&zone, &old.iter().map(|name| spec(name, 1)).collect::<Vec<_>>());
    configure(&zone, &new.iter().map(|name| spec(name, 1)).collect::<Vec<_>>());
    let mut names = names(&zone);
    names.sort();
    let mut new = new;
    new.sort();
    assert_eq!(names, new);
}

#[test]
fn an_upstream_of_former_configurations_makes_room_only_when_no_worker_runs_them() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    configure(&zone, &[spec("a:1", 1)]);
    let w = join(&zone, 1);
    zone.header.generation_begin();
    assert!(matches!(zone.upstream_reserve(b"other"), Err(ZoneError::UpstreamsFull { .. })));
    zone.worker_leave(w);
    let u = zone.upstream_reserve(b"other").unwrap();
    zone.upstream_configure(u, &SETTINGS, &[spec("z:1", 1)], NOW).unwrap();
    assert_eq!(zone.upstream_find(b"llm"), None);
    assert_eq!(names(&zone), ["z:1"]);
    assert_eq!(zone.room().peers, 3);
}

#[test]
fn a_header_knows_its_layout_again_and_refuses_other_measures() {
    let made = Layout::for_bytes(200_000).unwrap();
    let heap = HeapZone::of(&made);
    let header = heap.zone().header;
    let layout = header.layout().expect("a zone");
    assert_eq!(layout, made);
    assert_eq!(header.layout_for(200_000), Ok(Some(layout)));
    assert_eq!(header.layout_for(800_000), Ok(None));
    assert!(header.layout_for(1_000).is_err());
}
