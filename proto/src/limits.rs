//! The bounds of the protocol. Both sides check them: neither trusts the other.

/// Bytes of one gRPC message, in either direction. Fits the largest snapshot with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of one message of a node: a Hello or Stats of all peers that a node may have.
pub const NODE_MESSAGE_BYTES_MAX: usize = 1 << 20;

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

/// The highest `Hello.applied_revision` that is believed: a number that JSON's readers hold
/// exactly, and far from wrapping.
pub const REVISION_MAX: u64 = (1 << 53) - 1;

/// Declared peers of all upstreams of one node.
pub const PEERS_PER_NODE_MAX: usize = 4096;

/// Classes that all nodes declare and operators add, and classes in one snapshot.
pub const CLASSES_MAX: usize = 256;

/// Classes of one node: those it declares and those that operators add.
pub const CLASSES_PER_NODE_MAX: usize = 64;

/// Bytes of a class' name: of `A-Za-z0-9._-`.
pub const CLASS_NAME_BYTES_MAX: usize = 64;

/// The highest `Rate.requests`: one per nanosecond.
pub const RATE_MAX: u32 = 1_000_000_000;

/// The highest `burst`, `delay` but for [`DELAY_NONE`], `concurrency` and `queue`.
pub const CLASS_COUNT_MAX: u32 = 1_000_000;

/// `ClassSettings.delay` of a class that delays no request: nginx's `nodelay`.
pub const DELAY_NONE: u32 = u32::MAX;

/// The highest `bandwidth`, in bytes per second: 1 TiB.
pub const BANDWIDTH_MAX: u64 = 1 << 40;

/// The highest `priority`.
pub const PRIORITY_MAX: u32 = 255;

/// The highest `share`, and the highest sum of all, in percent.
pub const SHARE_MAX: u32 = 100;

/// The longest `queue_timeout`, in milliseconds: a day.
pub const QUEUE_TIMEOUT_MS_MAX: u64 = 86_400_000;

/// Secrets of one snapshot.
pub const KEYS_MAX: usize = 8_192;

/// Bytes of a key's id: of `A-Za-z0-9._-`.
pub const KEY_ID_BYTES_MAX: usize = 63;

/// Bytes of a tenant's name: of `A-Za-z0-9._@-`.
pub const TENANT_BYTES_MAX: usize = 64;

/// Blocks of addresses of one key.
pub const CIDRS_PER_KEY_MAX: usize = 16;

/// Bytes of a block of addresses as text.
pub const CIDR_BYTES_MAX: usize = 49;

/// Hexadecimal digits of a fingerprint: the first of a secret's SHA-256.
pub const FINGERPRINT_DIGITS: usize = 8;

/// Bytes of a cache key's text.
pub const CACHE_KEY_BYTES_MAX: usize = 32 << 10;

/// Bytes of a location's name and of a cache's.
pub const CACHE_PLACE_BYTES_MAX: usize = 1024;

/// The shortest, the longest and the default timeout of a purge, in milliseconds.
pub const PURGE_MS_MIN: u64 = 10;
/// See [`PURGE_MS_MIN`].
pub const PURGE_MS_MAX: u64 = 300_000;
/// See [`PURGE_MS_MIN`].
pub const PURGE_MS_DEFAULT: u64 = 30_000;

/// Purges that a node has in hand at once; another is refused.
pub const PURGES_MAX: usize = 8;
