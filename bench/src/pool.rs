//! The replicas of a scenario: slots, mean service time, and the capacity that follows from them.
//!
//! Pure values. A pool is built once per scenario and given to every contender and to the oracle
//! alike.

use std::time::Duration;

/// One replica: `slots` requests at a time, each for `mean` times its work.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaSpec {
    /// Requests served at once; further ones wait inside the replica, first in first out.
    pub slots: usize,
    /// Service time of a request whose work is 1.
    pub mean: Duration,
}

/// The replicas of one scenario, in the order in which the contenders' configurations list them.
#[derive(Clone, Debug)]
pub struct Pool(pub Vec<ReplicaSpec>);

impl Pool {
    /// `groups` lists (number of replicas, slots of each, mean service time).
    pub fn of(groups: &[(usize, usize, Duration)]) -> Self {
        let replicas = groups.iter().flat_map(|&(count, slots, mean)| vec![ReplicaSpec { slots, mean }; count]);
        Pool(replicas.collect())
    }

    /// Requests per second that the pool can serve at most.
    pub fn capacity_per_s(&self) -> f64 {
        self.0.iter().map(|r| r.slots as f64 / r.mean.as_secs_f64()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_slots_over_service_time_summed() {
        let pool = Pool::of(&[(2, 4, Duration::from_millis(100)), (6, 2, Duration::from_secs(1))]);
        assert!((pool.capacity_per_s() - 92.0).abs() < 1e-9);
    }
}
