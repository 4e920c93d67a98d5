//! Two simulated yardsticks on a round's own trace: an oracle, and the best policy that cannot see
//! sizes.
//!
//! The oracle knows every backlog and every request's work and sends each arrival where it would
//! finish first (central greedy, earliest completion). The blind policy knows only each replica's
//! mean. It has one central queue, first in first out. The head of the queue takes a slow free
//! replica only when waiting for a faster one would cost more: a threshold rule, which is optimal
//! for two classes of servers (Lin and Kumar 1984). The threshold is the best of a grid for this
//! trace, chosen with hindsight.
//!
//! Both are ideal: no network, no proxy, no rounding. Cost: O(requests × replicas) per policy.
//! Bound: the trace's length.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::pool::Pool;
use crate::trace::Arrival;

/// Thresholds tried for the blind policy. 0 takes every free slot; infinity never takes a slow one
/// while a faster one exists.
const THRESHOLDS: [f64; 9] = [0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, f64::INFINITY];

/// A free replica counts as slower than another when its mean is over this factor of the other's.
const SLOWER: f64 = 1.25;

/// Latency of each arrival under the oracle, in the trace's order.
pub fn greedy(trace: &[Arrival], pool: &Pool) -> Vec<Duration> {
    let mut free_at: Vec<BinaryHeap<Reverse<Duration>>> =
        pool.0.iter().map(|r| vec![Reverse(Duration::ZERO); r.slots].into()).collect();
    trace.iter().map(|arrival| place_where_it_ends_first(arrival, pool, &mut free_at)).collect()
}

fn place_where_it_ends_first(
    arrival: &Arrival,
    pool: &Pool,
    free_at: &mut [BinaryHeap<Reverse<Duration>>],
) -> Duration {
    let finish = |replica: usize, free: &BinaryHeap<Reverse<Duration>>| {
        let start = free.peek().map_or(arrival.at, |slot| slot.0.max(arrival.at));
        start + pool.0[replica].mean.mul_f64(arrival.work)
    };
    let best = free_at.iter().enumerate().map(|(i, free)| (finish(i, free), i)).min();
    let Some((end, replica)) = best else { return Duration::ZERO };
    free_at[replica].pop();
    free_at[replica].push(Reverse(end));
    end - arrival.at
}

/// Latency of each arrival under the best blind policy of the grid, in the trace's order.
pub fn blind(trace: &[Arrival], pool: &Pool) -> Vec<Duration> {
    let runs = THRESHOLDS.iter().map(|&threshold| Central::new(trace, pool, threshold).run());
    runs.min_by_key(|latencies| latencies.iter().sum::<Duration>()).unwrap_or_default()
}

/// One simulated run of the central queue with a threshold.
struct Central<'a> {
    trace: &'a [Arrival],
    pool: &'a Pool,
    threshold: f64,
    /// Busy slots of each replica.
    busy: Vec<usize>,
    /// (end, replica) of what is being served.
    ends: BinaryHeap<Reverse<(Duration, usize)>>,
    queue: VecDeque<usize>,
    latencies: Vec<Duration>,
}

impl<'a> Central<'a> {
    fn new(trace: &'a [Arrival], pool: &'a Pool, threshold: f64) -> Self {
        Central {
            trace,
            pool,
            threshold,
            busy: vec![0; pool.0.len()],
            ends: BinaryHeap::new(),
            queue: VecDeque::new(),
            latencies: vec![Duration::ZERO; trace.len()],
        }
    }

    fn run(mut self) -> Vec<Duration> {
        for (index, arrival) in self.trace.iter().enumerate() {
            self.serve_until(arrival.at);
            self.queue.push_back(index);
            self.dispatch(arrival.at);
        }
        self.serve_until(Duration::MAX);
        self.latencies
    }

    fn serve_until(&mut self, now: Duration) {
        while let Some(&Reverse((end, replica))) = self.ends.peek() {
            if end > now {
                return;
            }
            self.ends.pop();
            self.busy[replica] -= 1;
            self.dispatch(end);
        }
    }

    fn dispatch(&mut self, now: Duration) {
        while let Some(&head) = self.queue.front() {
            let Some(replica) = self.choose() else { return };
            self.queue.pop_front();
            let end = now + self.pool.0[replica].mean.mul_f64(self.trace[head].work);
            self.busy[replica] += 1;
            self.ends.push(Reverse((end, replica)));
            self.latencies[head] = end - self.trace[head].at;
        }
    }

    /// The replica that the head of the queue should take now, if any is worth taking.
    fn choose(&self) -> Option<usize> {
        let replicas = &self.pool.0;
        let free = (0..replicas.len())
            .filter(|&i| self.busy[i] < replicas[i].slots)
            .min_by_key(|&i| (replicas[i].mean, self.busy[i]))?;
        let free_s = replicas[free].mean.as_secs_f64();
        let faster = replicas.iter().filter(|r| r.mean.as_secs_f64() * SLOWER < free_s);
        let (mut drain_per_s, mut least_s) = (0.0, f64::INFINITY);
        for replica in faster {
            drain_per_s += replica.slots as f64 / replica.mean.as_secs_f64();
            least_s = replica.mean.as_secs_f64().min(least_s);
        }
        let wait_s = self.queue.len() as f64 / drain_per_s;
        (drain_per_s == 0.0 || wait_s >= self.threshold * (free_s - least_s)).then_some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Shape, draw};

    fn at(ms: u64, work: f64) -> Arrival {
        Arrival { at: Duration::from_millis(ms), work, class: None }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_oracle_queues_behind_a_fast_replica_when_that_ends_sooner() {
        let pool = Pool::of(&[(1, 1, SECOND), (1, 1, SECOND * 3)]);
        let latencies = greedy(&[at(0, 1.0), at(0, 1.0), at(0, 1.0)], &pool);
        assert_eq!(latencies, [SECOND, SECOND * 2, SECOND * 3]);
    }

    #[test]
    fn the_blind_policy_leaves_a_slow_replica_idle_when_waiting_is_cheaper() {
        let pool = Pool::of(&[(1, 1, SECOND), (1, 1, SECOND * 10)]);
        let latencies = blind(&[at(0, 1.0), at(0, 1.0)], &pool);
        assert_eq!(latencies, [SECOND, SECOND * 2]);
    }

    #[test]
    fn equal_replicas_make_a_plain_central_queue() {
        let pool = Pool::of(&[(2, 1, SECOND)]);
        let latencies = blind(&[at(0, 1.0), at(0, 2.0), at(0, 1.0)], &pool);
        assert_eq!(latencies, [SECOND, SECOND * 2, SECOND * 2]);
    }

    #[test]
    fn seeing_sizes_and_backlogs_is_never_worse_on_the_main_pool() {
        let pool = Pool::of(&[(2, 4, Duration::from_millis(100)), (6, 2, SECOND)]);
        let rate_per_s = 0.7 * pool.capacity_per_s();
        let trace = draw(Shape { rate_per_s, span: SECOND * 300, work_cv: 1.2, vip_part: None }, 3).unwrap();
        let total = |latencies: Vec<Duration>| latencies.iter().sum::<Duration>();
        assert!(total(greedy(&trace, &pool)) < total(blind(&trace, &pool)));
    }
}
