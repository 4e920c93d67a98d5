//! Models of the limiter's tables under every interleaving of two workers: `tools/loom.sh`. Sets of
//! two ways, ways of two words.

use loom::sync::Arc;
use loom::thread;

use super::WorkerIdx;
use super::rates::{Checked, RateSet};
use super::seats::{Sat, SeatSet};
use crate::limit::{DELAY_NONE, Gcra};

const GCRA: Gcra = Gcra { interval: 1_000, burst: 0, delay: DELAY_NONE };
const NOW: u64 = 1_000_000;
const A: WorkerIdx = WorkerIdx(0);
const B: WorkerIdx = WorkerIdx(1);

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

fn check(set: &RateSet, tag: u64, now: u64) -> bool {
    !matches!(set.check(tag, &GCRA, 1, now, &core::sync::atomic::AtomicU64::new(0)), Checked::Refused { .. })
}

fn sits(set: &SeatSet, tag: u64, w: WorkerIdx, limit: u32) -> Option<super::seats::Seat> {
    match set.sit(tag, w, limit) {
        Sat::Taken(seat) => Some(seat),
        _ => None,
    }
}

#[test]
fn loom_a_new_key_that_two_workers_put_in_at_once_has_one_allowance() {
    model(|| {
        let set = Arc::new(RateSet::default());
        let other = set.clone();
        let theirs = thread::spawn(move || check(&other, 64, NOW));
        let ours = check(&set, 64, NOW);
        let theirs = theirs.join().unwrap();
        assert!(ours ^ theirs, "exactly one request is let in: {ours} {theirs}");
        assert!(!check(&set, 64, NOW), "and the next one is not");
    });
}

#[test]
fn loom_a_key_that_is_charged_while_its_way_is_taken_over_takes_the_charge_back() {
    model(|| {
        let set = Arc::new(RateSet::default());
        assert!(check(&set, 64, 1_000) && check(&set, 128, 2_000));
        let other = set.clone();
        // The first key's allowance is full again, so its way is free for the third.
        let theirs = thread::spawn(move || check(&other, 192, NOW));
        assert!(check(&set, 64, NOW), "the one that was here first has its allowance");
        let theirs = theirs.join().unwrap();
        assert!(theirs || check(&set, 192, NOW), "what was charged to its way is taken back");
        assert!(!theirs || !check(&set, 192, NOW), "and its own charge stays");
    });
}

#[test]
fn loom_of_two_requests_for_the_last_seat_not_both_get_it() {
    model(|| {
        let set = Arc::new(SeatSet::default());
        let other = set.clone();
        let theirs = thread::spawn(move || sits(&other, 64, B, 1));
        let ours = sits(&set, 64, A, 1);
        let theirs = theirs.join().unwrap();
        assert!(ours.is_none() || theirs.is_none(), "one seat, two requests");
        let taken = u32::from(ours.is_some()) + u32::from(theirs.is_some());
        assert_eq!(set.count(64), taken);
        assert!(ours.is_none_or(|seat| set.leave(seat, A)) && theirs.is_none_or(|seat| set.leave(seat, B)));
        assert_eq!(set.count(64), 0);
    });
}

#[test]
fn loom_a_way_is_never_taken_from_under_a_seat() {
    model(|| {
        let set = Arc::new(SeatSet::default());
        // Two keys have been here; both ways are idle.
        for tag in [64, 128] {
            let seat = sits(&set, tag, A, 0).unwrap();
            assert!(set.leave(seat, A));
        }
        let other = set.clone();
        let theirs = thread::spawn(move || sits(&other, 192, B, 0));
        let ours = sits(&set, 64, A, 0);
        let theirs = theirs.join().unwrap();
        assert_eq!(set.count(64), u32::from(ours.is_some()));
        assert_eq!(set.count(192), u32::from(theirs.is_some()));
        assert!(ours.is_some() || theirs.is_some());
    });
}

#[test]
fn loom_the_seats_of_a_dead_worker_are_cleared_while_another_one_sits_down() {
    model(|| {
        let set = Arc::new(SeatSet::default());
        assert!(sits(&set, 64, A, 1).is_some());
        let other = set.clone();
        let theirs = thread::spawn(move || sits(&other, 64, B, 1));
        assert_eq!(set.clear_worker(A), 1);
        let theirs = theirs.join().unwrap();
        assert_eq!(set.count(64), u32::from(theirs.is_some()));
        if theirs.is_none() {
            assert!(sits(&set, 64, B, 1).is_some(), "the dead one's seat is free");
        }
    });
}
