//! Claims and releases of one process: slots, counters, pending ages, breaker trials, worker slots.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::breaker::State;
use pincer_core::pick::Why;
use pincer_core::time::MonoNs;
use pincer_core::zone::{Claim, HeapZone, Outcome, PeerIdx, QueueClass, UpstreamIdx, WORKERS_MAX, WorkerIdx};
use std::sync::atomic::Ordering::SeqCst;
use zone_support::*;

#[test]
fn slots_are_given_up_to_max_conns_and_again_after_a_release() {
    let (heap, u) = pool(&[spec("a:1", 2), spec("b:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let mut held: Vec<_> = (0..3).map(|i| take(&zone, u, w, i).expect("a free slot")).collect();
    assert_eq!(zone.claim(u, w, &demand(0, true), &PARAMS, NOW).claim, Claim::Wait);
    assert_eq!(zone.claim(u, w, &demand(0, false), &PARAMS, NOW).claim, Claim::Full);
    assert!(!zone.any_free(u, &PARAMS, NOW));
    zone.release(held.pop().unwrap(), w, GOOD, &PARAMS, NOW, 0);
    assert!(zone.any_free(u, &PARAMS, NOW));
    held.push(take(&zone, u, w, 9).expect("the freed slot"));
    assert_eq!(in_flight(&zone, "a:1") + in_flight(&zone, "b:1"), 3);
    for ticket in held {
        zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    }
    assert_eq!(in_flight(&zone, "a:1") + in_flight(&zone, "b:1"), 0);
    assert_eq!(zone.snapshot(NOW).upstreams[0].full, 1);
}

#[test]
fn a_ticket_leads_to_the_address_of_its_peer() {
    let (heap, u) = pool(&[spec("10.0.0.1:8080", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let ticket = take(&zone, u, w, 0).unwrap();
    let peer = zone.peer(ticket.peer).unwrap();
    assert_eq!(peer.generation(), ticket.generation);
    assert_eq!(peer.sockaddr(&mut [0; 112]), b"10.0.0.1:8080");
    assert_eq!(peer.name(&mut [0; 128]), b"10.0.0.1:8080");
    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
}

#[test]
fn outcomes_are_counted_and_only_successes_are_learned_from() {
    let (heap, u) = pool(&[spec("a:1", 4)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    for outcome in [GOOD, Outcome::Neutral, GOOD, Outcome::Failure] {
        let ticket = take(&zone, u, w, 0).unwrap();
        zone.release(ticket, w, outcome, &PARAMS, NOW, 0);
    }
    let peer = peer(&zone, "a:1");
    assert_eq!((peer.requests(), peer.failures, peer.neutral), (4, 1, 1));
    assert_eq!((peer.service_ns / MS, peer.first_byte_ns / MS, peer.hold_ns / MS), (20, 20, 40));
    assert_eq!((peer.first_byte_times.count, peer.service_times.count), (2, 2));
}

#[test]
fn a_request_without_its_signal_ages_and_one_with_it_does_not() {
    let (heap, u) = pool(&[spec("slow:1", 4), spec("fast:1", 4)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    // Both are learned at 20 ms; then one request hangs before its first byte, not yet for so long
    // that its peer is looked at.
    for random in 0..40 {
        let ticket = take(&zone, u, w, random * 7_919).unwrap();
        zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    }
    let mut hung = take(&zone, u, w, 1).unwrap();
    let later = MonoNs(NOW.0 + 1_500 * MS);
    let burst = || -> Vec<PeerIdx> {
        let held: Vec<_> = (0..4)
            .map(|random| match zone.claim(u, w, &demand(random + 1, true), &PARAMS, later).claim {
                Claim::Taken(ticket) => ticket,
                other => panic!("{other:?}"),
            })
            .collect();
        let peers = held.iter().map(|ticket| ticket.peer).collect();
        held.into_iter().for_each(|ticket| zone.release(ticket, w, Outcome::Neutral, &PARAMS, later, 0));
        peers
    };
    assert!(!burst().contains(&hung.peer));
    zone.signal_seen(&mut hung, w);
    zone.signal_seen(&mut hung, w);
    assert!(burst().contains(&hung.peer));
    zone.release(hung, w, Outcome::Neutral, &PARAMS, later, 0);
}

#[test]
fn a_half_open_breaker_lets_exactly_one_request_through() {
    let (heap, u) = pool(&[spec("a:1", 8), spec("b:1", 8)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let mut broken = None;
    for random in 0..400 {
        let ticket = take(&zone, u, w, random).unwrap();
        let fails = *broken.get_or_insert(ticket.peer) == ticket.peer;
        zone.release(ticket, w, if fails { Outcome::Failure } else { GOOD }, &PARAMS, NOW, 0);
    }
    let broken = broken.unwrap();
    let open = |now| zone.snapshot(now).upstreams[0].peers.iter().filter(|peer| peer.breaker == State::Open).count();
    assert_eq!(open(NOW), 1);
    let later = MonoNs(NOW.0 + 60_000 * MS);
    let held: Vec<_> = (0..6)
        .map(|random| match zone.claim(u, w, &demand(random, true), &PARAMS, later).claim {
            Claim::Taken(ticket) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    let trials: Vec<_> = held.iter().filter(|ticket| ticket.peer == broken).collect();
    assert_eq!((trials.len(), trials[0].trial, trials[0].why), (1, true, Why::Trial));
    for ticket in held {
        zone.release(ticket, w, GOOD, &PARAMS, later, 0);
    }
    assert_eq!(open(later), 0);
}

#[test]
fn an_index_from_elsewhere_is_refused_without_harm() {
    let (heap, u) = pool(&[spec("a:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    assert_eq!(zone.claim(UpstreamIdx(999), w, &demand(0, true), &PARAMS, NOW).claim, Claim::NoPeer);
    assert_eq!(zone.claim(u, WorkerIdx(999), &demand(0, true), &PARAMS, NOW).claim, Claim::Wait);
    let ticket = take(&zone, u, w, 0).unwrap();
    zone.release(ticket, WorkerIdx(5), GOOD, &PARAMS, NOW, 0);
    assert_eq!(in_flight(&zone, "a:1"), 1);
    assert_eq!(zone.header.counters.unbalanced.load(SeqCst), 1);
}

#[test]
fn every_worker_slot_can_be_taken_once_and_a_left_one_again() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let joined: Vec<_> = (1..=WORKERS_MAX as u32).map(|pid| join(&zone, pid)).collect();
    assert_eq!(zone.worker_join(process(9_999), 0), None);
    zone.worker_leave(joined[17]);
    assert_eq!(zone.worker_join(process(9_999), 0), Some(joined[17]));
}

#[test]
fn a_dead_worker_is_reclaimed_once_with_all_it_held() {
    let (heap, u) = pool(&[spec("a:1", 3)]);
    let zone = heap.zone();
    let (live, dead) = (join(&zone, 1), join(&zone, 2));
    let kept = take(&zone, u, live, 0).unwrap();
    let lost = [take(&zone, u, dead, 1).unwrap(), take(&zone, u, dead, 2).unwrap()];
    zone.queue_enter(u, dead, QueueClass::NONE, 10, &plain, NOW).unwrap();
    assert!(zone.feed_acquire(dead, 1));
    let reclaimed = zone.reclaim_dead(process(1), |process| process.pid == 1);
    assert_eq!((reclaimed.workers, reclaimed.requests, reclaimed.waiting), (1, 2, 1));
    assert_eq!(zone.reclaim_dead(process(1), |process| process.pid == 1).workers, 0);
    assert_eq!((in_flight(&zone, "a:1"), zone.waiting(u)), (1, 0));
    assert_eq!((zone.queue_next(u, &plain, |_| false), zone.feed_holder()), (None, None));
    drop(lost);
    assert_eq!(join(&zone, 3), dead, "its slot is free, and clean");
    assert_eq!((in_flight(&zone, "a:1"), zone.waiting(u)), (1, 0));
    zone.release(kept, live, GOOD, &PARAMS, NOW, 0);
    assert_eq!(in_flight(&zone, "a:1"), 0);
}

#[test]
fn a_new_process_of_the_same_pid_is_another_worker() {
    let (heap, u) = pool(&[spec("a:1", 3)]);
    let zone = heap.zone();
    let old = join(&zone, 7);
    drop(take(&zone, u, old, 0).unwrap());
    let reborn = pincer_core::zone::ProcessId { pid: 7, start: 8 };
    let reclaimed = zone.reclaim_dead(reborn, |process| process == reborn);
    assert_eq!((reclaimed.workers, reclaimed.requests), (1, 1));
    assert_eq!(zone.worker_join(reborn, 1), Some(old));
}

#[test]
fn the_feed_goes_to_the_newest_configuration_and_back_only_when_free() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let (old, new, other) = (join(&zone, 1), join(&zone, 2), join(&zone, 3));
    assert!(zone.feed_acquire(old, 1) && zone.feed_acquire(old, 1) && !zone.feed_acquire(other, 1));
    assert!(zone.feed_acquire(new, 2) && !zone.feed_holds(old, 1));
    assert!(!zone.feed_acquire(old, 1));
    zone.feed_release(old);
    assert_eq!(zone.feed_holder(), Some(new));
    zone.feed_release(new);
    assert!(zone.feed_acquire(old, 1));
}

#[test]
fn an_answer_that_is_no_work_ends_a_trial_and_gives_no_sample() {
    let (heap, u) = pool(&[spec("a:1", 4)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    for _ in 0..3 {
        let ticket = take(&zone, u, w, 0).unwrap();
        zone.release(ticket, w, Outcome::Failure, &PARAMS, NOW, 0);
    }
    let later = MonoNs(NOW.0 + 2_000 * MS);
    let Claim::Taken(trial) = zone.claim(u, w, &demand(0, false), &PARAMS, later).claim else { panic!("no trial") };
    assert!(trial.trial);
    zone.release(trial, w, Outcome::Answered, &PARAMS, later, 0);
    let peer = peer(&zone, "a:1");
    assert_eq!((peer.breaker, peer.service_ns, peer.neutral), (pincer_core::breaker::State::Closed, 0, 1));
}
