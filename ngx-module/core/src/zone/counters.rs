//! Counters of the whole zone: one list, which status, metrics and the zone's header are made from.

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
