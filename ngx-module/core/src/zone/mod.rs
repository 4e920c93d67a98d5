//! The zone: everything that workers share, as plain structs of atomics over memory that someone
//! else maps.
//!
//! Zeroed memory plus [`Header::init`] is a valid zone, and every single store leaves it valid, so
//! a process may die between any two of them. The request path (claim, release, queue) takes no
//! lock and allocates nothing; structural changes (configuration, overlay) are made by one process
//! at a time: the caller sees to that, under nginx's slab mutex. Knows no clock and no memory map.
//! Cost: per operation in the submodules. Bound: [`WORKERS_MAX`] worker processes,
//! [`crate::pick::PEERS_MAX`] peers per upstream, and as many upstreams and peers as [`Layout`]
//! finds room for.

mod array;
mod beside;
mod blame;
mod bodies;
mod bytes;
mod cells;
mod changes;
mod claim;
mod class;
mod class_counts;
mod classes;
mod configure;
mod counters;
mod counts;
mod error;
mod failing;
mod feed;
mod fences;
mod header;
mod heap;
mod ids;
mod keys;
mod layout;
mod limits;
#[cfg(all(test, loom))]
mod limits_loom;
mod link;
mod lookup;
mod mutes;
mod overflow;
mod overlay;
mod parts;
mod peer;
mod plan;
mod queue;
#[cfg(all(test, not(loom)))]
mod queue_model;
mod rates;
mod records;
mod seats;
mod snapshot;
mod ticket;
mod upstream;
mod view;
mod worker;
mod workers;

pub use bodies::{Bodies, BodiesSnapshot, CACHE_STATUSES};
pub use bytes::Bytes;
pub use cells::{CELLS, QueueClass};
pub use changes::{Change, Changes, Switch};
pub use claim::{Claim, Claimed};
pub use class::{CLASSES_MAX, Class, ClassIdx, QueueRule};
pub use classes::{ClassOverlay, ClassSpec, check_classes};
pub use configure::{PeerSpec, Room, Settings, check_declared};
pub use counters::{Counter, Counters};
pub use error::{OverlayError, ZoneError};
pub use failing::{FAILING, Fingerprint};
pub use fences::{FENCES, FenceKey, Fences};
pub use header::Header;
pub use heap::HeapZone;
pub use ids::{PeerIdx, UpstreamIdx, WORKERS_MAX, WorkerIdx};
pub use keys::{Cidr, KEY_CIDRS_MAX, KEY_NAME_MAX, KEYS_MAX, KeyExpiry, KeyName, KeySpec, KeyVerdict, KeysError};
pub use layout::{Layout, TooSmall};
pub use limits::{Check, Held, Holds, LIMITS_MAX, Limited, Reason, Verdict};
pub use link::{Connection, ConnectionState, LINK_ERROR_BYTES_MAX, Link, PULSE_NS_MAX, StateFile};
pub use overlay::{Overlay, PeerOverlay, UpstreamOverlay};
pub use parts::{Extent, Memory, Parts, Zone};
pub use peer::{MAX_CONNS_MAX, NAME_MAX, Peer, PeerState, SOCKADDR_MAX, WEIGHT_MAX, WHYS};
pub use plan::{Plan, Quick};
pub use queue::{Place, Refused, Turn};
pub use rates::RateSet;
pub use seats::SeatSet;
pub use snapshot::{ClassSnapshot, PeerSnapshot, UpstreamSnapshot, WorkerSnapshot, ZoneSnapshot};
pub use ticket::{BalanceParams, Outcome, Signal, Ticket};
pub use upstream::Upstream;
pub use worker::{ProcessId, Reclaimed, WorkerSlot};
