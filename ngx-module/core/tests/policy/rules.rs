//! The pick's rules, one by one, and properties that hold for any input.

use crate::load::{MS, S};
use pincer_core::pick::{
    Admission, Decision, Demand, PeerView, STALLED, STALLED_NS, THETA, Why, look_again_ns, pick, settle,
};
use proptest::prelude::*;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// An idle peer of four slots and 100 ms, well known.
pub fn view() -> PeerView {
    PeerView {
        identity: 1,
        in_flight: 0,
        pending: 0,
        pending_age_ns: 0,
        slots: 4,
        max_conns: 4,
        weight: 1,
        service_ns: 100 * MS,
        error_ns: MS,
        usual_ns: 100 * MS,
        recent_ns: 100 * MS,
        recent_most_ns: 100 * MS,
        hold_ns: 100 * MS,
        wrr_current: 0,
        admission: Admission::Open,
        backup: false,
        silent_ns: 0,
        stalled: false,
        span_ns: 10 * S,
        samples: 100,
    }
}

pub fn slow() -> PeerView {
    PeerView { service_ns: S, usual_ns: S, recent_ns: S, recent_most_ns: S, hold_ns: S, ..view() }
}

pub fn full(peer: PeerView) -> PeerView {
    PeerView { in_flight: peer.slots, pending: peer.slots, pending_age_ns: MS, ..peer }
}

pub fn demand() -> Demand {
    Demand { queued: 1, can_wait: true, random: 1, may_look: true, may_look_again: true, ..Demand::default() }
}

fn taken(peers: &[PeerView], demand: &Demand) -> Option<(usize, Why)> {
    match pick(peers, demand, THETA) {
        Decision::Take { peer, why, .. } => Some((peer, why)),
        _ => None,
    }
}

#[test]
fn a_free_fast_peer_is_taken() {
    assert_eq!(taken(&[slow(), view()], &demand()), Some((1, Why::Fastest)));
}

#[test]
fn a_short_queue_waits_for_the_fast_peer_and_a_long_one_takes_the_slow() {
    let peers = [full(view()), slow()];
    // R = 4 / 100 ms, so 0.3 · 900 ms of it are 10.8 requests
    assert_eq!(pick(&peers, &Demand { queued: 10, ..demand() }, THETA), Decision::Wait);
    assert_eq!(taken(&peers, &Demand { queued: 11, ..demand() }), Some((1, Why::Fastest)));
}

#[test]
fn nobody_waits_for_a_faster_peer_longer_than_that_one_is_faster() {
    let peers = [full(view()), slow()];
    assert_eq!(pick(&peers, &Demand { waited_ns: 900 * MS - 1, ..demand() }, THETA), Decision::Wait);
    assert_eq!(taken(&peers, &Demand { waited_ns: 900 * MS, ..demand() }), Some((1, Why::Fastest)));
}

#[test]
fn a_request_that_cannot_wait_takes_the_slow_peer() {
    assert_eq!(taken(&[full(view()), slow()], &Demand { can_wait: false, ..demand() }), Some((1, Why::Fastest)));
}

#[test]
fn beside_a_peer_without_a_limit_nobody_waits_for_a_full_one_of_like_speed() {
    let unlimited =
        |in_flight| PeerView { slots: 0, max_conns: 0, in_flight, pending: in_flight, pending_age_ns: MS, ..view() };
    for (in_flight, weight) in [(1, 1), (3, 1), (40, 1), (40, 9)] {
        let limited = PeerView { slots: 2, max_conns: 2, weight, ..view() };
        assert_eq!(taken(&[unlimited(in_flight), full(limited)], &demand()), Some((0, Why::Fastest)), "{in_flight}");
        assert_eq!(taken(&[unlimited(in_flight), full(slow()), full(limited)], &demand()), Some((0, Why::Fastest)));
    }
}

#[test]
fn when_all_are_full_a_request_waits_or_is_told_so() {
    let peers = [full(view()), full(slow())];
    assert_eq!(pick(&peers, &demand(), THETA), Decision::Wait);
    assert_eq!(pick(&peers, &Demand { can_wait: false, ..demand() }, THETA), Decision::Full);
}

#[test]
fn without_peers_there_is_none() {
    assert_eq!(pick(&[], &demand(), THETA), Decision::NoPeer);
    let shut = PeerView { admission: Admission::Shut, ..view() };
    let weightless = PeerView { weight: 0, ..view() };
    assert_eq!(pick(&[shut, weightless], &demand(), THETA), Decision::NoPeer);
    assert_eq!(pick(&[view()], &Demand { tried: 1, ..demand() }, THETA), Decision::NoPeer);
}

#[test]
fn when_nobody_has_a_sample_all_are_ties() {
    let peers = [unknown(); 5];
    assert!(matches!(pick(&peers, &demand(), THETA), Decision::Take { ties: 0b1_1111, .. }));
}

fn unknown() -> PeerView {
    PeerView { service_ns: 0, hold_ns: 0, usual_ns: 0, recent_ns: 0, error_ns: 0, ..view() }
}

/// Requests that each of `peers` gets of `count` that come one after the other.
fn shared(peers: &[PeerView], count: u64) -> Vec<usize> {
    let mut shares = vec![0; peers.len()];
    let credits: Vec<AtomicI64> = peers.iter().map(|peer| AtomicI64::new(peer.wrr_current)).collect();
    for random in 1..=count {
        let view = |(peer, credit): (&PeerView, &AtomicI64)| PeerView { wrr_current: credit.load(Relaxed), ..*peer };
        let peers: Vec<PeerView> = peers.iter().zip(&credits).map(view).collect();
        if let Decision::Take { peer, ties, .. } = pick(&peers, &Demand { random, ..demand() }, THETA) {
            settle(ties, peer, |i| peers[i].weight, |i| &credits[i]);
            shares[peer] += 1;
        }
    }
    shares
}

#[test]
fn of_peers_that_are_all_unknown_the_idle_one_is_no_better_than_the_one_that_is_asked() {
    let asked = PeerView { in_flight: 3, pending: 3, pending_age_ns: MS, ..unknown() };
    assert_eq!(shared(&[asked, unknown()], 100), [50, 50]);
    let has_none_free = PeerView { in_flight: 4, pending: 4, pending_age_ns: MS, wrr_current: 2, ..unknown() };
    assert_eq!(shared(&[has_none_free, unknown()], 100), [0, 100], "at full width: nobody waits");
}

#[test]
fn of_peers_that_are_all_unknown_one_that_is_idle_for_ever_gets_two_requests_more_than_its_share() {
    let holds_websockets = PeerView { in_flight: 3, ..unknown() };
    assert_eq!(shared(&[holds_websockets, unknown()], 4), [0, 4]);
    assert_eq!(shared(&[holds_websockets, unknown()], 1_000), [498, 502]);
    let without_limit = PeerView { max_conns: 0, slots: 0, ..unknown() };
    let heavy = PeerView { weight: 9, in_flight: 300, ..without_limit };
    assert_eq!(shared(&[heavy, without_limit], 1_000), [898, 102]);
    let pool = [PeerView { in_flight: 50, ..without_limit }, without_limit, PeerView { weight: 2, ..without_limit }];
    let shares = shared(&pool, 1_000);
    assert!(shares.iter().zip([250, 250, 500]).all(|(&share, due)| share.abs_diff(due) <= 4), "{shares:?}");
    assert_eq!(shared(&[full(unknown()), unknown()], 100), [0, 100], "but nobody waits beside a free slot");
}

#[test]
fn a_peer_without_a_sample_gets_its_share_by_weight_however_idle_it_is() {
    assert_eq!(shared(&[view(), unknown()], 1_000), [500, 500]);
    let heavy = PeerView { weight: 7, ..view() };
    assert_eq!(shared(&[heavy, unknown(), PeerView { weight: 2, ..unknown() }], 1_000), [700, 100, 200]);
    let busy = PeerView { in_flight: 3, pending: 3, pending_age_ns: MS, ..view() };
    assert_eq!(shared(&[busy, unknown(), slow()], 999), [666, 333, 0], "the load of the others does not matter");
    let idle_for_long = PeerView { wrr_current: 8, ..slow() };
    let four = [PeerView { wrr_current: -8, ..view() }, idle_for_long, idle_for_long, unknown()];
    assert_eq!(shared(&four, 1_000)[3], 250, "nor do their speeds");
}

#[test]
fn a_peer_without_a_sample_has_one_request_at_a_time_where_others_are_known() {
    let asked = PeerView { in_flight: 1, pending: 1, pending_age_ns: MS, ..unknown() };
    assert_eq!(shared(&[view(), asked], 100), [100, 0]);
    let holds_a_websocket = PeerView { in_flight: 1, ..unknown() };
    assert_eq!(shared(&[view(), holds_a_websocket], 100), [50, 50]);
    let asked_twice = PeerView { in_flight: 2, pending: 2, ..asked };
    assert_eq!(shared(&[asked_twice, asked, unknown()], 99), [33; 3], "a pool that is unknown as a whole");
}

#[test]
fn a_request_waits_for_a_known_peer_for_a_moment_before_it_goes_to_an_unknown_one_whose_turn_it_is_not() {
    let has_had_its_share = PeerView { wrr_current: -1, ..unknown() };
    let peers = [full(PeerView { wrr_current: 1, ..view() }), has_had_its_share];
    let waited = |waited_ns| taken(&peers, &Demand { waited_ns, ..demand() });
    assert_eq!((waited(45 * MS - 1), waited(45 * MS)), (None, Some((1, Why::Unknown))));
    assert_eq!(look_again_ns(&peers, &demand()), Some(45 * MS));
    assert_eq!(taken(&peers, &Demand { can_wait: false, ..demand() }), Some((1, Why::Unknown)));
}

/// Of a thousand requests the numbers of those with which `peer` is looked at beside one of 100 ms.
pub fn looks(peer: PeerView, may_look: bool) -> usize {
    let look = |random| taken(&[view(), peer], &Demand { random, may_look, ..demand() }) == Some((1, Why::Explore));
    (1..=1_000).filter(|&random| look(random)).count()
}

#[test]
fn an_idle_peer_is_due_for_a_look_when_its_evidence_is_two_seconds_old_and_a_look_may_be_spent() {
    let of_a_burst = PeerView {
        service_ns: 180 * MS,
        usual_ns: 180 * MS,
        recent_ns: 180 * MS,
        recent_most_ns: 180 * MS,
        span_ns: S,
        ..view()
    };
    let silent = |silent_ns| PeerView { silent_ns, ..of_a_burst };
    assert_eq!(
        (looks(silent(2 * S - 1), true), looks(silent(2 * S), true), looks(silent(2 * S), false)),
        (0, 1_000, 0)
    );
    let busy = PeerView { in_flight: 1, pending: 1, pending_age_ns: MS, silent_ns: 0, ..of_a_burst };
    assert_eq!(looks(busy, true), 0);
    let streaming = PeerView { in_flight: 1, ..silent(2 * S) };
    assert_eq!(looks(streaming, true), 1_000);
}

#[test]
fn the_peer_of_which_least_is_known_is_looked_at_first() {
    let slow = |span_ns, silent_ns| PeerView { span_ns, silent_ns, ..slow() };
    let first = |peers: &[PeerView]| taken(peers, &demand()).map(|(peer, _)| peer);
    assert_eq!(first(&[view(), slow(3 * S, 3 * S), slow(2 * S, 3 * S)]), Some(2));
    assert_eq!(first(&[view(), slow(2 * S, 3 * S), slow(2 * S, 4 * S)]), Some(2));
    assert_eq!(first(&[view(), slow(4 * S, 8 * S), slow(2 * S, 3 * S)]), Some(1), "what was known of it has aged");
}

#[test]
fn a_peer_that_was_slow_for_longer_is_looked_at_by_every_hundredth_request_until_that_has_aged() {
    let slow = PeerView {
        service_ns: 180 * MS,
        usual_ns: 180 * MS,
        recent_ns: 180 * MS,
        recent_most_ns: 180 * MS,
        span_ns: 4 * S,
        ..view()
    };
    let silent = |silent_ns| PeerView { silent_ns, ..slow };
    assert_eq!((looks(silent(4 * S - 1), true), looks(silent(4 * S), true)), (10, 1_000));
    let for_a_day = PeerView { span_ns: 86_400 * S, ..slow };
    assert_eq!(looks(PeerView { silent_ns: 6 * S, ..for_a_day }, true), 1_000, "32 services are enough for any");
    let minutes =
        PeerView { service_ns: 60 * S, usual_ns: 60 * S, recent_ns: 60 * S, recent_most_ns: 60 * S, ..for_a_day };
    assert!(looks(PeerView { silent_ns: 1_900 * S, ..minutes }, true) < 10, "which may be long");
    let was_faster = PeerView { usual_ns: 80 * MS, ..silent(2 * S) };
    assert_eq!(looks(was_faster, true), 1_000);
    let asked_seldom = PeerView { samples: 5, ..silent(2 * S) };
    assert_eq!(looks(asked_seldom, true), 1_000);
}

#[test]
fn a_peer_whose_last_two_samples_contradict_its_mean_is_due_after_two_seconds_whatever_its_story() {
    let slow = PeerView { service_ns: 600 * MS, usual_ns: 600 * MS, span_ns: 86_400 * S, ..view() };
    let told = |recent_ns, recent_most_ns| PeerView { recent_ns, recent_most_ns, silent_ns: 2 * S, ..slow };
    assert_eq!(looks(told(300 * MS, 399 * MS), true), 1_000);
    assert!(looks(told(300 * MS, 401 * MS), true) <= 10, "only one of them does");
}

#[test]
fn nobody_goes_to_an_unknown_peer_while_a_known_one_is_free_and_not_worth_taking() {
    let asked = PeerView { in_flight: 1, pending: 1, pending_age_ns: MS, ..unknown() };
    let waits = Demand { waited_ns: 600 * MS, ..demand() };
    assert_eq!(pick(&[full(view()), slow(), asked], &waits, THETA), Decision::Wait);
    assert_eq!(taken(&[full(view()), full(slow()), asked], &waits), Some((2, Why::Unknown)), "but all are full");
}

#[test]
fn one_stalled_first_answer_does_not_set_a_peer_apart_and_several_slow_ones_do() {
    let of = |service_ns, error_ns| PeerView {
        service_ns,
        error_ns,
        usual_ns: service_ns,
        recent_ns: service_ns,
        recent_most_ns: service_ns,
        ..view()
    };
    let fast = of(8 * MS, MS);
    assert_eq!(shared(&[fast, of(40 * MS, 30 * MS)], 100), [50, 50]);
    assert_eq!(shared(&[fast, of(40 * MS, 10 * MS)], 100), [100, 0], "four samples agree");
    assert_eq!(shared(&[fast, of(60 * MS, 50 * MS)], 100), [100, 0], "no stall is that long");
}

#[test]
fn a_peer_that_is_slow_by_nature_is_explored_the_less_the_slower_it_is() {
    let peers = [view(), PeerView { silent_ns: 2 * S, span_ns: 10 * S, ..slow() }];
    let count = (1..=100_000)
        .filter(|&random| taken(&peers, &Demand { random, ..demand() }) == Some((1, Why::Explore)))
        .count();
    assert!((60..=140).contains(&count), "{count}");
}

#[test]
fn a_peer_that_answers_like_the_best_again_is_looked_at_again_at_once() {
    let again = |peer: PeerView| taken(&[view(), peer], &demand()) == Some((1, Why::Explore));
    let healing = PeerView { service_ns: S, recent_ns: 110 * MS, recent_most_ns: S, ..view() };
    assert!(again(healing));
    assert!(!again(PeerView { pending: 1, in_flight: 1, ..healing }), "one at a time");
    assert!(!again(PeerView { recent_ns: 210 * MS, ..healing }));
    let twice_as_slow =
        PeerView { service_ns: 250 * MS, usual_ns: 250 * MS, recent_ns: 110 * MS, recent_most_ns: 250 * MS, ..view() };
    assert!(!again(twice_as_slow), "a lucky sample");
    assert!(again(PeerView { error_ns: 100 * MS, ..twice_as_slow }), "one that rests on two samples");
    let none_to_spend = Demand { may_look_again: false, ..demand() };
    assert_eq!(taken(&[view(), healing], &none_to_spend), Some((0, Why::Fastest)));
}

#[test]
fn a_half_open_peer_gets_the_first_request_but_not_one_that_has_failed_before() {
    let trial = PeerView { admission: Admission::Trial, ..view() };
    assert_eq!(taken(&[view(), trial, view()], &demand()), Some((1, Why::Trial)));
    assert_eq!(taken(&[view(), trial, view()], &Demand { tried: 0b100, ..demand() }), Some((0, Why::Fastest)));
    assert_eq!(taken(&[view(), trial], &Demand { tried: 0b01, ..demand() }), Some((1, Why::Trial)));
}

#[test]
fn an_ejected_peer_is_the_last_resort_after_the_backups() {
    let ejected = PeerView { admission: Admission::Ejected, ..view() };
    let backup = PeerView { backup: true, ..slow() };
    assert_eq!(taken(&[ejected, backup], &demand()), Some((1, Why::Backup)));
    assert_eq!(taken(&[ejected, backup], &Demand { tried: 0b10, ..demand() }), Some((0, Why::LastResort)));
}

#[test]
fn a_backup_helps_out_when_all_primaries_are_full_only_if_the_request_cannot_wait() {
    let backup = PeerView { backup: true, ..view() };
    assert_eq!(pick(&[full(view()), backup], &demand(), THETA), Decision::Wait);
    assert_eq!(taken(&[full(view()), backup], &Demand { can_wait: false, ..demand() }), Some((1, Why::Backup)));
}

#[test]
fn a_limit_of_the_slow_start_alone_refuses_nobody() {
    let ramping = PeerView { slots: 1, in_flight: 1, pending: 1, ..view() };
    assert_eq!(pick(&[ramping], &demand(), THETA), Decision::Wait);
    assert_eq!(taken(&[ramping], &Demand { can_wait: false, ..demand() }), Some((0, Why::Fastest)));
}

#[test]
fn a_hanging_peer_loses_its_place_by_the_age_of_its_requests() {
    let hanging = PeerView { in_flight: 1, pending: 1, pending_age_ns: 5 * S, ..view() };
    assert_eq!(taken(&[hanging, slow()], &demand()), Some((1, Why::Fastest)));
}

#[test]
fn affinity_is_sticky_until_its_peer_is_full_and_then_waits_only_if_all_are() {
    let peers: Vec<PeerView> = (1..=4).map(|identity| PeerView { identity, ..view() }).collect();
    let keyed = Demand { affinity: Some(99), ..demand() };
    let Some((home, Why::Affinity)) = taken(&peers, &keyed) else { panic!("no affinity") };
    let mut busy = peers.clone();
    busy[home] = full(busy[home]);
    assert!(taken(&busy, &keyed).is_some_and(|(peer, why)| peer != home && why == Why::Affinity));
    let all_full: Vec<PeerView> = peers.into_iter().map(full).collect();
    assert_eq!(pick(&all_full, &keyed, THETA), Decision::Wait);
}

#[test]
fn settling_is_smooth_weighted_round_robin() {
    let credits: [AtomicI64; 3] = Default::default();
    let weights = [5, 1, 1];
    let mut order = String::new();
    for _ in 0..7 {
        let peers: Vec<PeerView> =
            (0..3).map(|i| PeerView { weight: weights[i], wrr_current: credits[i].load(Relaxed), ..view() }).collect();
        let Decision::Take { peer, ties, .. } = pick(&peers, &demand(), THETA) else { panic!("not taken") };
        settle(ties, peer, |i| weights[i], |i| &credits[i]);
        order.push(char::from(b'a' + u8::try_from(peer).unwrap()));
    }
    assert_eq!(order, "aabacaa", "nginx's own order");
    assert!(credits.iter().all(|credit| credit.load(Relaxed) == 0));
}

#[test]
fn credits_stay_bounded_when_load_decides_for_long() {
    let credits: [AtomicI64; 2] = Default::default();
    for _ in 0..10_000 {
        settle(0b11, 0, |_| 7, |i| &credits[i]);
    }
    assert!(credits.iter().all(|credit| credit.load(Relaxed).abs() <= 28));
}

fn any_admission() -> impl Strategy<Value = Admission> {
    prop_oneof![
        6 => Just(Admission::Open),
        1 => Just(Admission::Trial),
        1 => Just(Admission::Ejected),
        1 => Just(Admission::Shut)
    ]
}

prop_compose! {
    fn any_peer()(
        (in_flight, pending, slots, max_conns) in (0..9_u32, 0..9_u32, 0..8_u32, 0..8_u32),
        (weight, identity, wrr_current) in (prop_oneof![Just(0), 1..9_u32, Just(u32::MAX)], any::<u64>(), any::<i64>()),
        (service_ns, hold_ns, pending_age_ns) in (prop_oneof![Just(0), 1..100 * S, Just(u64::MAX)], 0..100 * S, 0..100 * S),
        (error_ns, usual_ns, recent_ns) in (0..S, 0..100 * S, 0..100 * S),
        recent_most_ns in 0..100 * S,
        (admission, backup) in (any_admission(), any::<bool>()),
        (silent_ns, span_ns, samples) in (0..100 * S, 0..100 * S, 0..256_u32),
        stalled in any::<bool>(),
    ) -> PeerView {
        PeerView {
            identity, in_flight, pending: pending.min(in_flight), pending_age_ns, slots, max_conns, weight, service_ns,
            error_ns, usual_ns, recent_ns, recent_most_ns, hold_ns, wrr_current, admission, backup, silent_ns,
            stalled,
            span_ns,
            samples,
        }
    }
}

/// Whether it is one that may be left out since it hangs.
fn is_left_out(peer: &PeerView) -> bool {
    peer.stalled || (peer.service_ns == 0 && peer.pending >= STALLED && peer.pending_age_ns >= STALLED_NS)
}

proptest! {
    #[test]
    fn whatever_the_input_the_pick_keeps_its_promises(
        peers in prop::collection::vec(any_peer(), 0..12),
        (queued, can_wait, affinity) in (0..100_u32, any::<bool>(), any::<Option<u64>>()),
        (tried, random) in (0..4096_u128, any::<u64>()),
        (waited_ns, may_look) in (0..10 * S, any::<bool>()),
    ) {
        let demand = Demand { queued, can_wait, affinity, tried, random, waited_ns, may_look, may_look_again: may_look, waits: false };
        let is_eligible = |i: usize| {
            peers[i].weight > 0 && peers[i].admission != Admission::Shut && tried >> i & 1 == 0
        };
        let has_room = |peer: &PeerView| peer.max_conns == 0 || peer.in_flight < peer.max_conns;
        let has_slot = |peer: &PeerView| peer.slots == 0 || peer.in_flight < peer.slots;
        match pick(&peers, &demand, THETA) {
            Decision::Take { peer, ties, why } => {
                prop_assert!(is_eligible(peer));
                prop_assert!(has_slot(&peers[peer]) || (!can_wait && has_room(&peers[peer])));
                prop_assert!(ties == 0 || ties >> peer & 1 == 1);
                prop_assert_eq!(why == Why::Trial, peers[peer].admission == Admission::Trial);
                let is_out = |i: usize| peers[i].admission == Admission::Ejected || is_left_out(&peers[i]);
                prop_assert!(why != Why::LastResort || is_out(peer));
                let primaries = (0..peers.len()).any(|i| {
                    is_eligible(i) && !peers[i].backup && peers[i].admission == Admission::Open && !is_left_out(&peers[i])
                });
                prop_assert!(why != Why::Backup || !primaries || !can_wait);
            }
            Decision::Wait => prop_assert!(can_wait),
            Decision::Full => {
                prop_assert!(!can_wait);
                prop_assert!((0..peers.len()).any(is_eligible));
            }
            Decision::NoPeer => prop_assert!(!(0..peers.len()).any(is_eligible)),
        }
    }

    #[test]
    fn somebody_serves_an_idle_upstream(peers in prop::collection::vec(any_peer(), 1..12), random in any::<u64>()) {
        let idle: Vec<PeerView> = peers.iter().map(|peer| PeerView {
            in_flight: 0, pending: 0, pending_age_ns: 0, weight: peer.weight.max(1), admission: Admission::Open, ..*peer
        }).collect();
        let demand = Demand { random, ..demand() };
        let is_taken = matches!(pick(&idle, &demand, THETA), Decision::Take { .. });
        prop_assert!(is_taken);
    }
}

/// A heavy peer of one slot that is owed the next request, and a light one with a free slot;
/// `service_ns` of both.
fn owed_and_free(service_ns: u64) -> [PeerView; 2] {
    let heavy = PeerView { weight: 9, in_flight: 1, slots: 1, max_conns: 1, pending: 1, service_ns, ..view() };
    [heavy, PeerView { in_flight: 3, pending: 3, pending_age_ns: 50 * MS, service_ns, ..view() }]
}

#[test]
fn nobody_waits_for_a_share_as_long_as_50_ms_or_a_tenth_of_the_service_time() {
    for (service_ns, bound_ns) in [(100 * MS, 45 * MS), (400 * MS, 45 * MS), (11 * S, S)] {
        let peers = owed_and_free(service_ns);
        let waited = |waited_ns| Demand { waited_ns, ..demand() };
        assert_eq!(pick(&peers, &waited(bound_ns - 1), THETA), Decision::Wait);
        assert_eq!(taken(&peers, &waited(bound_ns)), Some((1, Why::Fastest)));
        assert_eq!(look_again_ns(&peers, &waited(bound_ns - MS)), Some(MS));
        assert_eq!(look_again_ns(&peers, &waited(bound_ns)), None);
    }
    assert_eq!(look_again_ns(&[full(view()), full(slow())], &demand()), None);
}

#[test]
fn nobody_waits_for_a_peer_that_is_owed_a_request_but_hangs() {
    let heavy = PeerView { weight: 9, in_flight: 1, slots: 1, max_conns: 1, pending: 1, ..view() };
    let light = PeerView { in_flight: 3, pending: 3, pending_age_ns: 50 * MS, ..view() };
    let busy = PeerView { pending_age_ns: 50 * MS, ..heavy };
    assert_eq!(pick(&[busy, light], &demand(), THETA), Decision::Wait);
    let hung = PeerView { pending_age_ns: 330 * MS, ..heavy };
    assert_eq!(taken(&[hung, light], &demand()), Some((1, Why::Fastest)));
}
