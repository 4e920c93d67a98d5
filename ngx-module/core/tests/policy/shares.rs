//! Shares among peers of like speed, by weight and without.

use crate::sim::*;
use pincer_core::estimate::HALF_LIFE_NS;
use pincer_core::pick::THETA;

const NO_QUEUE: Policy = Policy::Pincer { theta: THETA, half_life_ns: HALF_LIFE_NS, queue: false };

/// Requests per peer when `concurrency` clients send one request after the other.
fn clients(pool: &[Replica], concurrency: usize, count: usize, cv: f64) -> Vec<usize> {
    let mut sim = Sim::new(pool.to_vec(), PINCER, 7);
    sim.concurrency = concurrency;
    shares(&sim.run(&arrivals(count, 1_000.0, cv, 3)), pool.len())
}

fn both_ways(pool: Vec<Replica>) -> [Vec<Replica>; 2] {
    [pool.clone(), pool.into_iter().map(Replica::unlimited).collect()]
}

#[test]
fn five_equal_peers_one_request_at_a_time_get_exactly_a_fifth_each() {
    for pool in both_ways(vec![Replica::new(4, 50 * MS); 5]) {
        assert_eq!(clients(&pool, 1, 1_500, 0.0), [300; 5]);
    }
}

#[test]
fn five_equal_peers_get_within_a_fifth_of_their_share_at_any_concurrency() {
    for pool in both_ways(vec![Replica::new(8, 50 * MS); 5]) {
        for cv in [0.1, 0.5] {
            for concurrency in [1, 3, 10, 40] {
                let counts = clients(&pool, concurrency, 1_500, cv);
                assert!(counts.iter().all(|n| (240..=360).contains(n)), "cv {cv}, {concurrency} at once: {counts:?}");
            }
        }
    }
}

#[test]
fn equal_peers_of_wildly_varied_work_share_alike_in_the_long_run() {
    for pool in both_ways(vec![Replica::new(8, 50 * MS); 5]) {
        for concurrency in [1, 10] {
            let counts = clients(&pool, concurrency, 10_000, 1.2);
            assert!(counts.iter().all(|n| (1_500..=2_500).contains(n)), "{concurrency} at once: {counts:?}");
        }
    }
}

#[test]
fn weights_of_nine_and_one_are_nine_in_ten_one_at_a_time_and_a_thousand_at_once() {
    for pool in both_ways(vec![Replica::new(2_000, 50 * MS).weight(9), Replica::new(2_000, 50 * MS).weight(1)]) {
        for concurrency in [1, 2, 3, 7, 10, 50, 200, 1_000] {
            let counts = clients(&pool, concurrency, 10_000, 0.3);
            assert!((950..=1_050).contains(&counts[1]), "{concurrency} at once: {counts:?}");
        }
    }
}

#[test]
fn a_canary_of_one_percent_gets_one_percent() {
    let mut pool = vec![Replica::new(32, 50 * MS).weight(33); 3];
    pool.push(Replica::new(32, 50 * MS).weight(1));
    for pool in both_ways(pool) {
        for concurrency in [1, 4, 16, 64] {
            let counts = clients(&pool, concurrency, 20_000, 0.5);
            assert!((160..=260).contains(&counts[3]), "{concurrency} at once: {counts:?}");
        }
    }
}

#[test]
fn a_canary_keeps_to_its_share_when_the_other_is_full_now_and_then() {
    let pool = vec![Replica::new(8, 50 * MS).weight(99), Replica::new(8, 50 * MS).weight(1)];
    let requests = arrivals(20_000, capacity(&pool[..1]) * 0.8, 0.5, 1);
    let counts = shares(&Sim::new(pool, PINCER, 1).run(&requests), 2);
    assert!((150..=400).contains(&counts[1]), "{counts:?}");
}

#[test]
fn weights_give_way_when_the_favoured_peer_cannot_take_its_share() {
    let pool = vec![Replica::new(8, 50 * MS).weight(9), Replica::new(8, 50 * MS).weight(1)];
    let requests = arrivals(5_000, capacity(&pool) * 0.9, 0.5, 1);
    let times = latencies(&Sim::new(pool, PINCER, 1).run(&requests));
    assert!(quantile(&times, 0.99) < 0.5, "the queue grew although slots were free");
}

#[test]
fn weight_zero_gets_nothing() {
    let pool = vec![Replica::new(4, 50 * MS).weight(0), Replica::new(4, 50 * MS)];
    for pool in both_ways(pool) {
        assert_eq!(clients(&pool, 16, 1_000, 1.0), [0, 1_000]);
    }
}

#[test]
fn peers_of_more_slots_carry_more_in_proportion_under_load() {
    let pool = [Replica::new(12, 50 * MS), Replica::new(4, 50 * MS)];
    let counts = clients(&pool, 12, 8_000, 0.3);
    assert!((5_600..=6_400).contains(&counts[0]), "{counts:?}");
}

#[test]
fn without_a_queue_a_request_that_finds_all_full_is_refused_at_once() {
    let pool = vec![Replica::new(2, 50 * MS); 2];
    let done = Sim::new(pool, NO_QUEUE, 1).run(&arrivals(1_000, 200.0, 0.0, 1));
    assert!(done.iter().filter(|r| r.failed).all(|r| r.latency() == 0));
    assert!((100..900).contains(&done.iter().filter(|r| r.failed).count()));
}
