//! `pincer_control_plane ADDRESS… [node=NAME] [plaintext]` and `pincer_allow_peers CIDR…`.

use super::args;
use super::error::{ConfError, Problem};
use std::net::IpAddr;

/// One replica of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `host:port`, `a.b.c.d:port` or `[v6]:port`.
    Tcp { host: String, port: u16 },
    /// `unix:/path`.
    Unix(String),
}

/// Where the control plane is, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlPlaneArgs {
    pub(crate) endpoints: Vec<Endpoint>,
    /// The name this nginx goes by; `None` is the host's name.
    pub(crate) node: Option<String>,
    pub(crate) plaintext: bool,
}

/// A block of addresses that the control plane may add as peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

const CONTROL_PLANE: &str = "pincer_control_plane";
const ALLOW_PEERS: &str = "pincer_allow_peers";

/// Replicas of the control plane that can be named.
const ENDPOINTS_MAX: usize = 16;
/// Bytes of a node's name, as the control plane bounds it.
const NODE_BYTES_MAX: usize = 63;

pub(crate) fn parse_control_plane(arguments: &[&[u8]]) -> Result<ControlPlaneArgs, ConfError> {
    let mut endpoints = Vec::new();
    let mut node = None;
    let mut plaintext = false;
    for argument in arguments {
        let argument = args::text(CONTROL_PLANE, argument)?;
        if argument == "plaintext" {
            plaintext = true;
        } else if let Some(name) = argument.strip_prefix("node=") {
            args::set_once(&mut node, node_name(name)?, CONTROL_PLANE, "node")?;
        } else {
            endpoints.push(endpoint(argument)?);
        }
    }
    if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
        let problem = Problem::Addresses { have: endpoints.len(), max: ENDPOINTS_MAX };
        return Err(ConfError::new(CONTROL_PLANE, problem));
    }
    if plaintext && let Some(remote) = endpoints.iter().find(|endpoint| !endpoint.is_local()) {
        return Err(ConfError::new(CONTROL_PLANE, Problem::NotLocal { address: remote.to_string() }));
    }
    Ok(ControlPlaneArgs { endpoints, node, plaintext })
}

fn node_name(name: &str) -> Result<String, ConfError> {
    let fits = !name.is_empty()
        && name.len() <= NODE_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if fits {
        return Ok(name.to_owned());
    }
    let need = "1 to 63 letters, digits, dots, dashes or underscores";
    Err(ConfError::invalid(CONTROL_PLANE, "node", name, need))
}

fn endpoint(argument: &str) -> Result<Endpoint, ConfError> {
    let invalid = || {
        let need = "HOST:PORT, [IPV6]:PORT, unix:/PATH, node=NAME or plaintext";
        ConfError::invalid(CONTROL_PLANE, "address", argument, need)
    };
    if let Some(path) = argument.strip_prefix("unix:") {
        return if path.starts_with('/') { Ok(Endpoint::Unix(path.to_owned())) } else { Err(invalid()) };
    }
    let (host, port) = argument.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)),
    };
    if is_host { Ok(Endpoint::Tcp { host: host.to_owned(), port }) } else { Err(invalid()) }
}

impl Endpoint {
    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

pub(crate) fn parse_allow_peers(arguments: &[&[u8]]) -> Result<Vec<Cidr>, ConfError> {
    arguments.iter().map(|argument| cidr(args::text(ALLOW_PEERS, argument)?)).collect()
}

fn cidr(argument: &str) -> Result<Cidr, ConfError> {
    let invalid = || ConfError::invalid(ALLOW_PEERS, "block", argument, "a CIDR such as 10.0.0.0/8 or fd00::/8");
    let (address, prefix) = match argument.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (argument, None),
    };
    let network: IpAddr = address.parse().map_err(|_| invalid())?;
    let bits_max = if network.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match prefix {
        None => bits_max,
        Some(prefix) => prefix.parse().ok().filter(|&bits| bits <= bits_max).ok_or_else(invalid)?,
    };
    Ok(Cidr { network, prefix_bits })
}

impl Cidr {
    /// Whether `address` lies in the block; an IPv4 address mapped into IPv6 counts as the IPv4
    /// address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                (u32::from(network) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                (u128::from(network) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }
}
