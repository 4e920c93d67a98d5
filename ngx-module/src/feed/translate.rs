//! Checks a snapshot and puts it into the zone's words. The control plane is not trusted: any fault
//! refuses the whole revision.
//!
//! Checked here: counts, names, the spelling of addresses, numbers, states, and that an added peer
//! lies within `pincer_allow_peers` unless nginx.conf declares it. A Unix socket is never added.
//! What names an upstream that this nginx does not have is checked for its form only, since another
//! node may allow what this one does not. Classes and API keys are checked likewise. Duplicates,
//! room and the order of revisions are the zone's to check. Pure, no I/O. Cost: one pass. Bound:
//! [`limits::UPSTREAMS_MAX`] upstreams of [`limits::PEERS_PER_UPSTREAM_MAX`] peers,
//! [`limits::CLASSES_MAX`] classes, [`limits::KEYS_MAX`] keys.

mod class;
mod key;
mod shown;

use std::collections::{HashMap, HashSet};

use arrayvec::ArrayVec;
use pincer_core::address::{Address, AddressError, SOCKADDR_BYTES_MAX};
use pincer_core::zone::{self, ClassOverlay, KeySpec, Overlay, PeerOverlay, UpstreamOverlay};
use pincer_proto::limits;
use pincer_proto::v1::{DeclaredUpstream, PeerConfig, PeerState, Snapshot, UpstreamConfig};

pub(crate) use class::ClassFault;
pub(crate) use key::{KeyFault, Now};

use crate::conf::control::Cidr;
use shown::shown;

/// Why a snapshot is refused. The control plane's fault, or of the operator who allows less than
/// they add.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The number is none that a control plane gives.
    #[error("revision {0} is out of range, 1 to {max} is needed", max = limits::REVISION_MAX)]
    Revision(u64),
    /// Too many upstreams.
    #[error("{0} upstreams are too many, at most {max} are allowed", max = limits::UPSTREAMS_MAX)]
    Upstreams(usize),
    /// No name that an upstream can have.
    #[error("upstream name {given:?} of {bytes} bytes is invalid, {need}", need = NAME_NEED)]
    UpstreamName {
        /// The name, cut.
        given: String,
        /// Its length.
        bytes: usize,
    },
    /// Too many peers.
    #[error("{have} peers in upstream {upstream:?} are too many, at most {max} are allowed", max = limits::PEERS_PER_UPSTREAM_MAX)]
    Peers {
        /// The upstream.
        upstream: String,
        /// Its peers.
        have: usize,
    },
    /// Something is wrong with one peer.
    #[error("{what} of peer {peer:?} in upstream {upstream:?}")]
    Peer {
        /// The upstream.
        upstream: String,
        /// The peer's address, cut.
        peer: String,
        /// What it is.
        what: PeerFault,
    },
    /// Something is wrong with the classes.
    #[error(transparent)]
    Class(#[from] ClassFault),
    /// Something is wrong with the API keys.
    #[error(transparent)]
    Key(#[from] KeyFault),
}

/// What can be wrong with a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerFault {
    /// Its address.
    #[error("{0}: the address")]
    Address(#[from] AddressError),
    /// A number.
    #[error("{name} {value} is out of range, 0 to {max} is needed: the {name}", max = limits::PEER_VALUE_MAX)]
    Value {
        /// `weight` or `max_conns`.
        name: &'static str,
        /// What was given.
        value: u32,
    },
    /// The state is none of those known.
    #[error("state {0} is unknown, 0 to 3 is needed: the state")]
    State(i32),
    /// It is to be added and may not be.
    #[error(
        "added address is not within \"pincer_allow_peers\", add its block there or a \"server\" line: the address"
    )]
    NotAllowed,
    /// It is a socket file that nginx.conf does not name.
    #[error("added address is a Unix socket, a \"server\" line is needed for it: the address")]
    UnixAdded,
}

const NAME_NEED: &str = "1 to 255 bytes without \"/\", white space and control characters are needed";

/// What this nginx has and allows.
pub(crate) struct Rules {
    declared: HashMap<String, HashSet<String>>,
    allowed: Vec<Cidr>,
}

/// A snapshot that passed, in the zone's words.
#[derive(Debug)]
pub(crate) struct Checked<'s> {
    revision: u64,
    upstreams: Vec<(&'s str, Vec<CheckedPeer<'s>>)>,
    classes: Vec<ClassOverlay<'s>>,
    keys: Vec<key::CheckedKey<'s>>,
}

#[derive(Debug)]
struct CheckedPeer<'s> {
    config: &'s PeerConfig,
    state: Option<zone::PeerState>,
    added: Option<ArrayVec<u8, SOCKADDR_BYTES_MAX>>,
}

impl Rules {
    /// `declared` as in `Hello`; `allowed` as in `pincer_allow_peers`.
    pub(crate) fn new(declared: &[DeclaredUpstream], allowed: Vec<Cidr>) -> Self {
        let peers = |upstream: &DeclaredUpstream| upstream.peers.iter().map(|peer| peer.address.clone()).collect();
        let declared = declared.iter().map(|upstream| (upstream.name.clone(), peers(upstream))).collect();
        Self { declared, allowed }
    }

    /// Checks all of `snapshot`. The error names the first fault: the value, what is needed, and
    /// the place.
    pub(crate) fn check<'s>(&self, snapshot: &'s Snapshot) -> Result<Checked<'s>, Fault> {
        let revision = snapshot.revision;
        if revision == 0 || revision > limits::REVISION_MAX {
            return Err(Fault::Revision(revision));
        }
        if snapshot.upstreams.len() > limits::UPSTREAMS_MAX {
            return Err(Fault::Upstreams(snapshot.upstreams.len()));
        }
        let upstreams = snapshot.upstreams.iter().map(|upstream| self.check_upstream(upstream));
        Ok(Checked {
            revision,
            upstreams: upstreams.collect::<Result<_, _>>()?,
            classes: class::check(&snapshot.classes)?,
            keys: key::check(&snapshot.keys)?,
        })
    }

    fn check_upstream<'s>(&self, upstream: &'s UpstreamConfig) -> Result<(&'s str, Vec<CheckedPeer<'s>>), Fault> {
        let name = upstream.name.as_str();
        let is_plain = |c: char| !(c == '/' || c.is_whitespace() || c.is_control());
        if name.is_empty() || name.len() > limits::UPSTREAM_NAME_BYTES_MAX || !name.chars().all(is_plain) {
            return Err(Fault::UpstreamName { given: shown(name), bytes: name.len() });
        }
        if upstream.peers.len() > limits::PEERS_PER_UPSTREAM_MAX {
            return Err(Fault::Peers { upstream: name.to_owned(), have: upstream.peers.len() });
        }
        let declared = self.declared.get(name);
        let peers = upstream.peers.iter().map(|config| {
            let refuse = |what| Fault::Peer { upstream: name.to_owned(), peer: shown(&config.address), what };
            self.check_peer(declared, config).map_err(refuse)
        });
        Ok((name, peers.collect::<Result<_, _>>()?))
    }

    fn check_peer<'s>(
        &self,
        declared: Option<&HashSet<String>>,
        config: &'s PeerConfig,
    ) -> Result<CheckedPeer<'s>, PeerFault> {
        for (name, value) in [("weight", config.weight), ("max_conns", config.max_conns)] {
            if let Some(value) = value.filter(|&value| value > limits::PEER_VALUE_MAX) {
                return Err(PeerFault::Value { name, value });
            }
        }
        let state = match PeerState::try_from(config.state).map_err(|_| PeerFault::State(config.state))? {
            PeerState::Unspecified => None,
            PeerState::Active => Some(zone::PeerState::Active),
            PeerState::Draining => Some(zone::PeerState::Draining),
            PeerState::Down => Some(zone::PeerState::Down),
        };
        Ok(CheckedPeer { config, state, added: self.check_address(declared, config)? })
    }

    /// The socket address under which the peer may be added, if it may and is to be.
    fn check_address(
        &self,
        declared: Option<&HashSet<String>>,
        config: &PeerConfig,
    ) -> Result<Option<ArrayVec<u8, SOCKADDR_BYTES_MAX>>, PeerFault> {
        if declared.is_some_and(|declared| declared.contains(&config.address)) && !config.added {
            // nginx's spelling, whatever it is: it only has to match.
            return Ok(None);
        }
        let address = Address::parse(&config.address)?;
        let Some(declared) = declared.filter(|_| config.added) else { return Ok(None) };
        match address.ip() {
            Some(ip) if self.allowed.iter().any(|block| block.contains(ip)) => Ok(Some(address.sockaddr())),
            _ if declared.contains(&config.address) => Ok(None),
            Some(_) => Err(PeerFault::NotAllowed),
            None => Err(PeerFault::UnixAdded),
        }
    }
}

impl Checked<'_> {
    /// Calls `apply` with the overlay, which borrows from here. The ends of keys are counted from
    /// `now`.
    pub(crate) fn with_overlay<T>(&self, now: Now, apply: impl FnOnce(&Overlay<'_>) -> T) -> T {
        let peers: Vec<Vec<PeerOverlay<'_>>> =
            self.upstreams.iter().map(|(_, peers)| peers.iter().map(CheckedPeer::overlay).collect()).collect();
        let named = self.upstreams.iter().zip(&peers);
        let upstreams: Vec<_> =
            named.map(|((name, _), peers)| UpstreamOverlay { name: name.as_bytes(), peers }).collect();
        let keys: Vec<KeySpec<'_>> = self.keys.iter().map(|key| key.spec(now)).collect();
        apply(&Overlay { revision: self.revision, upstreams: &upstreams, classes: &self.classes, keys: &keys })
    }
}

impl CheckedPeer<'_> {
    fn overlay(&self) -> PeerOverlay<'_> {
        PeerOverlay {
            name: self.config.address.as_bytes(),
            weight: self.config.weight,
            max_conns: self.config.max_conns,
            state: self.state,
            added: self.added.as_deref(),
            set_in: self.config.revision,
        }
    }
}
