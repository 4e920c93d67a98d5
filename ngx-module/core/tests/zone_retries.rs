//! What a request that failed once may do again: attempts by `server` lines, a place beyond the
//! queue's size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::zone::{Overlay, PeerOverlay, PeerSpec, QueueClass, Refused, UpstreamIdx, UpstreamOverlay, Zone};
use zone_support::*;

fn tries(zone: &Zone<'_>, u: UpstreamIdx) -> u32 {
    zone.upstream(u).unwrap().tries()
}

#[test]
fn a_request_has_a_try_for_each_line_of_a_peer_that_takes_requests() {
    let down = PeerSpec { down: true, lines: 0, ..spec("c:1", 2) };
    let (heap, u) = pool(&[PeerSpec { lines: 3, ..spec("a:1", 2) }, spec("b:1", 2), down]);
    let zone = heap.zone();
    assert_eq!(tries(&zone, u), 4);
    let set = |revision, weight| {
        let b = PeerOverlay { name: b"b:1", weight, ..PeerOverlay::default() };
        let new = PeerOverlay { name: b"n:1", added: Some(b"n:1"), ..PeerOverlay::default() };
        let upstreams = [UpstreamOverlay { name: b"llm", peers: &[b, new] }];
        zone.overlay_apply(&Overlay { revision, upstreams: &upstreams, ..Overlay::default() }, NOW).unwrap();
    };
    set(1, Some(0));
    assert_eq!(tries(&zone, u), 4, "one less, and one that was added");
    set(2, None);
    assert_eq!(tries(&zone, u), 5);
    configure(&zone, &[PeerSpec { down: true, ..spec("a:1", 2) }]);
    assert_eq!(tries(&zone, u), 1);
}

#[test]
fn a_peer_is_tried_again_once_all_were_and_as_often_as_it_has_lines() {
    let down = PeerSpec { down: true, ..spec("c:1", 2) };
    let (heap, u) = pool(&[PeerSpec { lines: 3, ..spec("a:1", 2) }, PeerSpec { lines: 2, ..spec("b:1", 2) }, down]);
    let zone = heap.zone();
    assert_eq!(zone.next_round(u, 0b01, 1), None, "b is left");
    assert_eq!(zone.next_round(u, 0b11, 1), Some(0));
    assert_eq!(zone.next_round(u, 0b11, 2), Some(0b10), "b has had both of its lines");
    assert_eq!(zone.next_round(u, 0b11, 3), None);
}

#[test]
fn a_retry_enters_a_full_queue_beyond_its_size_and_nobody_gives_way() {
    let (heap, u) = pool(&[spec("a:1", 1)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let enter = || zone.queue_enter(u, w, QueueClass::NONE, 1, &plain, NOW);
    let first = enter().unwrap();
    assert_eq!(enter(), Err(Refused::Full));
    let again = zone.queue_enter_again(u, w, QueueClass::NONE, &plain, NOW).unwrap();
    assert_eq!((zone.waiting(u), again.crowded), (2, false));
    assert_eq!(zone.queue_victim(u, 1, &plain), None);
    zone.queue_leave(u, w, first.cell, Some((again.sequence, again.sequence)));
    let third = enter().expect("the retry takes no place");
    assert_eq!(zone.queue_victim(u, 1, &plain), None);
    zone.queue_leave(u, w, again.cell, Some((third.sequence, third.sequence)));
    zone.queue_retry_left(u, w);
    assert_eq!(enter(), Err(Refused::Full));
}

#[test]
fn the_second_stale_connection_in_a_row_is_not_excused() {
    let (heap, u) = pool(&[spec("a:1", 9)]);
    let zone = heap.zone();
    let w = join(&zone, 1);
    let ticket = take(&zone, u, w, 0).unwrap();
    assert!(zone.excuse_stale(&ticket) && !zone.excuse_stale(&ticket));
    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
    let ticket = take(&zone, u, w, 0).unwrap();
    assert!(zone.excuse_stale(&ticket), "it answered in between");
    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
}
