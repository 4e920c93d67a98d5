//! Revisions of the control plane over a configuration: all or nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::breaker::State;
use pincer_core::pick::PEERS_MAX;
use pincer_core::zone::{Overlay, OverlayError, PeerOverlay, PeerSpec, PeerState, UpstreamOverlay, Zone, ZoneError};
use zone_support::*;

fn apply(zone: &Zone<'_>, revision: u64, peers: &[PeerOverlay<'_>]) -> Result<(), OverlayError> {
    let upstreams = [UpstreamOverlay { name: b"llm", peers }];
    let overlay = Overlay { revision, upstreams: &upstreams, ..Overlay::default() };
    zone.overlay_check(&overlay)?;
    zone.overlay_apply(&overlay, NOW)
}

fn over(name: &str) -> PeerOverlay<'_> {
    PeerOverlay { name: name.as_bytes(), ..PeerOverlay::default() }
}

fn added(name: &str) -> PeerOverlay<'_> {
    PeerOverlay { added: Some(name.as_bytes()), ..over(name) }
}

#[test]
fn overrides_take_effect_stay_over_a_reload_and_go_with_their_revision() {
    let (heap, u) = pool(&[spec("a:1", 2), spec("b:1", 2)]);
    let zone = heap.zone();
    let weight = PeerOverlay { weight: Some(9), max_conns: Some(7), ..over("a:1") };
    let drain = PeerOverlay { state: Some(PeerState::Draining), ..over("b:1") };
    apply(&zone, 3, &[weight, drain]).unwrap();
    configure(&zone, &[spec("a:1", 2), spec("b:1", 2)]);
    let (a, b) = (peer(&zone, "a:1"), peer(&zone, "b:1"));
    assert_eq!((a.weight_configured, a.weight_live, a.weight, a.max_conns, a.slots), (1, Some(9), 9, 7, 7));
    assert_eq!((b.state, b.weight_live, zone.header.revision()), (PeerState::Draining, None, 3));
    let w = join(&zone, 1);
    let held: Vec<_> = std::iter::from_fn(|| take(&zone, u, w, 5)).collect();
    assert_eq!(held.len(), 7, "a draining peer takes nothing");
    apply(&zone, 4, &[]).unwrap();
    assert_eq!((peer(&zone, "a:1").weight, peer(&zone, "a:1").max_conns_live), (1, None));
    assert_eq!(peer(&zone, "b:1").state, PeerState::Active);
    held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
}

#[test]
fn a_state_of_the_control_plane_overrides_down_and_weight_zero_takes_nothing() {
    let mut down = spec("a:1", 2);
    down.down = true;
    let (heap, u) = pool(&[down, spec("b:1", 2)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    assert_eq!(peer(&zone, "a:1").state, PeerState::Down);
    let active = PeerOverlay { state: Some(PeerState::Active), ..over("a:1") };
    apply(&zone, 1, &[active, PeerOverlay { weight: Some(0), ..over("b:1") }]).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| take(&zone, u, w, 5)).collect();
    assert_eq!((held.len(), in_flight(&zone, "b:1")), (2, 0));
    held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
}

#[test]
fn an_operators_word_lets_a_peer_try_that_is_out_even_where_it_says_nothing_new() {
    let strict = PeerSpec { max_fails_explicit: true, fail_timeout_ms: 10_000_000, ..spec("a:1", 2) };
    let (heap, u) = pool(&[strict]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let active = |set_in| PeerOverlay { state: Some(PeerState::Active), set_in, ..over("a:1") };
    let heavy = PeerOverlay { weight: Some(9), ..active(3) };
    for (revision, words, state) in [
        (1, active(1), State::HalfOpen),
        (2, active(1), State::Open),
        (3, active(3), State::HalfOpen),
        (4, heavy, State::HalfOpen),
    ] {
        if peer(&zone, "a:1").breaker != State::Open {
            fail_once(&zone, u, w);
        }
        assert_eq!(peer(&zone, "a:1").breaker, State::Open);
        apply(&zone, revision, &[words]).unwrap();
        assert_eq!(peer(&zone, "a:1").breaker, state, "revision {revision}");
    }
}

#[test]
fn added_peers_come_slowly_stay_over_a_reload_and_go_when_no_longer_named() {
    let (heap, u) = pool(&[spec("a:1", 2)]);
    let zone = heap.zone();
    apply(&zone, 1, &[PeerOverlay { weight: Some(4), max_conns: Some(8), ..added("new:1") }]).unwrap();
    let new = peer(&zone, "new:1");
    assert_eq!((new.added, new.declared, new.weight, new.max_conns, new.slots), (true, false, 4, 8, 1));
    configure(&zone, &[spec("a:1", 2), spec("b:1", 2)]);
    apply(&zone, 2, &[added("new:1")]).unwrap();
    assert_eq!(names(&zone), ["a:1", "new:1", "b:1"]);
    apply(&zone, 3, &[over("new:1")]).unwrap();
    assert_eq!(names(&zone), ["a:1", "b:1"]);
    assert_eq!(zone.header.unknown(), 1);
    assert!(zone.upstream(u).is_some());
}

#[test]
fn an_added_peer_that_the_configuration_comes_to_declare_is_the_same_peer() {
    let (heap, _) = pool(&[spec("a:1", 2)]);
    let zone = heap.zone();
    apply(&zone, 1, &[added("b:1")]).unwrap();
    configure(&zone, &[spec("a:1", 2), spec("b:1", 3)]);
    let b = peer(&zone, "b:1");
    assert_eq!((b.added, b.declared, b.max_conns, names(&zone).len()), (true, true, 3, 2));
    apply(&zone, 2, &[]).unwrap();
    assert_eq!(names(&zone).len(), 2);
    apply(&zone, 3, &[added("b:1")]).unwrap();
    configure(&zone, &[spec("a:1", 2)]);
    assert!(peer(&zone, "b:1").added && !peer(&zone, "b:1").declared);
}

#[test]
fn an_added_peer_with_another_address_replaces_the_one_of_that_name() {
    let (heap, _) = pool(&[spec("a:1", 2)]);
    let zone = heap.zone();
    apply(&zone, 1, &[added("b:1")]).unwrap();
    let first = zone.snapshot(NOW).peers_free;
    apply(&zone, 2, &[PeerOverlay { added: Some(b"moved"), ..over("b:1") }]).unwrap();
    assert_eq!((names(&zone).len(), zone.snapshot(NOW).peers_free), (2, first));
}

#[test]
fn any_fault_refuses_the_whole_revision() {
    let (heap, _) = pool(&[spec("a:1", 2)]);
    let zone = heap.zone();
    apply(&zone, 5, &[PeerOverlay { weight: Some(2), ..over("a:1") }]).unwrap();
    let good = PeerOverlay { weight: Some(7), ..over("a:1") };
    let long = "x".repeat(129);
    let far = vec![1_u8; 113];
    let many: Vec<String> = (0..=PEERS_MAX).map(|i| format!("h{i}:1")).collect();
    let many: Vec<_> = many.iter().map(|name| over(name)).collect();
    let crowd: Vec<String> = (0..PEERS_MAX).map(|i| format!("h{i}:1")).collect();
    let crowd: Vec<_> = crowd.iter().map(|name| added(name)).collect();
    let flood: Vec<String> = (0..100).map(|i| format!("h{i}:1")).collect();
    let flood: Vec<_> = flood.iter().map(|name| added(name)).collect();
    let refused: [(&[PeerOverlay<'_>], &str); 8] = [
        (
            &[good, PeerOverlay { weight: Some(65_536), ..over("b:1") }],
            "weight 65536 of peer \"b:1\" in upstream \"llm\"",
        ),
        (&[good, PeerOverlay { max_conns: Some(65_536), ..over("b:1") }], "max_conns 65536"),
        (&[good, good], "peer \"a:1\" is given twice in upstream \"llm\""),
        (&[good, over(&long)], "129 bytes, 1 to 128"),
        (&[good, PeerOverlay { added: Some(&far), ..over("b:1") }], "address length 113"),
        (&many, "129 peers, at most 128"),
        (&crowd, "129 peers, at most 128"),
        (&flood, "needs 100 new peers, 63 of 64 are free"),
    ];
    for (peers, message) in refused {
        let upstreams = [UpstreamOverlay { name: b"llm", peers }];
        let overlay = Overlay { revision: 6, upstreams: &upstreams, ..Overlay::default() };
        let error = zone.overlay_apply(&overlay, NOW).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.is_invalid(), !matches!(error, OverlayError::Content(ZoneError::PeersFull { .. })));
        assert_eq!((zone.header.revision(), peer(&zone, "a:1").weight, names(&zone).len()), (5, 2, 1));
        assert_eq!(zone.room().peers, 63);
    }
    let twice = [UpstreamOverlay { name: b"x", peers: &[] }; 2];
    let error = zone.overlay_apply(&Overlay { revision: 6, upstreams: &twice, ..Overlay::default() }, NOW).unwrap_err();
    assert_eq!(error, OverlayError::DuplicateUpstream { upstream: "x".into() });
}

#[test]
fn revisions_never_go_back_and_the_same_may_come_again() {
    let (heap, _) = pool(&[spec("a:1", 2)]);
    let zone = heap.zone();
    apply(&zone, 5, &[]).unwrap();
    apply(&zone, 5, &[PeerOverlay { weight: Some(3), ..over("a:1") }]).unwrap();
    let lower = Overlay { revision: 4, ..Overlay::default() };
    assert_eq!(zone.overlay_apply(&lower, NOW), Err(OverlayError::Revision { have: 5, got: 4 }));
    assert_eq!((zone.header.revision(), peer(&zone, "a:1").weight), (5, 3));
}

#[test]
fn upstreams_of_other_nodes_are_counted_and_ignored() {
    let (heap, _) = pool(&[spec("a:1", 2)]);
    let zone = heap.zone();
    let elsewhere = [added("q:1"), added("r:1")];
    let upstreams = [
        UpstreamOverlay { name: b"elsewhere", peers: &elsewhere },
        UpstreamOverlay { name: b"llm", peers: &[over("b:1")] },
    ];
    zone.overlay_apply(&Overlay { revision: 1, upstreams: &upstreams, ..Overlay::default() }, NOW).unwrap();
    assert_eq!((zone.header.unknown(), names(&zone).len(), zone.room().peers), (2, 1, 63));
}
