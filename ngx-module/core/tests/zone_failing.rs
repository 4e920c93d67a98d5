//! Whose fault a failure is: the request's or the peer's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use pincer_core::breaker::State;
use pincer_core::limit::KeyHash;
use pincer_core::time::MonoNs;
use pincer_core::zone::{FAILING, Fingerprint, HeapZone, Outcome, PeerSpec, Ticket, UpstreamIdx, WorkerIdx, Zone};
use zone_support::*;

struct Pool {
    heap: HeapZone,
    u: UpstreamIdx,
    w: WorkerIdx,
    names: Vec<String>,
}

fn request(number: usize) -> Fingerprint {
    Fingerprint::new(KeyHash::of_parts([1, 2], &[b"GET", &number.to_le_bytes()]))
}

impl Pool {
    fn of(specs: &[PeerSpec<'_>]) -> Self {
        let (heap, u) = pool(specs);
        let w = join(&heap.zone(), 1);
        Self { u, w, names: names(&heap.zone()), heap }
    }

    fn new(count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|i| format!("p{i}:1")).collect();
        Self::of(&names.iter().map(|name| spec(name, 0)).collect::<Vec<_>>())
    }

    /// A slot of peer `index`.
    fn take(&self, index: usize) -> Ticket {
        let zone = self.zone();
        for _ in 0..10_000 {
            let others = !(1_u128 << index);
            let demand = pincer_core::pick::Demand { tried: others, ..demand(1, true) };
            if let pincer_core::zone::Claim::Taken(ticket) = zone.claim(self.u, self.w, &demand, &PARAMS, NOW).claim {
                return ticket;
            }
        }
        panic!("peer {index} has no slot")
    }

    fn zone(&self) -> Zone<'_> {
        self.heap.zone()
    }

    fn ends(&self, index: usize, outcome: Outcome, fingerprint: Option<Fingerprint>) {
        let ticket = self.take(index);
        self.zone().release_known(ticket, self.w, outcome, fingerprint, &PARAMS, NOW, 0);
    }

    fn fails(&self, index: usize, number: usize) {
        self.ends(index, Outcome::Failure, Some(request(number)));
    }

    fn answers(&self, index: usize, number: usize) {
        self.ends(index, GOOD, Some(request(number)));
    }

    fn state(&self, index: usize) -> State {
        peer(&self.zone(), &self.names[index]).breaker
    }

    fn open(&self) -> usize {
        (0..self.names.len()).filter(|&index| self.state(index) != State::Closed).count()
    }
}

#[test]
fn a_request_that_fails_everywhere_opens_no_breaker() {
    let pool = Pool::new(2);
    for round in 0..20 {
        pool.fails(round % 2, 0);
    }
    assert_eq!(pool.open(), 0);
    assert_eq!(peer(&pool.zone(), "p0:1").failures, 10, "they are counted all the same");
}

#[test]
fn a_breaker_that_one_request_opened_closes_when_it_fails_elsewhere() {
    let pool = Pool::new(2);
    for _ in 0..3 {
        pool.fails(0, 0);
    }
    assert_eq!(pool.state(0), State::Open);
    pool.fails(1, 0);
    assert_eq!((pool.open(), peer(&pool.zone(), "p0:1").slots), (0, 0), "and it does not come back by steps");
    pool.answers(0, 1);
    (0..3).for_each(|_| pool.fails(1, 0));
    assert_eq!(pool.open(), 0);
}

#[test]
fn what_opened_a_breaker_besides_is_not_taken_back() {
    let pool = Pool::new(3);
    pool.fails(0, 0);
    pool.fails(0, 0);
    pool.fails(0, 1);
    assert_eq!(pool.state(0), State::Open);
    pool.fails(1, 0);
    assert_eq!(pool.state(0), State::Open, "it was another request that opened it");
    pool.fails(2, 1);
    assert_eq!(pool.state(0), State::Closed);
}

#[test]
fn prompts_that_fail_on_the_retry_too_open_no_breaker() {
    let pool = Pool::new(3);
    for number in 0..30 {
        pool.fails(0, number);
        pool.fails(1 + number % 2, number);
    }
    assert_eq!(pool.open(), 0);
}

#[test]
fn a_peer_that_fails_what_others_answer_is_out_after_three() {
    let pool = Pool::new(2);
    for number in 0..3 {
        assert_eq!(pool.state(0), State::Closed);
        pool.fails(0, number);
        pool.answers(1, number);
    }
    assert_eq!(pool.state(0), State::Open);
}

#[test]
fn two_broken_peers_are_out_where_a_third_answers_what_both_fail() {
    for requests in [1, 1_000] {
        let pool = Pool::new(4);
        for number in 0..4 {
            pool.fails(0, number % requests);
            pool.fails(1, number % requests);
            pool.answers(2, number % requests);
            pool.answers(3, number % requests);
        }
        assert_eq!((pool.open(), pool.state(2)), (2, State::Closed), "{requests} different requests");
    }
}

#[test]
fn half_of_the_pool_stays_in_for_failures_that_occur_elsewhere_too() {
    for number_of in [|step: usize| step % 4, |step| step / 10] {
        let pool = Pool::new(4);
        pool.fails(0, 99);
        (0..40).for_each(|number| pool.answers(number % 4, number));
        (0..40).for_each(|step| pool.fails(number_of(step), 100 + step));
        assert_eq!(pool.open(), 2, "what they answered before counts no more");
    }
}

#[test]
fn half_of_the_pool_stays_in_where_all_fail_some() {
    let pool = Pool::new(4);
    for step in 0..160 {
        let (peer, is_good) = (step % 4, step / 4 % 3 == 2);
        match (pool.state(peer), is_good) {
            (State::Closed, true) => pool.answers(peer, step),
            (State::Closed, false) => pool.fails(peer, step),
            _ => {}
        }
    }
    assert_eq!(pool.open(), 2);
}

#[test]
fn a_peer_is_out_at_any_count_where_another_one_answers() {
    let pool = Pool::new(4);
    for number in 0..40 {
        match number % 4 {
            3 => pool.answers(3, number),
            broken => pool.fails(broken, number),
        }
    }
    assert_eq!((pool.open(), pool.state(3)), (3, State::Closed));
}

#[test]
fn the_last_primary_goes_where_a_backup_answers_what_it_fails() {
    let pool = Pool::of(&[spec("a:1", 0), spec("b:1", 0), PeerSpec { backup: true, ..spec("c:1", 0) }]);
    for number in 0..3 {
        pool.fails(0, number);
        pool.fails(1, number);
        pool.answers(2, number);
    }
    assert_eq!((pool.state(0), pool.state(1)), (State::Open, State::Open));
}

#[test]
fn an_only_peer_that_fails_is_out() {
    let pool = Pool::new(1);
    (0..3).for_each(|number| pool.fails(0, number));
    assert_eq!(pool.state(0), State::Open);
}

#[test]
fn nginx_count_knows_whose_fault_it_is_too() {
    let strict = |name| PeerSpec { max_fails_explicit: true, max_fails: 2, fail_timeout_ms: 60_000, ..spec(name, 0) };
    let pool = Pool::of(&[strict("a:1"), strict("b:1"), strict("c:1")]);
    for number in 0..9 {
        pool.fails(0, number);
        pool.fails(1, number);
    }
    assert_eq!(pool.open(), 0);
    for number in 10..12 {
        pool.fails(0, number);
        pool.fails(1, number);
        pool.answers(2, number);
    }
    assert_eq!((pool.open(), pool.state(2)), (2, State::Closed));
}

#[test]
fn a_trial_that_the_request_fails_decides_nothing() {
    let pool = Pool::new(3);
    (0..3).for_each(|number| pool.fails(0, number));
    assert_eq!(pool.state(0), State::Open);
    pool.fails(1, 9);
    let later = MonoNs(NOW.0 + 2_000 * MS);
    let zone = pool.zone();
    let trial = pincer_core::pick::Demand { tried: !1, ..demand(1, true) };
    let claim = || match zone.claim(pool.u, pool.w, &trial, &PARAMS, later).claim {
        pincer_core::zone::Claim::Taken(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let ticket = claim();
    assert!(ticket.trial);
    zone.release_known(ticket, pool.w, Outcome::Failure, Some(request(9)), &PARAMS, later, 0);
    let ticket = claim();
    assert!(ticket.trial, "the next request may try");
    zone.release_known(ticket, pool.w, Outcome::Failure, Some(request(77)), &PARAMS, later, 0);
    assert_eq!(pool.zone().snapshot(later).upstreams[0].peers[0].breaker, State::Open);
}

#[test]
fn the_table_keeps_the_last_256_requests() {
    for (others, state) in [(FAILING - 3, State::Closed), (FAILING, State::Open)] {
        let lasting = PeerSpec { max_fails_explicit: true, max_fails: 0, ..spec("c:1", 0) };
        let pool = Pool::of(&[
            spec("a:1", 0),
            spec("b:1", 0),
            lasting,
            PeerSpec { name: b"d:1", sockaddr: b"d:1", ..lasting },
        ]);
        (0..3).for_each(|number| pool.fails(0, number));
        (0..others).for_each(|number| pool.fails(2, 1_000 + number));
        (0..3).for_each(|number| pool.fails(1, number));
        assert_eq!(pool.state(1), state, "{others} others");
    }
}

#[test]
fn what_failed_is_forgotten_when_the_peers_change_and_after_half_a_minute() {
    let pool = Pool::new(2);
    let zone = pool.zone();
    assert!(!zone.failed_lately(pool.u, NOW));
    pool.fails(0, 0);
    assert!(zone.failed_lately(pool.u, NOW));
    assert!(!zone.failed_lately(pool.u, MonoNs(NOW.0 + 30_000 * MS)));
    configure(&zone, &[spec("p0:1", 0)]);
    assert!(!zone.failed_lately(pool.u, NOW));
}
