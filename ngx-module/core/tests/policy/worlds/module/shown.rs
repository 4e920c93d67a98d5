//! What the zone shows from outside: the status page's numbers.

use std::sync::atomic::Ordering::Relaxed;

use super::super::world::EVER;
use super::{Module, clock};
use pincer_core::breaker::State;

/// What the zone shows of a replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    pub is_there: bool,
    pub in_flight: u32,
    pub slots: u32,
    pub max_conns: u32,
    pub is_closed: bool,
    pub service_ns: u64,
}

impl Module<'_> {
    /// What the zone shows of each of the world's replicas.
    pub fn shown(&self, replicas: usize, at: u64) -> Vec<Shown> {
        let nothing = Shown { is_there: false, in_flight: 0, slots: 0, max_conns: 0, is_closed: true, service_ns: 0 };
        let mut shown = vec![nothing; replicas];
        for peer in self.zone.snapshot(clock(at)).upstreams.into_iter().flat_map(|upstream| upstream.peers) {
            let index: usize = peer.name[1..].parse().unwrap();
            shown[index] = Shown {
                is_there: true,
                in_flight: peer.in_flight,
                slots: peer.slots,
                max_conns: peer.max_conns,
                is_closed: peer.breaker == State::Closed,
                service_ns: peer.service_ns,
            };
        }
        shown
    }

    /// Requests in flight and waiting as the zone counts them, and releases of slots that nobody
    /// held.
    pub fn left_over(&self) -> (u32, u32, u64) {
        let snapshot = self.zone.snapshot(clock(EVER / 2));
        let unbalanced = self.zone.header.counters.unbalanced.load(Relaxed);
        let workers = || snapshot.workers.iter();
        let in_flight: u32 = workers().map(|worker| worker.in_flight).sum();
        (in_flight + self.leaked, workers().map(|worker| worker.waiting).sum(), unbalanced)
    }
}
