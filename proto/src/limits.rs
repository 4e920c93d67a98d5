//! The bounds of the protocol. Both sides check them: neither trusts the other.

/// Bytes of one gRPC message, in either direction. Fits the largest snapshot with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of one encoded `Snapshot`; a change that would go past it is refused.
pub const SNAPSHOT_BYTES_MAX: usize = 1 << 20;

/// Upstreams that one node declares, and upstreams in one snapshot.
pub const UPSTREAMS_MAX: usize = 256;

/// Peers of one upstream, declared and added together.
pub const PEERS_PER_UPSTREAM_MAX: usize = 128;

/// Bytes of an upstream's name. It holds no `/`, white space or control character.
pub const UPSTREAM_NAME_BYTES_MAX: usize = 255;

/// Bytes of a peer's address: `unix:` and the 107 that `sun_path` holds.
pub const ADDRESS_BYTES_MAX: usize = 112;

/// Bytes of a node's name: a host name's.
pub const NODE_NAME_BYTES_MAX: usize = 253;

/// Bytes of `Hello.instance_id`.
pub const INSTANCE_ID_BYTES_MAX: usize = 64;

/// Bytes of a version, and of a `server` line's address as written.
pub const TEXT_BYTES_MAX: usize = 255;

/// Bytes of the message in a `Nack`; what is longer is cut.
pub const ERROR_BYTES_MAX: usize = 1024;

/// The highest `weight` and `max_conns`.
pub const PEER_VALUE_MAX: u32 = 65_535;

/// The highest `Hello.applied_revision` that is believed: a number that JSON's readers hold exactly, and far from wrapping.
pub const REVISION_MAX: u64 = (1 << 53) - 1;

/// Declared peers of all upstreams of one node.
pub const PEERS_PER_NODE_MAX: usize = 4096;
