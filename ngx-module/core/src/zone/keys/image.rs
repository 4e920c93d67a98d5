//! What is to be written into a table: built and checked on the writer's heap before a word of the
//! zone changes.

use std::collections::HashMap;

use super::measures::{ARENA_WORDS_LEAST, ARENA_WORDS_PER_KEY, ENTRY_WORDS, HEAD_WORDS, words_of};
use super::spec::{KEY_CIDRS_MAX, KEY_NAME_MAX, KeySpec};

/// Why keys are refused; the table is as before. The control plane's doing, or the zone is too
/// small.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// More secrets than the zone has room for.
    #[error("{have} keys, the zone has room for {max}, make \"pincer_zone\" larger")]
    TooMany {
        /// Secrets offered.
        have: usize,
        /// Secrets that fit.
        max: usize,
    },
    /// The tenants, classes and blocks together are too long.
    #[error(
        "the keys' tenants, classes and blocks take {have} bytes, the zone has room for {max}, make \"pincer_zone\" larger"
    )]
    TooLong {
        /// Bytes they take.
        have: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// A tenant or a class has no name, or one that is too long.
    #[error("{what} of {bytes} bytes of key {fingerprint}, 1 to {max} are allowed", max = KEY_NAME_MAX)]
    Name {
        /// `tenant` or `class`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// Which key.
        fingerprint: String,
    },
    /// A secret has too many blocks.
    #[error("{have} blocks of addresses of key {fingerprint}, at most {max} are allowed", max = KEY_CIDRS_MAX)]
    Cidrs {
        /// Blocks offered.
        have: usize,
        /// Which key.
        fingerprint: String,
    },
    /// Two entries of one hash.
    #[error("key {fingerprint} is given twice")]
    Duplicate {
        /// Which.
        fingerprint: String,
    },
}

impl KeysError {
    /// Whether a larger zone would take them.
    pub fn is_room(&self) -> bool {
        matches!(self, Self::TooMany { .. } | Self::TooLong { .. })
    }
}

/// The words of a table.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) entries: Vec<[u64; ENTRY_WORDS]>,
    pub(super) arena: Vec<u64>,
}

/// Texts and blocks, each once.
#[derive(Default)]
struct Arena {
    words: Vec<u64>,
    places: HashMap<Vec<u64>, u64>,
}

impl Arena {
    /// Where `blob` is, in words from the arena's start: far below 2^32, as all lengths are
    /// bounded.
    fn place(&mut self, blob: Vec<u64>) -> u64 {
        let words = &mut self.words;
        *self.places.entry(blob).or_insert_with_key(|blob| {
            let at = words.len() as u64;
            words.extend(blob);
            at
        })
    }
}

fn text(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    bytes.chunks(8).map(word).collect()
}

fn fingerprint(key: &KeySpec<'_>) -> String {
    key.sha256.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl Image {
    /// Checks `keys` against a table of `keys_max` entries. `deadline` tells what a secret has now,
    /// by its hash and the wall clock's second of its end.
    pub(super) fn of(
        keys: &[KeySpec<'_>],
        keys_max: usize,
        deadline: impl Fn(&[u64; 4], u64) -> Option<u64>,
    ) -> Result<Self, KeysError> {
        if keys.len() > keys_max {
            return Err(KeysError::TooMany { have: keys.len(), max: keys_max });
        }
        let mut arena = Arena::default();
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            check(key)?;
            entries.push(entry(key, &mut arena, &deadline));
        }
        entries.sort_unstable();
        if let Some(pair) = entries.windows(2).find(|pair| pair[0][..4] == pair[1][..4]) {
            return Err(KeysError::Duplicate { fingerprint: format!("{:08x}", pair[0][0] >> 32) });
        }
        let words_max = keys_max * ARENA_WORDS_PER_KEY + ARENA_WORDS_LEAST;
        if arena.words.len() > words_max {
            return Err(KeysError::TooLong { have: arena.words.len() * 8, max: words_max * 8 });
        }
        debug_assert!(HEAD_WORDS <= words_max);
        Ok(Self { entries, arena: arena.words })
    }
}

fn check(key: &KeySpec<'_>) -> Result<(), KeysError> {
    for (what, name) in [("tenant", key.tenant), ("class", key.class)] {
        if name.is_empty() || name.len() > KEY_NAME_MAX {
            return Err(KeysError::Name { what, bytes: name.len(), fingerprint: fingerprint(key) });
        }
    }
    if key.cidrs.len() > KEY_CIDRS_MAX {
        return Err(KeysError::Cidrs { have: key.cidrs.len(), fingerprint: fingerprint(key) });
    }
    Ok(())
}

fn entry(
    key: &KeySpec<'_>,
    arena: &mut Arena,
    deadline: &impl Fn(&[u64; 4], u64) -> Option<u64>,
) -> [u64; ENTRY_WORDS] {
    let hash = words_of(&key.sha256);
    let (until, wall_s) = key.expires.map_or((0, 0), |expires| {
        let known = deadline(&hash, expires.wall_s);
        // 0 is "never": a deadline at the beginning of time is one after it.
        (known.unwrap_or(expires.deadline.0).max(1), expires.wall_s)
    });
    let (tenant, class) = (arena.place(text(key.tenant)), arena.place(text(key.class)));
    let cidrs = arena.place(key.cidrs.iter().flat_map(|cidr| cidr.to_words()).collect());
    let lengths = (key.tenant.len() as u64) << 32 | (key.class.len() as u64) << 40 | (key.cidrs.len() as u64) << 48;
    [hash[0], hash[1], hash[2], hash[3], until, wall_s, tenant | class << 32, cidrs | lengths]
}
