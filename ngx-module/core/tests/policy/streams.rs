//! Streams: the first token counts, the slot is held to the end.

use crate::sim::*;

fn pool() -> Vec<Replica> {
    [100 * MS, 100 * MS, 4 * S].map(|first_ns| Replica::streaming(1_000, first_ns, 6 * S)).to_vec()
}

fn p90_to_first(pool: Vec<Replica>, per_s: f64, learns_at_signal: bool) -> f64 {
    let mut sim = Sim::new(pool, PINCER, 1);
    sim.learns_at_signal = learns_at_signal;
    let done = sim.run(&arrivals((per_s * 30.0) as usize, per_s, 0.0, 1));
    quantile(&done.iter().map(Request::to_first).collect::<Vec<_>>(), 0.9)
}

#[test]
fn streams_go_where_the_first_token_comes_soon_with_and_without_max_conns() {
    for per_s in [3.0, 10.0, 40.0] {
        for pool in [pool(), pool().into_iter().map(Replica::unlimited).collect()] {
            let p90 = p90_to_first(pool, per_s, true);
            assert!(p90 <= 0.2, "{per_s} a second: {p90} s");
        }
    }
}

#[test]
fn learning_the_first_token_only_at_the_end_of_the_stream_sends_the_first_ones_astray() {
    let unlimited: Vec<Replica> = pool().into_iter().map(Replica::unlimited).collect();
    let slow = |learns_at_signal| {
        let mut sim = Sim::new(unlimited.clone(), PINCER, 1);
        sim.learns_at_signal = learns_at_signal;
        shares(&sim.run(&arrivals(300, 10.0, 0.0, 1)), 3)[2]
    };
    assert!(slow(true) <= 8 && slow(false) > slow(true), "{} at the token, {} at the end", slow(true), slow(false));
}

#[test]
fn streams_spread_evenly_over_peers_of_like_first_token() {
    let pool = vec![Replica::streaming(1_000, 100 * MS, 6 * S).unlimited(); 4];
    let counts = shares(&Sim::new(pool, PINCER, 1).run(&arrivals(2_000, 40.0, 0.5, 1)), 4);
    assert!(counts.iter().all(|n| (450..=550).contains(n)), "{counts:?}");
}

#[test]
fn a_full_fast_peer_is_waited_for_by_its_drain_rate_and_not_by_its_first_token() {
    // slots are held for 6.1 s: the two fast ones drain 20 / 6.1 a second, so a queue of three
    // costs about a second; the slow one costs 3.9 s more
    let pool: Vec<Replica> =
        [100 * MS, 100 * MS, 4 * S].map(|first_ns| Replica::streaming(10, first_ns, 6 * S)).to_vec();
    let done = Sim::new(pool, PINCER, 1).run(&arrivals(1_000, 3.0, 0.0, 1));
    let times: Vec<u64> = done.iter().map(Request::to_first).collect();
    assert!(mean(&times) < 1.5, "mean {:.2}", mean(&times));
    assert!(shares(&done, 3)[2] < 250, "{:?}", shares(&done, 3));
}
