//! API keys as the zone takes them and as it tells of them.

use arrayvec::ArrayVec;

use super::cidr::Cidr;
use crate::time::MonoNs;

/// Secrets in the largest table.
pub const KEYS_MAX: usize = 8_192;

/// Bytes of a tenant's or a class' name.
pub const KEY_NAME_MAX: usize = 64;

/// Blocks of addresses of one secret.
pub const KEY_CIDRS_MAX: usize = 16;

/// A tenant's or a class' name.
pub type KeyName = ArrayVec<u8, KEY_NAME_MAX>;

/// What a presented secret is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyVerdict {
    /// It is valid.
    Found {
        /// Who holds it.
        tenant: KeyName,
        /// The class of its requests; the zone need not have it.
        class: KeyName,
    },
    /// No key has this secret.
    Unknown,
    /// Its time is over.
    Expired,
    /// It may not be used from this address.
    Forbidden,
}

/// When a secret ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExpiry {
    /// By the wall clock, in seconds since 1970: tells whether it is the same end as before.
    pub wall_s: u64,
    /// The same moment by the monotonic clock, as far as the caller can tell. Kept from the first
    /// time on: a later step of the wall clock moves nothing.
    pub deadline: MonoNs,
}

/// A secret to be published.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec<'a> {
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
    /// 1 to [`KEY_NAME_MAX`] bytes.
    pub tenant: &'a [u8],
    /// 1 to [`KEY_NAME_MAX`] bytes.
    pub class: &'a [u8],
    /// At most [`KEY_CIDRS_MAX`]; none = from anywhere.
    pub cidrs: &'a [Cidr],
    /// `None` = never.
    pub expires: Option<KeyExpiry>,
}
