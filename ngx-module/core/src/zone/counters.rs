//! Counters of the whole zone, as status and metrics show them: one list, which the zone's header
//! is made from, and what the records of a part add to it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter of the whole zone, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name in the status.
    pub name: &'static str,
    /// Its metric's name, without `_total`.
    pub metric: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Its value.
    pub value: u64,
}

/// Counters of the whole zone, each once.
#[derive(Debug, Default)]
pub(super) struct Sums(Vec<Counter>);

impl Sums {
    /// Adds a counter, or its value if it is there already.
    pub fn add(&mut self, counter: Counter) {
        match self.0.iter_mut().find(|sum| sum.name == counter.name) {
            Some(sum) => sum.value = sum.value.wrapping_add(counter.value),
            None => self.0.push(counter),
        }
    }

    /// All of them, in the order in which they came first.
    pub fn into_vec(self) -> Vec<Counter> {
        self.0
    }
}

/// A record of one of the zone's parts. All-zero memory is a valid start: that is its default.
pub(super) trait Record: Default {
    /// Adds the counters that the record has for the whole zone: a part may bring its own, which
    /// status and metrics then show.
    fn add_counters(&self, _sums: &mut Sums) {}
}

/// A word of a part that has no structure of its own.
impl Record for AtomicU64 {}

macro_rules! counters {
    ($($name:ident, $metric:literal, $help:literal;)*) => {
        /// Counters of the whole zone; they only rise, over reloads too.
        #[repr(C, align(64))]
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: AtomicU64,)*
        }

        impl Counters {
            /// How many there are.
            pub const LEN: usize = [$(stringify!($name)),*].len();

            /// All of them, in the order of the list.
            pub fn snapshot(&self) -> [Counter; Self::LEN] {
                [$(Counter {
                    name: stringify!($name),
                    metric: $metric,
                    help: $help,
                    value: self.$name.load(Relaxed),
                }),*]
            }
        }
    };
}

counters! {
    fail_open, "pincer_fail_open", "Requests served by plain weighted balancing because of a fault.";
    faults, "pincer_faults", "Faults caught at the border to nginx.";
    kicks, "pincer_kicks", "Wake-ups sent between workers.";
    collisions, "pincer_collisions", "Claims that lost a slot to another worker and looked again.";
    reclaimed_workers, "pincer_reclaimed_workers", "Worker slots taken back from dead processes.";
    reclaimed_requests, "pincer_reclaimed_requests", "In-flight requests of dead workers taken off their peers.";
    unbalanced, "pincer_unbalanced", "Releases without a claim; not zero is a defect.";
    workers_refused, "pincer_refused_workers", "Workers that found no slot in the zone.";
    purges, "pincer_cache_purges", "Purges of nginx's caches that were run.";
    purged_entries, "pincer_cache_purged_entries", "Cache entries that purges removed.";
    purge_voided, "pincer_cache_purge_voided", "Responses not cached because a purge came while they were fetched.";
    limit_evictions, "pincer_limit_evictions", "Keys of limits forgotten while they still owed, because the table was full.";
    limit_untracked, "pincer_limit_untracked", "Requests that passed a limit unchecked because the table was full.";
    limit_no_room, "pincer_limit_no_room", "Requests refused because those in flight could not be counted.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Dummy(AtomicU64);

    impl Record for Dummy {
        fn add_counters(&self, sums: &mut Sums) {
            let value = self.0.load(Relaxed);
            sums.add(Counter { name: "dummies", metric: "pincer_dummies", help: "Dummies.", value });
        }
    }

    #[test]
    fn what_records_count_is_summed_up_behind_what_the_header_counts() {
        let mut sums = Sums::default();
        Counters::default().snapshot().into_iter().for_each(|counter| sums.add(counter));
        [Dummy(AtomicU64::new(2)), Dummy(AtomicU64::new(3))].iter().for_each(|dummy| dummy.add_counters(&mut sums));
        AtomicU64::new(7).add_counters(&mut sums);
        let all = sums.into_vec();
        assert_eq!(all.len(), Counters::LEN + 1);
        assert_eq!(all.last().map(|counter| (counter.name, counter.value)), Some(("dummies", 5)));
    }
}
