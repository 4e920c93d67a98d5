//! Claims among peers of which nothing is known, or nothing new; ramps; what makes a peer unknown
//! again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::breaker::State;
use pincer_core::pick::Why;
use pincer_core::time::MonoNs;
use pincer_core::zone::{
    Claim, HeapZone, Outcome, Overlay, PeerIdx, PeerOverlay, Plan, Ticket, UpstreamIdx, UpstreamOverlay, WorkerIdx,
    Zone,
};
use zone_support::*;

fn at(ms: u64) -> MonoNs {
    MonoNs(NOW.0 + ms * MS)
}

fn claim(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx, now: MonoNs) -> Option<Ticket> {
    match zone.claim(u, w, &demand(1, true), &PARAMS, now).claim {
        Claim::Taken(ticket) => Some(ticket),
        _ => None,
    }
}

fn find(zone: &Zone<'_>, u: UpstreamIdx, name: &str) -> PeerIdx {
    zone.peer_find(u, name.as_bytes()).unwrap()
}

/// A good answer whose first byte took `ms`.
fn took(ms: u64) -> Outcome {
    Outcome::Success {
        first_byte_ns: Some(ms * MS),
        header_ns: Some(ms * MS),
        last_byte_ns: Some(ms * MS),
        held_ns: ms * MS,
    }
}

/// A pool of two peers of which only the first is known.
fn known_and_unknown(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx) -> PeerIdx {
    let known = find(zone, u, "a:1");
    for _ in 0..2 {
        let ticket = take(zone, u, w, 1).unwrap();
        let outcome = if ticket.peer == known { GOOD } else { Outcome::Answered };
        zone.release(ticket, w, outcome, &PARAMS, NOW, 0);
    }
    known
}

#[test]
fn an_unknown_peer_has_one_request_whichever_worker_asks_and_as_many_as_fit_once_it_is_known() {
    let (heap, u) = pool(&[spec("a:1", 8), spec("b:1", 8)]);
    let zone = heap.zone();
    let (w, other) = (join(&zone, 1), join(&zone, 2));
    let known = known_and_unknown(&zone, u, w);
    let held: Vec<_> = (0..8).map(|n| take(&zone, u, if n % 2 == 0 { w } else { other }, 1).unwrap()).collect();
    let on_unknown = |held: &[Ticket]| held.iter().filter(|ticket| ticket.peer != known).count();
    assert_eq!(on_unknown(&held), 1);
    for (n, mut ticket) in held.into_iter().enumerate() {
        let worker = if n % 2 == 0 { w } else { other };
        zone.first_byte_seen(&mut ticket, worker, 20 * MS, &PARAMS, NOW);
        zone.release(ticket, worker, GOOD, &PARAMS, NOW, 0);
    }
    let held: Vec<_> = (0..8).map(|_| take(&zone, u, w, 1).unwrap()).collect();
    assert_eq!(on_unknown(&held), 4);
    held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
}

#[test]
fn a_peer_whose_rate_of_mute_answers_is_unusual_is_unknown_again_and_not_ejected() {
    for mute in [Outcome::Answered, Outcome::Declined] {
        let (heap, u) = pool(&[spec("a:1", 8), spec("b:1", 8)]);
        let zone = heap.zone();
        let w = join(&zone, 1);
        let answer = |n: u64, outcome: Outcome| {
            let ticket = claim(&zone, u, w, at(n)).unwrap();
            let outcome = if ticket.peer == find(&zone, u, "b:1") { outcome } else { GOOD };
            zone.release(ticket, w, outcome, &PARAMS, at(n), 0);
        };
        (0..100).for_each(|n| answer(n, GOOD));
        assert_ne!(peer(&zone, "b:1").service_ns, 0);
        (100..200).for_each(|n| answer(n, mute));
        let (a, b) = (peer(&zone, "a:1"), peer(&zone, "b:1"));
        assert_eq!((b.service_ns, b.failures, b.breaker), (0, 0, State::Closed), "{mute:?}");
        assert_ne!(a.service_ns, 0, "the other one is as it was");
        (200..210).for_each(|n| answer(n, GOOD));
        assert_ne!(peer(&zone, "b:1").service_ns, 0, "the first sample makes it known");
    }
}

#[test]
fn a_rate_of_mute_answers_that_all_peers_share_makes_none_unknown() {
    let (heap, u) = pool(&[spec("a:1", 8), spec("b:1", 8)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    for n in 0..2_000 {
        let ticket = claim(&zone, u, w, at(n)).unwrap();
        zone.release(ticket, w, if n / 2 % 3 == 0 { Outcome::Answered } else { GOOD }, &PARAMS, at(n), 0);
        assert!(n < 20 || ["a:1", "b:1"].iter().all(|name| peer(&zone, name).service_ns != 0), "after {n}");
    }
}

#[test]
fn an_upstreams_looks_are_one_in_a_hundred_requests_over_all_workers_and_plans() {
    let (heap, u) = pool(&[spec("fast:1", 8), spec("slow:1", 8)]);
    let zone = heap.zone();
    let workers = [join(&zone, 1), join(&zone, 2)];
    let mut plans = [Plan::new(), Plan::new()];
    let slow = find(&zone, u, "slow:1");
    let mut looks = 0;
    // A minute of 50 requests a second; the slow peer answers ten times as late.
    for n in 0..3_000_u64 {
        let (w, plan) = (workers[n as usize % 2], &mut plans[n as usize % 2]);
        let claimed = zone.claim_planned(u, w, plan, &demand(n / 2, true), &PARAMS, at(n * 20));
        let Claim::Taken(ticket) = claimed.claim else { panic!("{claimed:?}") };
        let is_slow = ticket.peer == slow;
        looks += u64::from(is_slow && n > 10);
        zone.release(ticket, w, took(if is_slow { 300 } else { 20 }), &PARAMS, at(n * 20), 0);
    }
    assert!((5..=30).contains(&looks), "{looks} of 3,000");
}

#[test]
fn a_peer_that_was_slow_in_four_answers_is_as_good_as_the_other_a_few_seconds_later() {
    let (heap, u) = pool(&[spec("a:1", 100), spec("b:1", 100)]);
    let zone = heap.zone();
    let (w, mut plan) = (join(&zone, 1), Plan::new());
    let other = find(&zone, u, "b:1");
    let mut got = |from_ms: u64, count: u64, ms: u64| {
        (0..count)
            .filter(|n| {
                let now = at(from_ms + n * 200);
                let claimed = zone.claim_planned(u, w, &mut plan, &demand(n + 1, true), &PARAMS, now);
                let Claim::Taken(ticket) = claimed.claim else { panic!("{claimed:?}") };
                let is_other = ticket.peer == other;
                zone.release(ticket, w, took(if is_other { ms } else { 20 }), &PARAMS, now, 0);
                is_other
            })
            .count()
    };
    let d1 = got(0, 10, 300);
    let d2 = got(2_000, 40, 20);
    println!("{d1} {d2} {:?}", ["a:1", "b:1"].map(|n| peer(&zone, n).service_ns));
    assert!((20..=30).contains(&got(10_000, 50, 20)), "five requests a second, from 8 s after the last slow one on");
}

/// The only peer has failed, and its trial is under way.
fn on_trial(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx) -> Ticket {
    for _ in 0..3 {
        let ticket = take(zone, u, w, 0).unwrap();
        zone.release(ticket, w, Outcome::Failure, &PARAMS, NOW, 0);
    }
    let trial = claim(zone, u, w, at(2_000)).unwrap();
    assert_eq!(trial.why, Why::Trial);
    assert_eq!(claim(zone, u, w, at(2_000)).map(|ticket| ticket.why), Some(Why::LastResort));
    trial
}

/// Requests that the upstream takes at this moment, one after the other without an end.
fn takes(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx, now: MonoNs) -> Vec<Ticket> {
    std::iter::from_fn(|| claim(zone, u, w, now)).collect()
}

#[test]
fn a_trial_that_streams_holds_nothing_back_and_its_end_doubles_nothing() {
    let (heap, u) = pool(&[spec("a:1", 8)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let mut trial = on_trial(&zone, u, w);
    zone.first_byte_seen(&mut trial, w, 20 * MS, &PARAMS, at(2_100));
    let more = takes(&zone, u, w, at(2_100));
    assert_eq!(more.len(), 1, "one beside the trial and the last resort");
    zone.release(trial, w, GOOD, &PARAMS, at(60_000), 0);
    assert_eq!(takes(&zone, u, w, at(60_000)).len(), 1, "in the trial's place");
}

#[test]
fn a_trial_that_has_ended_leaves_one_slot_until_the_first_success() {
    let (heap, u) = pool(&[spec("a:1", 8)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let trial = on_trial(&zone, u, w);
    zone.release(trial, w, Outcome::Answered, &PARAMS, at(2_100), 0);
    assert_eq!(peer(&zone, "a:1").slots, 2, "one beside the last resort");
}

#[test]
fn a_websocket_is_a_success_when_it_is_open_and_no_sample_ever() {
    let (heap, u) = pool(&[spec("a:1", 8)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let mut trial = on_trial(&zone, u, w);
    zone.upgraded(&mut trial, w, &PARAMS, at(2_100));
    assert_eq!(peer(&zone, "a:1").breaker, State::Closed);
    let mut next = takes(&zone, u, w, at(2_100)).pop().unwrap();
    zone.upgraded(&mut next, w, &PARAMS, at(2_200));
    zone.first_byte_seen(&mut next, w, 60_000 * MS, &PARAMS, at(62_100));
    assert_eq!((peer(&zone, "a:1").slots, peer(&zone, "a:1").service_ns), (6, 0));
}

/// An upstream of one peer, joined by another one.
fn joined() -> (HeapZone, UpstreamIdx) {
    let (heap, u) = pool(&[spec("old:1", 8)]);
    configure(&heap.zone(), &[spec("old:1", 8), spec("new:1", 8)]);
    (heap, u)
}

#[test]
fn a_new_peer_doubles_with_first_tokens() {
    let (heap, u) = joined();
    let zone = heap.zone();
    let w = join(&zone, 1);
    let new = find(&zone, u, "new:1");
    let mut held = Vec::new();
    for slots in [1, 2, 4, 8] {
        assert_eq!(peer(&zone, "new:1").slots, slots);
        let mut ticket = (0..9).find_map(|_| claim(&zone, u, w, NOW).filter(|ticket| ticket.peer == new)).unwrap();
        zone.first_byte_seen(&mut ticket, w, 20 * MS, &PARAMS, NOW);
        held.push(ticket);
    }
    held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
    assert_eq!(peer(&zone, "new:1").slots, 8);
}

#[test]
fn the_end_of_a_stream_doubles_nothing_that_its_first_token_has_doubled() {
    let (heap, u) = joined();
    let zone = heap.zone();
    let w = join(&zone, 1);
    let new = find(&zone, u, "new:1");
    let mut ticket = (0..9).find_map(|_| claim(&zone, u, w, NOW).filter(|ticket| ticket.peer == new)).unwrap();
    zone.first_byte_seen(&mut ticket, w, 20 * MS, &PARAMS, NOW);
    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    assert_eq!(peer(&zone, "new:1").slots, 2);
}

#[test]
fn a_pool_that_is_new_as_a_whole_does_not_ramp() {
    let (heap, _) = pool(&[spec("a:1", 8), spec("b:1", 8)]);
    let zone = heap.zone();
    configure(&zone, &[spec("c:1", 8), spec("d:1", 8)]);
    assert_eq!((peer(&zone, "c:1").slots, peer(&zone, "d:1").slots), (8, 8));
    let spare = pincer_core::zone::PeerSpec { backup: true, ..spec("spare:1", 8) };
    let down = pincer_core::zone::PeerSpec { down: true, ..spec("down:1", 8) };
    configure(&zone, &[spare, down]);
    configure(&zone, &[spare, down, spec("e:1", 8)]);
    assert_eq!(peer(&zone, "e:1").slots, 8, "nobody serves besides");
    configure(&zone, &[spare, down, spec("e:1", 8), spec("f:1", 8)]);
    assert_eq!(peer(&zone, "f:1").slots, 1);
}

#[test]
fn peers_that_the_control_plane_adds_ramp_only_beside_others_that_serve() {
    for (down, slots) in [(false, [1, 1]), (true, [0, 0])] {
        let (heap, _) = pool(&[pincer_core::zone::PeerSpec { down, ..spec("a:1", 8) }]);
        let zone = heap.zone();
        let added = |name: &'static [u8]| PeerOverlay { name, added: Some(name), ..PeerOverlay::default() };
        let peers = [added(b"x:1"), added(b"y:1")];
        let upstreams = [UpstreamOverlay { name: b"llm", peers: &peers }];
        zone.overlay_apply(&Overlay { revision: 1, upstreams: &upstreams, ..Overlay::default() }, NOW).unwrap();
        assert_eq!(["x:1", "y:1"].map(|name| peer(&zone, name).slots), slots);
    }
}
