//! What names and addresses may look like, and the resource names built of them (AIP-122).
//!
//! Pure. Resolves no host name: an address is a number or a path. Cost: one pass over the text.
//! Bound: the lengths in `pincer_proto::limits`.

use std::net::{IpAddr, SocketAddr};

use pincer_proto::limits;

/// Why a name was refused. Always the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It has another shape.
    #[error("{what} {given:?} is not of the form {need}")]
    Form {
        /// The kind of name.
        what: &'static str,
        /// The name, shortened for the message.
        given: String,
        /// The form it has to have.
        need: &'static str,
    },
    /// It is too long.
    #[error("{what} {given:?} has {bytes} bytes, at most {max} are allowed")]
    Length {
        /// The kind of name.
        what: &'static str,
        /// The name, shortened for the message.
        given: String,
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// Bytes of a refused name that an error repeats.
const SHOWN_BYTES_MAX: usize = 100;

fn form(what: &'static str, given: &str, need: &'static str) -> Fault {
    Fault::Form { what, given: cut(given, SHOWN_BYTES_MAX).to_owned(), need }
}

/// The longest start of `text` that has at most `bytes_max` bytes and ends between characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn check_length(what: &'static str, name: &str, max: usize) -> Result<(), Fault> {
    if name.len() <= max {
        return Ok(());
    }
    Err(Fault::Length { what, given: cut(name, SHOWN_BYTES_MAX).to_owned(), bytes: name.len(), max })
}

/// Checks an upstream's name as nginx.conf has it.
pub fn check_upstream(name: &str) -> Result<(), Fault> {
    check_length("upstream", name, limits::UPSTREAM_NAME_BYTES_MAX)?;
    let fine = |c: char| !(c == '/' || c.is_whitespace() || c.is_control());
    if name.is_empty() || !name.chars().all(fine) {
        return Err(form("upstream", name, "a name without \"/\", white space and control characters"));
    }
    Ok(())
}

/// Checks a node's name.
pub fn check_node(name: &str) -> Result<(), Fault> {
    check_plain("node", name, limits::NODE_NAME_BYTES_MAX)
}

/// Checks a node's instance id.
pub fn check_instance(id: &str) -> Result<(), Fault> {
    check_plain("instance_id", id, limits::INSTANCE_ID_BYTES_MAX)
}

/// Checks a class' name.
pub fn check_class(name: &str) -> Result<(), Fault> {
    check_plain("class", name, limits::CLASS_NAME_BYTES_MAX)
}

/// Checks a key's id.
pub fn check_key(id: &str) -> Result<(), Fault> {
    check_plain("key id", id, limits::KEY_ID_BYTES_MAX)
}

/// Checks a tenant's name, which may be a mail address.
pub fn check_tenant(name: &str) -> Result<(), Fault> {
    check_length("tenant", name, limits::TENANT_BYTES_MAX)?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
    if name.is_empty() || !name.bytes().all(fine) {
        return Err(form("tenant", name, "one or more of A-Z a-z 0-9 . _ @ -"));
    }
    Ok(())
}

/// Checks a block of addresses and returns it as `10.0.0.0/8` or `fd00::/8`, with all bits after
/// the prefix cleared. A single address is a block of one address.
pub fn parse_cidr(text: &str) -> Result<String, Fault> {
    let bad = || form("block", text, "a block of addresses as 10.0.0.0/8 or fd00::/8");
    check_length("block", text, limits::CIDR_BYTES_MAX)?;
    let (network, bits) = text.split_once('/').map_or((text, None), |(network, bits)| (network, Some(bits)));
    let network: IpAddr = network.parse().map_err(|_| bad())?;
    let bits_max = if network.is_ipv4() { 32 } else { 128 };
    let is_number = |bits: &&str| bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
    let bits: u32 = match bits {
        None => bits_max,
        Some(bits) => bits.parse().ok().filter(|n| *n <= bits_max && is_number(&bits)).ok_or_else(bad)?,
    };
    // nginx compares a client's IPv4 address as one, also if it came in IPv6.
    let (network, bits) = match network.to_canonical() {
        IpAddr::V4(v4) if network.is_ipv6() => (IpAddr::V4(v4), bits.checked_sub(96).ok_or_else(bad)?),
        _ => (network, bits),
    };
    let network: IpAddr = match network {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()),
    };
    Ok(format!("{network}/{bits}"))
}

fn check_plain(what: &'static str, name: &str, max: usize) -> Result<(), Fault> {
    check_length(what, name, max)?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(fine) {
        return Err(form(what, name, "one or more of A-Z a-z 0-9 . _ -"));
    }
    Ok(())
}

/// Checks a peer's address and returns it in nginx's spelling: `127.0.0.1:80`, `[::1]:80`,
/// `unix:/path`.
///
/// Refuses host names, port 0 and IPv6 zones.
pub fn parse_address(text: &str) -> Result<String, Fault> {
    const NEED: &str = "IPv4:port, [IPv6]:port or unix:/path";
    check_length("address", text, limits::ADDRESS_BYTES_MAX)?;
    if let Some(path) = text.strip_prefix("unix:") {
        let fine = |c: char| !(c.is_whitespace() || c.is_control());
        return if path.starts_with('/') && path.chars().all(fine) {
            Ok(text.to_owned())
        } else {
            Err(form("address", text, NEED))
        };
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 && !text.contains('%') => Ok(address.to_string()),
        _ => Err(form("address", text, NEED)),
    }
}

/// Checks the address of a peer that an operator adds. An IPv4 address in IPv6 is refused: nginx
/// connects to the IPv4 address, which `pincer_allow_peers` and the other peers know as such.
pub fn parse_added_address(text: &str) -> Result<String, Fault> {
    let address = parse_address(text)?;
    match address.parse::<SocketAddr>() {
        Ok(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_some() => {
            Err(form("address", text, "IPv4:port for an IPv4 address"))
        }
        _ => Ok(address),
    }
}

/// `text` with spaces in place of what moves a terminal's cursor, colours it or turns its writing:
/// control characters and marks of direction.
pub fn printable(text: &str) -> String {
    let is_mark =
        |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.chars().map(|c| if c.is_control() || is_mark(c) { ' ' } else { c }).collect()
}

/// A text from outside, as it may be kept and shown.
pub fn shown(text: &str, bytes_max: usize) -> String {
    printable(cut(text, bytes_max))
}

/// `upstreams/UPSTREAM`.
pub fn upstream_name(upstream: &str) -> String {
    format!("upstreams/{upstream}")
}

/// `upstreams/UPSTREAM/peers/ADDRESS`.
pub fn peer_name(upstream: &str, address: &str) -> String {
    format!("upstreams/{upstream}/peers/{address}")
}

/// `nodes/NODE`.
pub fn node_name(node: &str) -> String {
    format!("nodes/{node}")
}

/// The node of `nodes/NODE`, to be shown; the name itself if it is no such name.
pub fn node_of(name: &str) -> &str {
    name.strip_prefix("nodes/").unwrap_or(name)
}

/// `classes/CLASS`.
pub fn class_name(class: &str) -> String {
    format!("classes/{class}")
}

/// `keys/ID`.
pub fn key_name(id: &str) -> String {
    format!("keys/{id}")
}

/// Reads `classes/CLASS`.
pub fn parse_class_name(name: &str) -> Result<String, Fault> {
    let class = name.strip_prefix("classes/").ok_or_else(|| form("name", name, "classes/CLASS"))?;
    check_class(class)?;
    Ok(class.to_owned())
}

/// Reads `keys/ID`.
pub fn parse_key_name(name: &str) -> Result<String, Fault> {
    let id = name.strip_prefix("keys/").ok_or_else(|| form("name", name, "keys/ID"))?;
    check_key(id)?;
    Ok(id.to_owned())
}

/// Reads `upstreams/UPSTREAM`.
pub fn parse_upstream_name(name: &str) -> Result<String, Fault> {
    let upstream = name.strip_prefix("upstreams/").ok_or_else(|| form("name", name, "upstreams/UPSTREAM"))?;
    check_upstream(upstream)?;
    Ok(upstream.to_owned())
}

/// Reads `upstreams/UPSTREAM/peers/ADDRESS`; the address may hold slashes.
pub fn parse_peer_name(name: &str) -> Result<(String, String), Fault> {
    let bad = || form("name", name, "upstreams/UPSTREAM/peers/ADDRESS");
    let rest = name.strip_prefix("upstreams/").ok_or_else(bad)?;
    let (upstream, rest) = rest.split_once('/').ok_or_else(bad)?;
    let address = rest.strip_prefix("peers/").ok_or_else(bad)?;
    check_upstream(upstream)?;
    Ok((upstream.to_owned(), parse_address(address)?))
}

/// Reads `nodes/NODE`.
pub fn parse_node_name(name: &str) -> Result<String, Fault> {
    let node = name.strip_prefix("nodes/").ok_or_else(|| form("name", name, "nodes/NODE"))?;
    check_node(node)?;
    Ok(node.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_in_nginxs_spelling() {
        for (given, want) in [
            ("127.0.0.1:8001", "127.0.0.1:8001"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[2001:DB8::A]:443", "[2001:db8::a]:443"),
            ("unix:/run/a/b.sock", "unix:/run/a/b.sock"),
        ] {
            assert_eq!(parse_address(given).as_deref(), Ok(want));
        }
    }

    #[test]
    fn an_address_that_is_no_number_and_no_path_is_refused() {
        let long = format!("unix:/{}", "a".repeat(200));
        for given in [
            "",
            "localhost:80",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.256:80",
            "127.1:80",
            "::1:80",
            "[::1]",
            "[fe80::1%1]:80",
            "unix:",
            "unix:relative",
            "unix:/a b",
            "unix:/a\0b",
            " 127.0.0.1:80",
            "127.0.0.1:80\n",
            &long,
        ] {
            assert!(parse_address(given).is_err(), "{given:?} was taken");
        }
    }

    #[test]
    fn a_peers_name_is_read_as_it_is_built() {
        for address in ["127.0.0.1:8001", "[::1]:80", "unix:/run/peers/a.sock"] {
            let name = peer_name("llm", address);
            assert_eq!(parse_peer_name(&name), Ok(("llm".to_owned(), address.to_owned())));
        }
        for name in ["", "upstreams/", "upstreams/a", "upstreams/a/peers", "upstreams//peers/127.0.0.1:80", "nodes/a"] {
            assert!(parse_peer_name(name).is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn a_block_comes_back_without_what_is_behind_its_prefix() {
        for (given, want) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("FD00::1/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse_cidr(given).as_deref(), Ok(want));
        }
        for given in ["", "/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/0008", "10.0.0/8", "a/8"]
        {
            assert!(parse_cidr(given).is_err(), "{given:?} was taken");
        }
    }

    #[test]
    fn names_of_classes_keys_and_tenants_are_plain() {
        assert_eq!(parse_class_name(&class_name("vip-1.a_b")).as_deref(), Ok("vip-1.a_b"));
        assert_eq!(parse_key_name(&key_name("k1")).as_deref(), Ok("k1"));
        assert!(check_tenant("ops@example.com").is_ok());
        for name in ["", "a b", "a/b", "a\n", "é", &"a".repeat(65)] {
            assert!(check_class(name).is_err() && check_key(name).is_err() && check_tenant(name).is_err(), "{name:?}");
        }
        assert!(parse_class_name("classes/").is_err() && parse_key_name("key/a").is_err());
    }

    #[test]
    fn an_error_repeats_only_the_start_of_a_huge_name() {
        let huge = "é".repeat(100_000);
        for fault in [parse_node_name(&huge), parse_upstream_name(&huge), parse_address(&huge)].map(Result::unwrap_err)
        {
            assert!(fault.to_string().len() < 300);
        }
    }

    #[test]
    fn an_error_names_what_it_refuses() {
        let long = "a".repeat(limits::UPSTREAM_NAME_BYTES_MAX + 1);
        let said = check_upstream(&long).unwrap_err().to_string();
        assert!(said.starts_with("upstream \"aaaa") && said.contains(&format!("has {} bytes", long.len())), "{said}");
        let said = check_upstream("a b").unwrap_err().to_string();
        assert!(said.starts_with("upstream \"a b\" is not of the form"), "{said}");
    }
}
