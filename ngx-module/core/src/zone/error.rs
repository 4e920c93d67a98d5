//! What can be wrong with a configuration or an overlay: the value, the need and the place.
//!
//! Raised only before anything is changed; never on the request path, so they own their strings.

use super::Layout;
use super::keys::KeysError;

/// A configuration from nginx.conf cannot be put into the zone. The operator's doing: nginx.conf or
/// the zone's size must change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// A name is empty or longer than its field.
    #[error("name {name:?} of {bytes} bytes, 1 to {max} are allowed for {what}")]
    Name {
        /// The kind of name: `an upstream`, `a peer`.
        what: &'static str,
        /// The name, cut to 64 bytes.
        name: String,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
    /// No upstream record is free.
    #[error("upstream {name:?} has no room in the zone of {have} upstreams, it needs {}k", Layout::size_kib(*need_bytes))]
    UpstreamsFull {
        /// The upstream that found no room.
        name: String,
        /// Upstream records in the zone.
        have: usize,
        /// Bytes of records that would do.
        need_bytes: usize,
    },
    /// Too few peer records are free.
    #[error("upstream {upstream:?} needs {need} new peers, {free} of {have} are free, the zone needs {}k", Layout::size_kib(*need_bytes))]
    PeersFull {
        /// The upstream that found no room.
        upstream: String,
        /// Peer records it needs on top of those it has.
        need: usize,
        /// Peer records that are free.
        free: usize,
        /// Peer records in the zone.
        have: usize,
        /// Bytes of records that would do.
        need_bytes: usize,
    },
    /// An upstream has more peers than one may have.
    #[error("upstream {upstream:?} has {have} peers, at most {max} are allowed")]
    TooManyPeers {
        /// The upstream.
        upstream: String,
        /// Peers it would have.
        have: usize,
        /// Peers it may have.
        max: usize,
    },
    /// A number of a peer is out of range.
    #[error("{what} {value} of peer {peer:?} in upstream {upstream:?}, {min} to {max} are allowed")]
    Range {
        /// `weight` or `max_conns`, or `address length`.
        what: &'static str,
        /// The value given.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
        /// The peer's name.
        peer: String,
        /// The upstream's name.
        upstream: String,
    },
    /// No class record is free.
    #[error("class {name:?} has no room in the zone of {have} classes, it needs {}k", Layout::size_kib(*need_bytes))]
    ClassesFull {
        /// The class that found no room.
        name: String,
        /// Class records in the zone.
        have: usize,
        /// Bytes of records that would do.
        need_bytes: usize,
    },
    /// More classes than a zone may have.
    #[error("{have} classes are declared, at most {max} are allowed")]
    TooManyClasses {
        /// Classes declared, or those and what is added at run time.
        have: usize,
        /// Classes allowed.
        max: usize,
    },
    /// A class is named twice.
    #[error("class {class:?} is given twice")]
    DuplicateClass {
        /// The class.
        class: String,
    },
    /// A number of a class is out of range.
    #[error("{what} {value} of class {class:?}, 0 to {max} are allowed")]
    ClassRange {
        /// `rate`, `burst` and so on.
        what: &'static str,
        /// The value given.
        value: u64,
        /// The most allowed.
        max: u64,
        /// The class.
        class: String,
    },
    /// The shares that are set promise more than there is.
    #[error("the shares of all classes are {sum} % together, at most 100 % are allowed")]
    ShareSum {
        /// Their sum, in percent.
        sum: u32,
    },
    /// The index is not one of this zone's, or its class is gone.
    #[error("class number {index} is not in the zone")]
    NoSuchClass {
        /// The index given.
        index: u16,
    },
    /// The index is not one of this zone's, or its upstream is gone.
    #[error("upstream number {index} is not in the zone")]
    NoSuchUpstream {
        /// The index given.
        index: u16,
    },
}

/// A revision of the control plane is refused as a whole; the zone is as before. The control
/// plane's doing, or the zone's size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// Revisions only rise.
    #[error("revision {got} is lower than {have}, which is in force")]
    Revision {
        /// Revision in force.
        have: u64,
        /// Revision offered.
        got: u64,
    },
    /// More upstreams than a revision may name.
    #[error("the revision names {have} upstreams, at most {max} are allowed")]
    TooManyUpstreams {
        /// Upstreams named.
        have: usize,
        /// Upstreams allowed.
        max: usize,
    },
    /// More classes than a revision may name.
    #[error("the revision names {have} classes, at most {max} are allowed")]
    TooManyClasses {
        /// Classes named.
        have: usize,
        /// Classes allowed.
        max: usize,
    },
    /// An upstream is named twice.
    #[error("upstream {upstream:?} is given twice")]
    DuplicateUpstream {
        /// The upstream.
        upstream: String,
    },
    /// A peer is named twice in one upstream.
    #[error("peer {peer:?} is given twice in upstream {upstream:?}")]
    DuplicatePeer {
        /// The peer.
        peer: String,
        /// The upstream.
        upstream: String,
    },
    /// What a configuration would be refused for, too: names, ranges, counts, room.
    #[error(transparent)]
    Content(#[from] ZoneError),
    /// The API keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl OverlayError {
    /// Whether the content itself is at fault, so that every node must refuse it; otherwise it may
    /// fit another time or place.
    pub fn is_invalid(&self) -> bool {
        if let Self::Keys(error) = self {
            return !error.is_room();
        }
        !matches!(
            self,
            Self::Revision { .. }
                | Self::Content(
                    ZoneError::PeersFull { .. }
                        | ZoneError::UpstreamsFull { .. }
                        | ZoneError::ClassesFull { .. }
                        | ZoneError::NoSuchUpstream { .. }
                )
        )
    }
}

/// A name as it may stand in a message: valid UTF-8, at most 64 bytes of it.
pub(super) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()
}
