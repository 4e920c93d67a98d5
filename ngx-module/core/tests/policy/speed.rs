//! How fast: mixed replicas against an oracle, equal ones against least_conn.

use crate::sim::*;

fn gpus_and_cpus(gpu_ns: u64, cpu_ns: u64) -> Vec<Replica> {
    let mut pool = vec![Replica::new(4, gpu_ns); 2];
    pool.extend(vec![Replica::new(2, cpu_ns); 6]);
    pool
}

fn unlimited(pool: &[Replica]) -> Vec<Replica> {
    pool.iter().cloned().map(Replica::unlimited).collect()
}

/// (mean, p99) of `policy` in units of `other`'s, over the same arrivals of three seeds.
fn against(pool: &[Replica], policy: Policy, rivals: &[Replica], rival: Policy, load: f64) -> (f64, f64) {
    let (mut means, mut tails) = ([0.0; 2], [0.0; 2]);
    for seed in 0..3 {
        let requests = arrivals(8_000, capacity(pool) * load, 1.2, seed);
        for (side, (pool, policy)) in [(pool, policy), (rivals, rival)].into_iter().enumerate() {
            let times = latencies(&Sim::new(pool.to_vec(), policy, seed).run(&requests));
            means[side] += mean(&times);
            tails[side] += quantile(&times, 0.99);
        }
    }
    (means[0] / means[1], tails[0] / tails[1])
}

fn against_oracle(pool: &[Replica], load: f64) -> (f64, f64) {
    against(pool, PINCER, pool, Policy::Oracle, load)
}

#[test]
fn two_gpus_and_six_cpus_come_close_to_an_oracle_that_knows_all_backlogs_and_work() {
    for (gpu_ns, cpu_ns) in [(100 * MS, S), (2 * S, 20 * S), (6 * S, 60 * S)] {
        let (mean, p99) = against_oracle(&gpus_and_cpus(gpu_ns, cpu_ns), 0.7);
        assert!(p99 <= 1.36, "{gpu_ns} ns: p99 {p99:.3} of the oracle's");
        assert!(mean <= 1.08, "{gpu_ns} ns: mean {mean:.3} of the oracle's");
    }
}

#[test]
fn a_lightly_loaded_mixed_pool_leaves_its_slow_replicas_idle() {
    // It costs something to look whether they still are slow: 0.6 % of the requests.
    let (mean, p99) = against_oracle(&gpus_and_cpus(100 * MS, S), 0.3);
    assert!(mean <= 1.1 && p99 <= 1.3, "mean {mean:.3}, p99 {p99:.3} of the oracle's");
}

#[test]
fn a_nearly_full_mixed_pool_has_a_better_mean_than_the_oracle_that_is_fair_to_each() {
    let (mean, p99) = against_oracle(&gpus_and_cpus(100 * MS, S), 0.9);
    assert!(mean <= 1.0 && p99 <= 2.3, "mean {mean:.3}, p99 {p99:.3} of the oracle's");
}

#[test]
fn without_max_conns_a_mixed_pool_is_within_a_fifth_of_the_oracle_in_the_mean() {
    let pool = gpus_and_cpus(100 * MS, S);
    let (mean, p99) = against(&unlimited(&pool), PINCER, &pool, Policy::Oracle, 0.7);
    assert!(mean <= 1.2 && p99 <= 1.8, "mean {mean:.3}, p99 {p99:.3} of the oracle's");
}

#[test]
fn equal_replicas_are_no_slower_than_with_least_conn() {
    let pool = vec![Replica::new(4, 100 * MS); 8];
    for load in [0.5, 0.7, 0.9] {
        for side in [pool.clone(), unlimited(&pool)] {
            let (mean, p99) = against(&side, PINCER, &unlimited(&pool), Policy::LeastConn, load);
            assert!(mean <= 1.02 && p99 <= 1.02, "load {load}, max_conns {}: {mean:.3} {p99:.3}", side[0].max_conns);
        }
    }
}
