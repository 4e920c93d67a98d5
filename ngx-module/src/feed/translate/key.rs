//! Checks the API keys of a snapshot, and turns the ends of secrets into the monotonic clock. Never
//! prints more of a hash than its fingerprint.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;
use pincer_core::time::MonoNs;
use pincer_core::zone::{Cidr, KEY_CIDRS_MAX, KeyExpiry, KeySpec};
use pincer_proto::limits;
use pincer_proto::v1::KeyConfig;

use super::class::is_plain;
use super::shown::shown;

/// The latest end: year 9999, as far as timestamps go.
const END_S_MAX: u64 = 253_402_300_799;

/// Why a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyFault {
    /// Too many.
    #[error("{0} keys are too many, at most {max} are allowed", max = limits::KEYS_MAX)]
    Count(usize),
    /// No SHA-256.
    #[error("a key's sha256 has {0} bytes, 32 are needed")]
    Hash(usize),
    /// Something is wrong with one key.
    #[error("{what} of key {fingerprint}")]
    Key {
        /// The first digits of its hash.
        fingerprint: String,
        /// What it is.
        what: KeyWhat,
    },
}

/// What can be wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyWhat {
    /// The name of its tenant or class.
    #[error("{what} {given:?} of {bytes} bytes is invalid, 1 to {max} plain characters are needed: the {what}", max = limits::TENANT_BYTES_MAX)]
    Name {
        /// `tenant` or `class`.
        what: &'static str,
        /// The name, cut.
        given: String,
        /// Its length.
        bytes: usize,
    },
    /// What should be the start of its hash.
    #[error("fingerprint {0:?} is not the start of its hash: the fingerprint")]
    Fingerprint(String),
    /// Too many blocks.
    #[error("{0} blocks of addresses are too many, at most {max} are allowed: the cidrs", max = limits::CIDRS_PER_KEY_MAX)]
    Cidrs(usize),
    /// No block of addresses.
    #[error("block {0:?} is invalid, one as 10.0.0.0/8 or fd00::/8 is needed: the cidrs")]
    Cidr(String),
    /// No moment that can be.
    #[error("expire_time of {seconds} s and {nanos} ns is out of range: the expire_time")]
    Expire {
        /// As given.
        seconds: i64,
        /// As given.
        nanos: i32,
    },
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// What the ends of secrets are given by.
    pub(crate) wall: SystemTime,
    /// What they are held to.
    pub(crate) mono: MonoNs,
}

/// A key that passed.
#[derive(Debug)]
pub(super) struct CheckedKey<'s> {
    config: &'s KeyConfig,
    sha256: [u8; 32],
    cidrs: ArrayVec<Cidr, KEY_CIDRS_MAX>,
    end_s: Option<u64>,
}

/// Checks all keys; the zone finds what is given twice.
pub(super) fn check(keys: &[KeyConfig]) -> Result<Vec<CheckedKey<'_>>, KeyFault> {
    if keys.len() > limits::KEYS_MAX {
        return Err(KeyFault::Count(keys.len()));
    }
    keys.iter().map(check_one).collect()
}

fn check_one(config: &KeyConfig) -> Result<CheckedKey<'_>, KeyFault> {
    let sha256: [u8; 32] = config.sha256.as_slice().try_into().map_err(|_| KeyFault::Hash(config.sha256.len()))?;
    let digits = limits::FINGERPRINT_DIGITS;
    let fingerprint: String = sha256.iter().take(digits / 2).map(|byte| format!("{byte:02x}")).collect();
    let refuse = |what| KeyFault::Key { fingerprint: fingerprint.clone(), what };
    if config.fingerprint != fingerprint {
        return Err(refuse(KeyWhat::Fingerprint(shown(&config.fingerprint))));
    }
    let names = [
        ("tenant", &config.tenant, limits::TENANT_BYTES_MAX, &b"@"[..]),
        ("class", &config.class, limits::CLASS_NAME_BYTES_MAX, b""),
    ];
    for (what, name, bytes_max, more) in names {
        if !is_plain(name, bytes_max, more) {
            return Err(refuse(KeyWhat::Name { what, given: shown(name), bytes: name.len() }));
        }
    }
    let mut cidrs = ArrayVec::new();
    for text in &config.cidrs {
        let block = cidr(text).ok_or_else(|| refuse(KeyWhat::Cidr(shown(text))))?;
        cidrs.try_push(block).map_err(|_| refuse(KeyWhat::Cidrs(config.cidrs.len())))?;
    }
    Ok(CheckedKey { config, sha256, cidrs, end_s: end_s(config).map_err(refuse)? })
}

fn end_s(config: &KeyConfig) -> Result<Option<u64>, KeyWhat> {
    let Some(end) = &config.expire_time else { return Ok(None) };
    let seconds =
        u64::try_from(end.seconds).ok().filter(|&s| s <= END_S_MAX && (0..1_000_000_000).contains(&end.nanos));
    seconds.map(Some).ok_or(KeyWhat::Expire { seconds: end.seconds, nanos: end.nanos })
}

/// Reads `10.0.0.0/8`; the prefix is plain digits.
fn cidr(text: &str) -> Option<Cidr> {
    if text.len() > limits::CIDR_BYTES_MAX {
        return None;
    }
    let (network, bits) = text.split_once('/')?;
    let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    Cidr::new(network.parse::<IpAddr>().ok()?, bits.parse().ok().filter(|_| is_number)?)
}

impl CheckedKey<'_> {
    /// As the zone takes it. A secret that has ended by the wall clock ends now.
    pub(super) fn spec(&self, now: Now) -> KeySpec<'_> {
        let expires = self.end_s.map(|wall_s| {
            let left = UNIX_EPOCH + Duration::from_secs(wall_s);
            let left = left.duration_since(now.wall).unwrap_or_default();
            KeyExpiry { wall_s, deadline: now.mono.plus(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)) }
        });
        KeySpec {
            sha256: self.sha256,
            tenant: self.config.tenant.as_bytes(),
            class: self.config.class.as_bytes(),
            cidrs: &self.cidrs,
            expires,
        }
    }
}
