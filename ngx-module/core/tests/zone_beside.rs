//! Requests without a slot: counted beside those that hold one, and silent about their peer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use std::sync::atomic::Ordering::SeqCst;

use pincer_core::breaker::State;
use pincer_core::pick::{Demand, Why};
use pincer_core::time::MonoNs;
use pincer_core::zone::{
    Claim, HeapZone, Outcome, Overlay, PeerOverlay, PeerSpec, PeerState, Ticket, UpstreamIdx, UpstreamOverlay,
    WorkerIdx, Zone,
};
use zone_support::*;

fn beside_at(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx, demand: Demand, now: MonoNs) -> Option<Ticket> {
    match zone.claim_beside(u, w, &demand, &PARAMS, now).claim {
        Claim::Taken(ticket) => Some(ticket),
        Claim::NoPeer => None,
        other => panic!("{other:?}"),
    }
}

fn beside(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx, random: u64) -> Option<Ticket> {
    beside_at(zone, u, w, demand(random, true), NOW)
}

fn end(zone: &Zone<'_>, ticket: Ticket, w: WorkerIdx, outcome: Outcome) {
    let changes = zone.release_known(ticket, w, outcome, None, &PARAMS, NOW, 0);
    assert!(changes.is_empty());
}

#[test]
fn they_pass_a_full_pool_and_leave_its_slots_alone() {
    let (heap, u) = pool(&[spec("a:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let held = take(&zone, u, w, 0).unwrap();
    let free: Vec<_> = (0..5).map(|random| beside(&zone, u, w, random).unwrap()).collect();
    assert!(free.iter().all(|ticket| ticket.why == Why::NoSlot && !ticket.trial));
    let now = peer(&zone, "a:1");
    assert_eq!((now.in_flight, now.without_slot, now.requests()), (6, 5, 6));
    zone.release(held, w, GOOD, &PARAMS, NOW, 0);
    let next = take(&zone, u, w, 1);
    assert!(next.is_some(), "the slot is free, whatever is beside it");
    free.into_iter().for_each(|ticket| end(&zone, ticket, w, GOOD));
    assert_eq!((peer(&zone, "a:1").in_flight, peer(&zone, "a:1").without_slot), (1, 0));
}

#[test]
fn whatever_becomes_of_them_their_peer_is_unknown_and_its_breaker_closed() {
    let (heap, u) = pool(&[spec("a:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    for (n, outcome) in
        [GOOD, Outcome::Failure, Outcome::Answered, Outcome::Declined].iter().cycle().take(40).enumerate()
    {
        let mut ticket = beside(&zone, u, w, n as u64).unwrap();
        assert_eq!(zone.first_byte_seen(&mut ticket, w, 20 * MS, &PARAMS, NOW), None);
        assert_eq!(zone.upgraded(&mut ticket, w, &PARAMS, NOW), None);
        assert!(zone.excuse_stale(&ticket), "each time");
        end(&zone, ticket, w, *outcome);
    }
    let now = peer(&zone, "a:1");
    assert_eq!((now.service_ns, now.failures, now.neutral, now.breaker), (0, 0, 40, State::Closed));
    assert_eq!((now.first_byte_times.count, now.in_flight), (0, 0));
}

#[test]
fn the_fewest_for_the_weight_are_added_to_and_equals_share_by_weight() {
    let (heap, u) = pool(&[PeerSpec { weight: 3, ..spec("a:1", 1) }, spec("b:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let held: Vec<_> = (0..40).map(|random| beside(&zone, u, w, random).unwrap()).collect();
    assert_eq!((peer(&zone, "a:1").without_slot, peer(&zone, "b:1").without_slot), (30, 10));
    held.into_iter().for_each(|ticket| end(&zone, ticket, w, GOOD));
    let of_b = (0..4_000)
        .filter(|random| {
            let ticket = beside(&zone, u, w, *random).unwrap();
            let is_b = ticket.index == 1;
            end(&zone, ticket, w, GOOD);
            is_b
        })
        .count();
    assert!((900..=1_100).contains(&of_b), "a quarter of 4,000 that come one at a time, not {of_b}");
}

#[test]
fn one_key_finds_one_peer() {
    let (heap, u) = pool(&[spec("a:1", 1), spec("b:1", 1), spec("c:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let mut seen = std::collections::BTreeSet::new();
    for random in 0..50 {
        let keyed = Demand { affinity: Some(77), ..demand(random, true) };
        let ticket = beside_at(&zone, u, w, keyed, NOW).unwrap();
        seen.insert(ticket.index);
        end(&zone, ticket, w, GOOD);
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn they_avoid_a_peer_that_is_out_make_no_trial_of_it_and_take_it_if_all_are() {
    let (heap, u) = pool(&[spec("a:1", 8), PeerSpec { backup: true, ..spec("b:1", 8) }]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    (0..3).for_each(|_| fail_once(&zone, u, w));
    let later = MonoNs(NOW.0 + 60_000 * MS);
    let find = |tried| beside_at(&zone, u, w, Demand { tried, ..demand(0, true) }, later);
    let ticket = find(0).unwrap();
    assert_eq!(ticket.index, 1, "the backup is in");
    end(&zone, ticket, w, GOOD);
    let ticket = find(0b10).unwrap();
    assert_eq!((ticket.index, ticket.trial), (0, false));
    end(&zone, ticket, w, GOOD);
    assert_eq!(zone.snapshot(later).upstreams[0].peers[0].breaker, State::HalfOpen);
    assert!(find(0b11).is_none());
    assert_eq!(zone.snapshot(later).upstreams[0].no_peer, 1);
}

fn overlay(zone: &Zone<'_>, revision: u64, peers: &[PeerOverlay<'_>]) {
    let upstreams = [UpstreamOverlay { name: b"llm", peers }];
    zone.overlay_apply(&Overlay { revision, upstreams: &upstreams, ..Overlay::default() }, NOW).unwrap();
}

#[test]
fn a_drain_and_the_record_wait_for_them() {
    let heap = HeapZone::new(1, 2);
    let zone = heap.zone();
    let u = configure(&zone, &[spec("a:1", 1)]);
    let w = join(&zone, 1);
    let n = PeerOverlay { name: b"n:1", added: Some(b"n:1"), ..PeerOverlay::default() };
    overlay(&zone, 1, &[n]);
    let only_n = Demand { tried: 0b1, ..demand(0, true) };
    let socket = beside_at(&zone, u, w, only_n, NOW).unwrap();
    overlay(&zone, 2, &[PeerOverlay { state: Some(PeerState::Draining), ..n }]);
    assert_eq!(peer(&zone, "n:1").in_flight, 1);
    assert!(beside_at(&zone, u, w, only_n, NOW).is_none(), "nothing new");
    overlay(&zone, 3, &[]);
    let generation = zone.peer(socket.peer).unwrap().generation();
    assert_eq!((zone.snapshot(NOW).peers_free.0, generation), (0, socket.generation));
    let m = PeerOverlay { name: b"m:1", added: Some(b"m:1"), ..PeerOverlay::default() };
    let upstreams = [UpstreamOverlay { name: b"llm", peers: &[m] }];
    let apply = |revision| zone.overlay_apply(&Overlay { revision, upstreams: &upstreams, ..Overlay::default() }, NOW);
    assert!(apply(4).is_err(), "there is no record but the one that is still in use");
    end(&zone, socket, w, GOOD);
    assert!(apply(5).is_ok());
    let picks = zone.snapshot(NOW).upstreams[0].picks;
    assert_eq!(picks[Why::NoSlot as usize], 1, "of the peer that is gone");
}

#[test]
fn those_of_a_dead_worker_are_taken_back() {
    let (heap, u) = pool(&[spec("a:1", 3)]);
    let zone = heap.zone();
    let (live, dead) = (join(&zone, 1), join(&zone, 2));
    let kept = beside(&zone, u, live, 0).unwrap();
    let lost = (beside(&zone, u, dead, 1), take(&zone, u, dead, 1));
    assert_eq!(zone.reclaim_dead(process(1), |process| process.pid == 1).requests, 2);
    let _ = lost;
    assert_eq!((in_flight(&zone, "a:1"), peer(&zone, "a:1").without_slot), (1, 1));
    end(&zone, kept, live, GOOD);
    assert_eq!(in_flight(&zone, "a:1"), 0);
    let foreign = beside(&zone, u, live, 0).unwrap();
    end(&zone, foreign, WorkerIdx(5), GOOD);
    assert_eq!((in_flight(&zone, "a:1"), zone.header.counters.unbalanced.load(SeqCst)), (1, 1));
}
