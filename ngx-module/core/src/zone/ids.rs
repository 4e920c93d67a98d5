//! The places of workers, upstreams and peers in the zone.

/// Worker processes that may share the zone at once: those of the running configuration and of
/// older ones that still drain.
#[cfg(not(loom))]
pub const WORKERS_MAX: usize = 128;
/// See above.
#[cfg(loom)]
pub const WORKERS_MAX: usize = 3;

/// A worker's place in the zone, from [`super::Zone::worker_join`] until it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIdx(pub u16);

/// An upstream's place in [`super::Zone::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamIdx(pub u16);

/// A peer's place in [`super::Zone::peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdx(pub u16);
