//! What takes proof: that a peer is slower, and that it hangs.

use crate::load::{MS, S};
use crate::rules::{demand, full, looks, slow, view};
use pincer_core::pick::{Decision, Demand, PeerView, THETA, pick};

/// The peer that gets an ordinary request.
fn first(peers: &[PeerView]) -> Option<usize> {
    match pick(peers, &demand(), THETA) {
        Decision::Take { peer, .. } => Some(peer),
        _ => None,
    }
}

#[test]
fn a_peer_that_hangs_gets_nothing_while_another_one_is_in() {
    let hangs = PeerView { in_flight: 3, pending: 3, slots: 0, max_conns: 0, stalled: true, ..view() };
    let busy = PeerView { in_flight: 50, pending: 50, pending_age_ns: MS, slots: 0, max_conns: 0, ..view() };
    assert_eq!(first(&[hangs, busy]), Some(1));
    assert_eq!(first(&[PeerView { stalled: false, ..hangs }, busy]), Some(0));
    assert_eq!(first(&[hangs]), Some(0), "better one that hangs than none");
}

#[test]
fn where_nobody_is_known_a_peer_that_shows_no_signal_hangs_if_another_one_shows_them() {
    let unknown = PeerView { service_ns: 0, usual_ns: 0, samples: 0, slots: 0, max_conns: 0, ..view() };
    let silent = PeerView { in_flight: 3, pending: 3, pending_age_ns: 2 * S, ..unknown };
    let open = |pending_age_ns| PeerView { in_flight: 9, pending: 1, pending_age_ns, wrr_current: -10, ..unknown };
    assert_eq!(first(&[silent, open(100 * MS)]), Some(1));
    assert_eq!(first(&[silent, open(S)]), Some(0), "the others are not much faster");
}

#[test]
fn beyond_the_bound_a_request_waits_for_a_faster_peer_only_if_it_surely_is_faster() {
    let fast = full(PeerView { samples: 100, ..view() });
    let slow = |samples| PeerView { samples, ..slow() };
    let waits = |slow: PeerView, fast: PeerView, waited_ns| {
        let demand = Demand { queued: 1, can_wait: true, waited_ns, ..Demand::default() };
        pick(&[fast, slow], &demand, THETA) == Decision::Wait
    };
    assert!(waits(slow(100), fast, 0) && waits(slow(100), fast, 95 * MS), "a tenth of its second");
    assert!(waits(slow(3), fast, 0) && !waits(slow(3), fast, 95 * MS), "three samples prove nothing");
    let by_chance = PeerView { samples: 5, ..fast };
    assert!(waits(slow(100), by_chance, 0) && !waits(slow(100), by_chance, 95 * MS));
    let usually_slower = PeerView { usual_ns: S, ..fast };
    assert!(!waits(slow(100), usually_slower, 95 * MS), "it has met easy work");
}

#[test]
fn a_slower_peer_on_which_one_request_hangs_is_looked_at() {
    let hung = PeerView { in_flight: 1, pending: 1, pending_age_ns: 10 * S, ..slow() };
    assert_eq!(looks(PeerView { silent_ns: 10 * S, ..hung }, true), 1_000);
    assert_eq!(looks(hung, true), 0, "it is busy");
}
