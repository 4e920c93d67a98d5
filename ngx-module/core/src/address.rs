//! Addresses of peers as text, `IPv4:port`, `[IPv6]:port` or `unix:/path`, and as the bytes that a
//! socket call takes.
//!
//! Accepts one spelling of each address, so that two names are two peers: no leading zeros, IPv6 as
//! RFC 5952 writes it, no zone. Resolves no name. Never allocates but for the text of an error.
//! Bound: [`UNIX_PATH_BYTES_MAX`].

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

/// Bytes of a Unix socket's path: `sun_path` of Linux less the final zero.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Bytes of the longest socket address: Linux's `sockaddr_un`.
pub const SOCKADDR_BYTES_MAX: usize = 110;

/// Linux's numbers of the address families.
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A parsed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// IPv4 or IPv6 with a port that is not 0.
    Inet(SocketAddr),
    /// The absolute path of a Unix socket, without `unix:`.
    Unix(&'a str),
}

/// The text is no address. The giver's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {given:?} is invalid, {need} is needed")]
pub struct AddressError {
    /// The text, cut to 64 characters.
    pub given: String,
    /// What it should be.
    pub need: &'static str,
}

impl<'a> Address<'a> {
    /// Reads `text`. The error says what is wanted instead.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        let refuse = |need| AddressError { given: text.chars().take(64).collect(), need };
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.len() <= UNIX_PATH_BYTES_MAX && path.starts_with('/');
            let plain = !path.chars().any(|c| c.is_whitespace() || c.is_control());
            return if fits && plain { Ok(Self::Unix(path)) } else { Err(refuse("unix:/PATH of at most 107 bytes")) };
        }
        let address: SocketAddr = text.parse().map_err(|_| refuse("IPv4:port, [IPv6]:port or unix:/path"))?;
        if address.port() == 0 {
            return Err(refuse("a port from 1 to 65535"));
        }
        let has_zone = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
        if has_zone || !is_spelling_of(text, &address) {
            return Err(refuse("the shortest spelling without a zone"));
        }
        Ok(Self::Inet(address))
    }

    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Inet(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// The bytes of Linux's `sockaddr_in`, `sockaddr_in6` or `sockaddr_un`, with the length that
    /// nginx gives to `connect`.
    pub fn sockaddr(&self) -> ArrayVec<u8, SOCKADDR_BYTES_MAX> {
        let mut bytes = ArrayVec::new();
        match self {
            Self::Inet(SocketAddr::V4(address)) => {
                bytes.extend(AF_INET.to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend([0; 8]);
            }
            Self::Inet(SocketAddr::V6(address)) => {
                bytes.extend(AF_INET6.to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(address.ip().octets());
                bytes.extend([0; 4]);
            }
            Self::Unix(path) => {
                bytes.extend(AF_UNIX.to_ne_bytes());
                bytes.extend(path.bytes().take(UNIX_PATH_BYTES_MAX));
                let filled = bytes.len();
                bytes.extend(core::iter::repeat_n(0, SOCKADDR_BYTES_MAX - filled));
            }
        }
        bytes
    }
}

/// Whether `address` is written as `text`, without writing it anywhere.
fn is_spelling_of(text: &str, address: &SocketAddr) -> bool {
    /// Takes what is written off the front of a text.
    struct Rest<'a>(&'a str);
    impl fmt::Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(text);
    fmt::write(&mut rest, format_args!("{address}")).is_ok() && rest.0.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_becomes_sockaddr_in() {
        let bytes = Address::parse("10.1.2.3:8001").unwrap().sockaddr();
        assert_eq!(bytes[..2], 2_u16.to_ne_bytes());
        assert_eq!(bytes[2..], [0x1f, 0x41, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_ipv6_address_becomes_sockaddr_in6() {
        let bytes = Address::parse("[fd00::1:2]:443").unwrap().sockaddr();
        assert_eq!(bytes.len(), 28);
        assert_eq!(bytes[..2], 10_u16.to_ne_bytes());
        assert_eq!(bytes[2..8], [1, 0xbb, 0, 0, 0, 0]);
        assert_eq!(bytes[8..24], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
        assert_eq!(bytes[24..], [0; 4]);
    }

    #[test]
    fn a_unix_path_becomes_sockaddr_un_ended_by_a_zero_at_any_length() {
        for len in [2, 50, UNIX_PATH_BYTES_MAX] {
            let text = format!("unix:/{}", "a".repeat(len - 1));
            let bytes = Address::parse(&text).unwrap().sockaddr();
            assert_eq!(bytes.len(), SOCKADDR_BYTES_MAX);
            assert_eq!(bytes[..2], 1_u16.to_ne_bytes());
            assert_eq!(&bytes[2..2 + len], &text.as_bytes()[5..]);
            assert!(bytes[2 + len..].iter().all(|&byte| byte == 0) && 2 + len < bytes.len());
        }
    }

    #[test]
    fn what_is_no_address_or_has_another_spelling_is_refused() {
        let long = format!("unix:/{}", "a".repeat(UNIX_PATH_BYTES_MAX));
        let wrong = [
            "",
            ":",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:08001",
            "010.0.0.1:80",
            "10.0.0.1:80 ",
            " 10.0.0.1:80",
            "10.0.0.256:80",
            "host:80",
            "::1:80",
            "[::1]",
            "[::1]:0",
            "[::1%1]:80",
            "[::1%eth0]:80",
            "[0:0::1]:80",
            "[::A]:80",
            "[10.0.0.1]:80",
            "unix:",
            "unix:relative",
            "unix:/with space",
            "unix:/a\n",
            "unix:/a\0b",
            "http://10.0.0.1:80",
            &long,
        ];
        for text in wrong {
            let error = Address::parse(text).unwrap_err();
            assert!(error.to_string().contains("is needed"), "{error}");
        }
    }

    #[test]
    fn every_address_that_is_printed_is_read_back() {
        use rand::{Rng, SeedableRng, rngs::SmallRng};
        let mut random = SmallRng::seed_from_u64(7);
        for _ in 0..10_000 {
            let ip: IpAddr = if random.random() {
                random.random::<[u8; 4]>().into()
            } else {
                // Zeros here and there, for the spellings that leave them out.
                random.random::<[u16; 8]>().map(|group| if group % 3 == 0 { 0 } else { group }).into()
            };
            let address = SocketAddr::new(ip, random.random_range(1..=u16::MAX));
            assert_eq!(Address::parse(&address.to_string()), Ok(Address::Inet(address)));
        }
    }
}
