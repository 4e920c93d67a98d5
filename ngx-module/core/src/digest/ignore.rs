//! The members of a JSON body that are no part of its identity, as JSON pointers (RFC 6901).
//!
//! A pointer is kept as the texts that its tokens have in canonical form, so that matching a key is
//! comparing bytes, whatever the client's spelling of the key was. Decided at configuration time.
//! Bound: [`IGNORE_MAX`] pointers of at most [`TOKENS_MAX`] tokens; matching a key is one
//! comparison per pointer that matches the path so far.

use super::algorithm::Hasher;
use super::json::canonical_string;

/// Pointers in one list: as many as a word has bits.
pub const IGNORE_MAX: usize = 32;

/// Tokens in one pointer. Deeper members than any API has.
pub const TOKENS_MAX: usize = 32;

/// Pointers, one bit each.
pub(super) type PointerSet = u32;

/// Members to leave out of a JSON body's identity. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Sorted.
    pointers: Vec<Vec<Token>>,
}

/// One step of a pointer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Token {
    /// The key in canonical form, with its quotes.
    key: Vec<u8>,
    /// The same token as an array's index: digits without a leading zero.
    index: Option<u32>,
}

/// Why a list of pointers is refused. The text names the pointer and what is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// The pointer to the whole document would leave nothing to tell bodies apart.
    #[error("an empty pointer means the whole body, name its members as in \"/user,/metadata\"")]
    Whole,
    /// Pointers begin with a slash.
    #[error("pointer \"{0}\" must begin with \"/\"")]
    NoSlash(String),
    /// A tilde that is neither `~0` nor `~1`.
    #[error("pointer \"{0}\" has a \"~\" without 0 or 1, write \"~0\" for \"~\" and \"~1\" for \"/\"")]
    Tilde(String),
    /// Listed before.
    #[error("pointer \"{0}\" is given twice")]
    Twice(String),
    /// More tokens than [`TOKENS_MAX`].
    #[error("pointer \"{0}\" is deeper than 32 members")]
    TooDeep(String),
    /// More pointers than [`IGNORE_MAX`].
    #[error("more than 32 pointers, pointer \"{0}\" is too many")]
    TooMany(String),
}

impl Ignore {
    /// Reads a comma-separated list as `/user,/stream,/metadata/trace`. An empty text is an empty
    /// list.
    ///
    /// A comma within a key cannot be written. An index names an array's element, and a key of that
    /// spelling too.
    ///
    /// # Errors
    /// The first pointer that is none, and why.
    pub fn parse(list: &str) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        if list.is_empty() {
            return Ok(ignore);
        }
        for text in list.split(',') {
            let pointer = parse_pointer(text)?;
            if ignore.pointers.contains(&pointer) {
                return Err(IgnoreError::Twice(text.to_owned()));
            }
            if ignore.pointers.len() == IGNORE_MAX {
                return Err(IgnoreError::TooMany(text.to_owned()));
            }
            ignore.pointers.push(pointer);
        }
        ignore.pointers.sort();
        Ok(ignore)
    }

    /// Whether nothing is left out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pointers.is_empty()
    }

    /// Hashes the list, whatever its order and spelling; nothing if it is empty.
    pub(super) fn hash(&self, hasher: &mut Hasher) {
        if self.is_empty() {
            return;
        }
        hasher.number(self.pointers.len() as u64);
        for pointer in &self.pointers {
            hasher.number(pointer.len() as u64);
            for Token { key, .. } in pointer {
                hasher.number(key.len() as u64);
                hasher.update(key);
            }
        }
    }

    /// All pointers: those that match the path to the whole document.
    pub(super) fn all(&self) -> PointerSet {
        (0..self.pointers.len()).fold(0, |set, i| set | 1 << i)
    }

    /// Those of `set` that match one step further, by the member `key` (canonical, with its quotes)
    /// of the container at `depth` (0: the document).
    pub(super) fn step_key(&self, set: PointerSet, depth: usize, key: &[u8]) -> Step {
        self.step(set, depth, |token| token.key == key)
    }

    /// The same for an array's element.
    pub(super) fn step_index(&self, set: PointerSet, depth: usize, index: u32) -> Step {
        self.step(set, depth, |token| token.index == Some(index))
    }

    fn step(&self, set: PointerSet, depth: usize, is_match: impl Fn(&Token) -> bool) -> Step {
        let mut step = Step::default();
        let mut left = set;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let Some(pointer) = self.pointers.get(bit.trailing_zeros() as usize) else { continue };
            if pointer.get(depth).is_some_and(&is_match) {
                step.set |= bit;
                step.is_ignored |= pointer.len() == depth + 1;
            }
        }
        step
    }
}

/// Where a step leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Pointers that match the path with this step.
    pub(super) set: PointerSet,
    /// One of them ends here.
    pub(super) is_ignored: bool,
}

fn parse_pointer(text: &str) -> Result<Vec<Token>, IgnoreError> {
    if text.is_empty() {
        return Err(IgnoreError::Whole);
    }
    let Some(rest) = text.strip_prefix('/') else { return Err(IgnoreError::NoSlash(text.to_owned())) };
    let tokens: Vec<Token> = rest
        .split('/')
        .map(|token| parse_token(token).ok_or_else(|| IgnoreError::Tilde(text.to_owned())))
        .collect::<Result<_, _>>()?;
    if tokens.len() > TOKENS_MAX {
        return Err(IgnoreError::TooDeep(text.to_owned()));
    }
    Ok(tokens)
}

fn parse_token(token: &str) -> Option<Token> {
    let mut key = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        key.push(match c {
            '~' => match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return None,
            },
            other => other,
        });
    }
    let is_index = key == "0" || (!key.starts_with('0') && key.bytes().all(|b| b.is_ascii_digit()));
    Some(Token { index: key.parse().ok().filter(|_| is_index), key: canonical_string(&key) })
}
