//! Replicas that fail, hang, slow down, heal, come and go.

use crate::sim::*;
use pincer_core::pick::Why;

fn within(done: &[Request], from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Request> {
    done.iter().filter(move |r| (START + from_ns..START + to_ns).contains(&r.arrived))
}

fn four(max_conns: bool) -> Vec<Replica> {
    let replica = Replica::new(4, 100 * MS);
    vec![if max_conns { replica } else { replica.unlimited() }; 4]
}

#[test]
fn a_replica_slow_for_ten_seconds_has_its_share_back_within_fifteen() {
    for (slow, per_s, max_conns) in
        [(4.0, 20.0, true), (10.0, 50.0, true), (40.0, 100.0, true), (4.0, 50.0, false), (10.0, 20.0, false)]
    {
        for cv in [0.0, 0.5] {
            let mut pool = four(max_conns);
            pool[2] = pool[2].clone().act(20 * S, Act::Serve(slow)).act(30 * S, Act::Serve(1.0));
            let done = Sim::new(pool, PINCER, 1).run(&arrivals((per_s * 60.0) as usize, per_s, cv, 1));
            let counts = shares(within(&done, 45 * S, 60 * S), 4);
            let fair = counts.iter().sum::<usize>() / 4;
            assert!(counts[2] * 10 >= fair * 8, "{slow} times slower, {per_s} a second, cv {cv}: {counts:?}");
        }
    }
}

#[test]
fn a_replica_that_is_slow_loses_its_share_while_it_is() {
    let mut pool = four(true);
    pool[2] = pool[2].clone().act(20 * S, Act::Serve(10.0));
    let done = Sim::new(pool, PINCER, 1).run(&arrivals(4_000, 80.0, 0.5, 1));
    let counts = shares(within(&done, 30 * S, 50 * S), 4);
    assert!(counts[2] * 33 < counts.iter().sum::<usize>(), "{counts:?}");
}

#[test]
fn exploring_takes_at_most_one_request_in_a_hundred() {
    let mut pool = vec![Replica::new(4, 100 * MS); 2];
    pool.extend(vec![Replica::new(2, S); 6]);
    for load in [0.2, 0.5, 0.7] {
        let done = Sim::new(pool.clone(), PINCER, 1).run(&arrivals(10_000, capacity(&pool) * load, 1.2, 1));
        let explored = done.iter().filter(|r| r.why == Why::Explore).count();
        assert!((1..=100).contains(&explored), "{explored} of 10,000");
    }
}

/// Part of the requests that fail while one of four replicas answers an error after 5 ms, from 20 s
/// for 20 s.
fn part_failed(tries: u32, max_conns: bool, seed: u64) -> f64 {
    let mut pool = four(max_conns);
    pool[3] = pool[3].clone().act(20 * S, Act::Fail(5 * MS)).act(40 * S, Act::Serve(1.0));
    let mut sim = Sim::new(pool, PINCER, seed);
    sim.tries = tries;
    let done = sim.run(&arrivals(3_000, 60.0, 0.5, seed));
    let all = within(&done, 20 * S, 40 * S).count();
    within(&done, 20 * S, 40 * S).filter(|r| r.failed).count() as f64 / all as f64
}

#[test]
fn a_replica_that_fails_at_once_is_seen_by_few_without_retry_and_by_none_with_one() {
    for seed in 0..3 {
        for max_conns in [true, false] {
            let part = part_failed(1, max_conns, seed);
            assert!(part > 0.0 && part <= 0.015, "seed {seed}: {part:.4}");
            assert!(part_failed(2, max_conns, seed) == 0.0);
        }
    }
}

#[test]
fn a_replica_that_failed_and_is_well_again_gets_its_share_back() {
    let mut pool = four(true);
    pool[3] = pool[3].clone().act(10 * S, Act::Fail(5 * MS)).act(15 * S, Act::Serve(1.0));
    let done = Sim::new(pool, PINCER, 1).run(&arrivals(3_000, 60.0, 0.5, 1));
    let counts = shares(within(&done, 30 * S, 50 * S), 4);
    assert!(counts[3] * 4 * 10 >= counts.iter().sum::<usize>() * 8, "{counts:?}");
}

#[test]
fn when_every_replica_fails_requests_still_go_out_to_find_the_first_that_is_well() {
    let pool: Vec<Replica> =
        four(true).into_iter().map(|r| r.act(10 * S, Act::Fail(5 * MS)).act(20 * S, Act::Serve(1.0))).collect();
    let done = Sim::new(pool, PINCER, 1).run(&arrivals(2_000, 60.0, 0.5, 1));
    assert!(done.iter().all(|r| r.peer < 4), "a request found no peer");
    assert!(within(&done, 21 * S, 40 * S).all(|r| !r.failed));
}

#[test]
fn a_hang_is_noticed_by_its_age_before_any_request_has_ended() {
    for max_conns in [true, false] {
        let mut pool = four(max_conns);
        pool[1] = pool[1].clone().act(20 * S, Act::Hang(60 * S));
        let done = Sim::new(pool, PINCER, 1).run(&arrivals(3_000, 60.0, 1.2, 1));
        let hung = done.iter().filter(|r| r.failed).count();
        assert!(hung <= 8, "{hung} requests hung");
    }
}

#[test]
fn a_hanging_fast_replica_does_not_make_the_queue_wait_for_it() {
    let mut pool = vec![Replica::new(4, 100 * MS).act(20 * S, Act::Hang(60 * S)); 1];
    pool.extend(vec![Replica::new(4, S); 3]);
    let done = Sim::new(pool, PINCER, 1).run(&arrivals(600, 10.0, 0.5, 1));
    let late: Vec<u64> = within(&done, 20 * S, 60 * S).filter(|r| !r.failed).map(Request::latency).collect();
    assert!(quantile(&late, 0.99) < 5.0, "p99 {}", quantile(&late, 0.99));
}

#[test]
fn a_new_peer_ramps_up_and_then_has_its_share() {
    for slow_start_ns in [0, 10 * S] {
        let mut pool = vec![Replica::new(16, 100 * MS); 4];
        pool[3].joins_ns = 20 * S;
        let mut sim = Sim::new(pool, PINCER, 1);
        sim.slow_start_ns = slow_start_ns;
        let done = sim.run(&arrivals(24_000, 400.0, 0.3, 1));
        let part = |from, to| {
            let counts = shares(within(&done, from, to), 4);
            counts[3] as f64 / counts.iter().sum::<usize>() as f64
        };
        assert_eq!(part(0, 20 * S), 0.0);
        assert!(part(20 * S, 20 * S + 200 * MS) < 0.15, "{}", part(20 * S, 20 * S + 200 * MS));
        if slow_start_ns > 0 {
            assert!(part(21 * S, 23 * S) < 0.2, "{}", part(21 * S, 23 * S));
        }
        assert!((0.2..0.3).contains(&part(40 * S, 60 * S)), "{}", part(40 * S, 60 * S));
    }
}

#[test]
fn a_backup_serves_only_while_no_primary_is_eligible() {
    let mut pool = vec![Replica::new(4, 100 * MS).act(20 * S, Act::Fail(5 * MS)).act(30 * S, Act::Serve(1.0)); 2];
    pool.push(Replica { backup: true, ..Replica::new(8, 100 * MS) });
    let mut sim = Sim::new(pool, PINCER, 1);
    sim.tries = 3;
    let done = sim.run(&arrivals(2_400, 40.0, 0.3, 1));
    assert_eq!(shares(within(&done, 0, 20 * S), 3)[2], 0);
    assert!(shares(within(&done, 22 * S, 29 * S), 3)[2] > 200);
    assert_eq!(shares(within(&done, 45 * S, 60 * S), 3)[2], 0);
    assert!(done.iter().all(|r| !r.failed));
}
