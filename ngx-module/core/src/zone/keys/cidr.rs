//! Blocks of addresses, as three words.
//!
//! IPv4 is kept as IPv4 mapped into IPv6, and marked: `::/0` is all of IPv6 and none of IPv4. Pure.
//! Cost: a few instructions.

use core::net::IpAddr;

/// A block of IPv4 or IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    /// Of 128; an IPv4 block's are 96 more than its own.
    prefix_bits: u8,
    is_v4: bool,
}

fn bits(addr: IpAddr) -> (u128, bool) {
    match addr.to_canonical() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().into(), true),
        IpAddr::V6(v6) => (v6.into(), false),
    }
}

impl Cidr {
    /// Words of [`Cidr::to_words`].
    pub(super) const WORDS: usize = 3;

    /// The block of `prefix_bits` around `network`; `None` when the prefix is longer than the
    /// address.
    ///
    /// Bits of `network` behind the prefix do not matter. A block of IPv4 mapped into IPv6 is the
    /// IPv4 block.
    pub fn new(network: IpAddr, prefix_bits: u8) -> Option<Self> {
        let (bits_max, is_mapped) = match network {
            IpAddr::V4(_) => (32, false),
            IpAddr::V6(v6) => (128, v6.to_ipv4_mapped().is_some() && prefix_bits >= 96),
        };
        if prefix_bits > bits_max {
            return None;
        }
        let (network, is_v4) = match network {
            IpAddr::V6(v6) => (v6.into(), is_mapped),
            v4 @ IpAddr::V4(_) => bits(v4),
        };
        let prefix_bits = if bits_max == 32 { 96 + prefix_bits } else { prefix_bits };
        Some(Self { network, prefix_bits, is_v4 })
    }

    /// Whether `addr` lies in the block; IPv4 mapped into IPv6 counts as IPv4.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let (addr, is_v4) = bits(addr);
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
        is_v4 == self.is_v4 && (self.network ^ addr) & mask == 0
    }

    pub(super) fn to_words(self) -> [u64; Self::WORDS] {
        let low = u64::try_from(self.network & u128::from(u64::MAX)).unwrap_or(0);
        let high = u64::try_from(self.network >> 64).unwrap_or(0);
        [high, low, u64::from(self.prefix_bits) | u64::from(self.is_v4) << 8]
    }

    /// Any words are a block; those of no block contain nothing that matters.
    pub(super) fn from_words([high, low, rest]: [u64; Self::WORDS]) -> Self {
        let prefix_bits = u8::try_from(rest & 0xff).unwrap_or(0).min(128);
        Self { network: u128::from(high) << 64 | u128::from(low), prefix_bits, is_v4: rest >> 8 & 1 == 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Cidr {
        let (network, prefix) = text.split_once('/').unwrap();
        Cidr::new(network.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_block_contains_its_addresses_and_no_others() {
        for (text, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("10.1.2.3/16", "::ffff:10.1.9.9", "::10.1.9.9"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "fe80::1", "127.0.0.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1/128", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.0"),
        ] {
            for cidr in [block(text), Cidr::from_words(block(text).to_words())] {
                assert!(cidr.contains(inside.parse().unwrap()), "{text} {inside}");
                assert!(!cidr.contains(outside.parse().unwrap()), "{text} {outside}");
            }
        }
        assert_eq!(Cidr::new(IpAddr::from([1, 2, 3, 4]), 33), None);
        assert_eq!(Cidr::new(IpAddr::from([0; 16]), 129), None);
    }
}
