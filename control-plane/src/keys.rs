//! API keys in the control plane: the holder of a key, its class, its client addresses and its
//! expiry. Of a secret only the SHA-256 is stored.
//!
//! A key has one secret, and for a while after a rotation the previous one as well. The clock
//! changes no record: whether a secret has expired is derived from its end each time, so a clock
//! that was wrong for a while ends nothing. Pure: no I/O, no clock.
//! Bound: `limits::KEYS_MAX`.

pub mod plan;
pub mod secret;

use std::fmt;

use pincer_proto::{limits, v1};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The latest time of a key: the year 9999, as far as timestamps go.
pub const TIME_S_MAX: i64 = 253_402_300_799;

/// SHA-256 of a secret. Prints as its fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 8 hexadecimal digits, which may be shown.
    pub fn fingerprint(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(limits::FINGERPRINT_DIGITS);
        hex
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        let byte = |at: usize| hex.get(2 * at..2 * at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let mut hash = [0; 32];
        for (at, place) in hash.iter_mut().enumerate() {
            *place = byte(at).ok_or_else(|| serde::de::Error::custom("no SHA-256 in hexadecimal"))?;
        }
        Ok(Self(hash))
    }
}

/// The previous secret, while it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Old {
    /// Its hash.
    pub sha256: Hash,
    /// Seconds since 1970.
    pub until_s: i64,
}

/// The stored record of a key. The store's format: fields may be added, never given another
/// meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The holder of the key.
    pub tenant: String,
    /// The class of the key's requests.
    pub class: String,
    /// The client addresses that may use the key; empty = any address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// Seconds since 1970; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_s: Option<i64>,
    /// The secret.
    pub sha256: Hash,
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Old>,
    /// Seconds since 1970 when the key was made.
    pub created_s: i64,
    /// When it got its secret.
    pub rotated_s: i64,
    /// When an operator revoked the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_s: Option<i64>,
    /// The last revision that changed it.
    pub revision: u64,
}

impl Record {
    /// The next time after `now_s` at which a secret of the key expires.
    pub fn next_end_s(&self, now_s: i64) -> Option<i64> {
        let has_ended = self.revoked_s.is_some() || self.expire_s.is_some_and(|end| end <= now_s);
        let ends = self.expire_s.into_iter().chain(self.old.map(|old| old.until_s));
        ends.filter(|end| *end > now_s && !has_ended).min()
    }

    /// The state at `now_s`.
    pub fn state(&self, now_s: i64) -> v1::key::State {
        match self {
            Self { revoked_s: Some(_), .. } => v1::key::State::Revoked,
            Self { expire_s: Some(expire_s), .. } if *expire_s <= now_s => v1::key::State::Expired,
            Self { old: Some(old), .. } if old.until_s > now_s => v1::key::State::Rotating,
            _ => v1::key::State::Active,
        }
    }

    /// Its secrets that are valid at `now_s`, as they are sent to nodes.
    pub fn configs(&self, now_s: i64) -> impl Iterator<Item = v1::KeyConfig> + '_ {
        let end = |old: &Old| Some(self.expire_s.map_or(old.until_s, |expire_s| expire_s.min(old.until_s)));
        let secrets =
            std::iter::once((self.sha256, self.expire_s)).chain(self.old.iter().map(move |o| (o.sha256, end(o))));
        let is_valid = move |end: &Option<i64>| self.revoked_s.is_none() && end.is_none_or(|end| end > now_s);
        secrets.filter(move |(_, end)| is_valid(end)).map(|(sha256, end_s)| v1::KeyConfig {
            sha256: sha256.0.to_vec(),
            tenant: self.tenant.clone(),
            class: self.class.clone(),
            cidrs: self.cidrs.clone(),
            expire_time: end_s.map(time),
            fingerprint: sha256.fingerprint(),
        })
    }
}

/// A moment for the wire.
pub fn time(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_comes_back_from_the_store_and_prints_as_its_fingerprint() {
        let hash = Hash(std::array::from_fn(|n| u8::try_from(n * 7).unwrap()));
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json.len(), 66);
        assert_eq!(serde_json::from_str::<Hash>(&json).unwrap(), hash);
        assert_eq!(format!("{hash:?}"), "00070e15");
        for bad in ["\"\"", "\"zz\"", "7", &format!("\"{}\"", "é".repeat(32))] {
            assert!(serde_json::from_str::<Hash>(bad).is_err(), "{bad}");
        }
    }
}
