//! What other features keep in the zone, and what they do in a worker's life: registered while they
//! are configured, called in the order of the modules.

use super::slab::Slab;
use crate::conf::ConfError;
use pincer_core::zone::{WorkerIdx, Zone};
use std::ops::Add;

/// Records of the zone, by kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) upstreams: usize,
    pub(crate) peers: usize,
    pub(crate) classes: usize,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            upstreams: self.upstreams + other.upstreams,
            peers: self.peers + other.peers,
            classes: self.classes + other.classes,
        }
    }
}

/// What a feature keeps in the zone.
pub(crate) trait Part {
    /// The records that nginx.conf declares.
    fn declared(&self) -> Counts;

    /// Those of them that `zone` does not have yet.
    fn missing(&self, zone: &Zone<'_>) -> Counts;

    /// Finds or makes the records, in the master, when a configuration comes into force.
    fn reserve(&self, zone: &'static Zone<'static>, slab: Slab) -> Result<(), ConfError>;

    /// Makes them what nginx.conf says, once all are reserved and those of older configurations
    /// that nobody uses are gone.
    fn configure(&self, zone: &'static Zone<'static>, slab: Slab) -> Result<(), ConfError>;
}

/// What a feature does in a worker's life.
pub(crate) trait WorkerPart {
    /// The worker has a slot in the zone.
    fn joined(&'static self, _worker: WorkerIdx) {}

    /// Once a second, with a slot or without.
    fn each_second(&'static self) {}

    /// Another worker has woken this one.
    fn woken(&'static self) {}

    /// Slots of peers may have come free from anywhere.
    fn slots_changed(&'static self, _zone: &'static Zone<'static>) {}

    /// The process ends; the worker still has its slot, if it ever had one.
    fn leaving(&'static self) {}
}
