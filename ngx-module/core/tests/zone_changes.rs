//! Breakers that open and close are told once, with why; and reasons of picks in words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use std::sync::atomic::{AtomicU64, Ordering};

use pincer_core::limit::KeyHash;
use pincer_core::pick::{Demand, Why};
use pincer_core::time::MonoNs;
use pincer_core::zone::{Claim, Fingerprint, Outcome, PeerSpec, Plan, Quick, UpstreamIdx, WorkerIdx, Zone};
use zone_support::*;

const FAILURE: Outcome = Outcome::Failure;

fn at(ms: u64) -> MonoNs {
    MonoNs(NOW.0 + ms * MS)
}

fn fingerprint(tag: u64) -> Fingerprint {
    Fingerprint::new(KeyHash::of_parts([1, 2], &[&tag.to_le_bytes()]))
}

/// One request to the peer `index`, and what the log is told of it.
fn told(
    zone: &Zone<'_>,
    (u, w): (UpstreamIdx, WorkerIdx),
    index: u32,
    (outcome, print): (Outcome, Option<u64>),
    now: MonoNs,
) -> Vec<String> {
    let demand = Demand { tried: !(1 << index), ..demand(0, false) };
    let Claim::Taken(ticket) = zone.claim(u, w, &demand, &PARAMS, now).claim else { panic!("no peer") };
    assert_eq!(u32::from(ticket.index), index);
    let changes = zone.release_known(ticket, w, outcome, print.map(fingerprint), &PARAMS, now, 0);
    changes.iter().map(|change| zone.change_text(u, change, "status 502")).collect()
}

#[test]
fn a_line_says_what_opened_a_breaker_and_what_closed_it() {
    let (heap, u) = pool(&[spec("a:1", 8)]);
    let zone = heap.zone();
    let place = (u, join(&zone, 1));
    let last = |index, outcomes: &[Outcome], ms| -> Vec<String> {
        let said: Vec<_> = outcomes.iter().map(|outcome| told(&zone, place, index, (*outcome, None), at(ms))).collect();
        let (last, before) = said.split_last().unwrap();
        assert!(before.iter().all(Vec::is_empty), "{before:?}");
        last.clone()
    };
    let a = "upstream=llm, peer=a:1";
    assert_eq!(
        last(0, &[GOOD, FAILURE, FAILURE, FAILURE], 0),
        [format!("breaker opened, {a}, out_ms=1000, reason=3 failures in a row, the last: status 502")]
    );
    assert_eq!(
        last(0, &[FAILURE], 1_000),
        [format!("breaker opened, {a}, out_ms=2000, reason=its trial failed: status 502")]
    );
    assert_eq!(last(0, &[GOOD], 3_000), [format!("breaker closed, {a}, reason=a trial succeeded")]);
    let mixed: Vec<_> =
        [[FAILURE, FAILURE, GOOD]; 2].concat().into_iter().chain([FAILURE, GOOD, FAILURE, FAILURE]).collect();
    let six = "7 of the last 10 requests failed, the last: status 502";
    assert_eq!(last(0, &mixed, 3_000), [format!("breaker opened, {a}, out_ms=4000, reason={six}")]);
    configure(&zone, &[spec("a:1", 8)]);
    assert_eq!(
        last(0, &[GOOD], 3_001),
        [format!("breaker closed, {a}, reason=a trial succeeded, at once after a reload")]
    );
}

#[test]
fn nginx_count_is_told_and_no_name_breaks_a_line() {
    let counted = PeerSpec { max_fails: 2, max_fails_explicit: true, ..spec("b:1\n", 8) };
    let (heap, u) = pool(&[counted]);
    let zone = heap.zone();
    let place = (u, join(&zone, 1));
    let said: Vec<_> =
        [FAILURE, GOOD, FAILURE].into_iter().flat_map(|outcome| told(&zone, place, 0, (outcome, None), NOW)).collect();
    let fails = "2 failures, each within fail_timeout of the one before, the last: status 502";
    assert_eq!(said, [format!("breaker opened, upstream=llm, peer=b:1?, out_ms=10000, reason={fails}")]);
}

#[test]
fn a_trial_tells_at_its_first_byte_and_not_again_at_its_end() {
    let (heap, u) = pool(&[spec("a:1", 8)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    (0..3).for_each(|_| fail_once(&zone, u, w));
    let Claim::Taken(mut ticket) = zone.claim(u, w, &demand(0, true), &PARAMS, at(2_000)).claim else { panic!() };
    assert_eq!(ticket.why, Why::Trial);
    assert!(zone.first_byte_seen(&mut ticket, w, 20 * MS, &PARAMS, at(2_020)).is_some());
    assert!(zone.release_known(ticket, w, GOOD, None, &PARAMS, at(2_100), 0).is_empty());
}

#[test]
fn what_other_peers_answer_or_fail_changes_a_breaker_and_is_told() {
    let once = |name| PeerSpec { max_fails: 1, max_fails_explicit: true, ..spec(name, 8) };
    let (heap, u) = pool(&[once("a:1"), once("b:1"), once("c:1")]);
    let zone = heap.zone();
    let place = (u, join(&zone, 1));
    let opened = told(&zone, place, 0, (FAILURE, Some(7)), NOW);
    assert!(opened.len() == 1 && opened[0].ends_with("reason=status 502"), "{opened:?}");
    let pardoned = told(&zone, place, 1, (FAILURE, Some(7)), NOW);
    assert_eq!(pardoned, ["breaker closed, upstream=llm, peer=a:1, reason=another peer failed the same request"]);
    let again = told(&zone, place, 2, (GOOD, Some(7)), NOW);
    let reason = "out_ms=10000, reason=another peer answered what it failed";
    let line = |name| format!("breaker opened, upstream=llm, peer={name}:1, {reason}");
    assert_eq!(again, [line("a"), line("b")]);
}

#[test]
fn of_many_workers_that_see_failures_one_is_told_of_the_change() {
    let (heap, u) = pool(&[spec("a:1", 0)]);
    let zone = heap.zone();
    let told = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for pid in 1..=4 {
            let (w, told) = (join(&zone, pid), &told);
            scope.spawn(move || {
                for random in 0..500 {
                    let Some(ticket) = take(&zone, u, w, random) else { continue };
                    let changes = zone.release_known(ticket, w, FAILURE, None, &PARAMS, NOW, 0);
                    told.fetch_add(changes.len() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let openings = peer(&zone, "a:1").breaker_openings;
    assert_eq!((told.into_inner(), openings), (1, 1));
}

#[test]
fn a_peer_that_flaps_is_told_of_within_bounds() {
    let flapping = PeerSpec { max_fails: 1, max_fails_explicit: true, fail_timeout_ms: 0, ..spec("a:1", 8) };
    let (heap, u) = pool(&[flapping]);
    let zone = heap.zone();
    let place = (u, join(&zone, 1));
    let said: Vec<_> =
        (0..100).flat_map(|n| told(&zone, place, 0, (if n % 2 == 0 { FAILURE } else { GOOD }, None), at(n))).collect();
    assert_eq!(said.len(), 6);
    assert!(said[5].contains(", muted=after 6 lines within 60 s, reason="), "{}", said[5]);
    let later = told(&zone, place, 0, (FAILURE, None), at(70_000));
    assert!(later[0].contains(", unlogged=94, reason="), "{later:?}");
}

#[test]
fn a_reason_names_four_of_those_that_were_full_and_counts_the_others() {
    let specs: Vec<_> = ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1"].map(|name| spec(name, 1)).into();
    let (heap, u) = pool(&specs);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let mut held = Vec::new();
    let mut texts = Vec::new();
    for waits in [false, false, false, false, false, false, true] {
        let demand = Demand { waits, ..demand(0, true) };
        let claimed = zone.claim(u, w, &demand, &PARAMS, NOW);
        let Claim::Taken(ticket) = claimed.claim else { panic!("{claimed:?}") };
        let mut text = String::new();
        zone.pick_text(Some(ticket.why as usize), (claimed.full != 0).then_some((u, claimed.full)), &mut text);
        texts.push(text);
        held.push(ticket);
    }
    assert_eq!(texts[0], "unknown");
    let name = |ticket: &pincer_core::zone::Ticket| char::from(b'a' + ticket.index);
    assert_eq!(texts[1], format!("unknown;full={}:1", name(&held[0])));
    assert!(texts[6].starts_with("waited;full=") && texts[6].ends_with("+2"), "{texts:?}");
    assert_eq!(texts[6].matches(":1").count(), 4, "{texts:?}");
    let mut text = String::new();
    zone.pick_text(None, None, &mut text);
    zone.pick_text(Some(99), Some((UpstreamIdx(99), 1)), &mut text);
    assert_eq!(text, "--");
    held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
}

#[test]
fn the_short_way_notes_whom_it_passed_over() {
    let (heap, u) = pool(&[spec("a:1", 1), spec("b:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    for _ in 0..2 {
        let tickets: Vec<_> = (0..2).map(|random| take(&zone, u, w, random).unwrap()).collect();
        tickets.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
    }
    let mut plan = Plan::new();
    let mut quick = || match zone.claim_quick(u, w, &mut plan, false, &PARAMS, NOW) {
        Quick::Taken(ticket) => (ticket, plan.full()),
        other => panic!("{other:?}"),
    };
    let (held, full) = quick();
    assert_eq!(full, 0);
    let (mut passed_over, busy) = (0, 1_u128 << held.index);
    for _ in 0..4 {
        let (ticket, full) = quick();
        assert!(full == 0 || full == busy, "{full:b}");
        passed_over += u32::from(full == busy);
        zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    }
    assert!(passed_over >= 3, "{passed_over}");
    zone.release(held, w, GOOD, &PARAMS, NOW, 0);
}
