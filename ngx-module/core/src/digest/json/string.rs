//! Strings: what their escapes mean, and how a character is written in canonical form (RFC 8785,
//! section 3.2.2.2).
//!
//! Never keeps the text. Raw bytes are copied by the reader and checked for UTF-8 when the string
//! ends: an escape stands for whole characters only, so it can neither complete nor hide a broken
//! sequence beside it.

use super::not_json::NotJson;

/// Where in a string the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between characters.
    Plain,
    /// Behind a backslash.
    Escape,
    /// In the digits behind `\u`; `left` more are needed.
    Digits { left: u8, code: u32, high: Option<u32> },
    /// A high surrogate has come: the backslash of the low one must follow.
    LowEscape { high: u32 },
    /// And its `u`.
    LowU { high: u32 },
}

/// What a byte of an escape leads to.
pub(super) enum Step {
    /// More must come.
    Go(Place),
    /// It stood for this.
    Done(char),
}

impl Place {
    /// One byte further in an escape.
    pub(super) fn step(self, byte: u8) -> Result<Step, NotJson> {
        match (self, byte) {
            (Self::Escape, b'u') => Ok(Step::Go(Self::Digits { left: 4, code: 0, high: None })),
            (Self::Escape, byte) => short_escape(byte).map(Step::Done).ok_or(NotJson),
            (Self::Digits { left, code, high }, byte) => {
                let code = code << 4 | char::from(byte).to_digit(16).ok_or(NotJson)?;
                if left > 1 { Ok(Step::Go(Self::Digits { left: left - 1, code, high })) } else { unit(code, high) }
            }
            (Self::LowEscape { high }, b'\\') => Ok(Step::Go(Self::LowU { high })),
            (Self::LowU { high }, b'u') => Ok(Step::Go(Self::Digits { left: 4, code: 0, high: Some(high) })),
            _ => Err(NotJson),
        }
    }
}

const fn short_escape(byte: u8) -> Option<char> {
    Some(match byte {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    })
}

/// A UTF-16 unit behind a high surrogate or alone.
fn unit(code: u32, high: Option<u32>) -> Result<Step, NotJson> {
    let code = match (high, code) {
        (None, 0xd800..0xdc00) => return Ok(Step::Go(Place::LowEscape { high: code })),
        (Some(high), 0xdc00..0xe000) => 0x1_0000 + ((high - 0xd800) << 10) + (code - 0xdc00),
        (Some(_), _) => return Err(NotJson),
        (None, code) => code,
    };
    // a lone low surrogate is no character
    char::from_u32(code).map(Step::Done).ok_or(NotJson)
}

/// A character of a string in canonical form: never longer than any spelling of it.
pub(super) struct Escaped {
    bytes: [u8; 6],
    len: u8,
}

impl Escaped {
    pub(super) fn new(c: char) -> Self {
        let short = match c {
            '"' => b'"',
            '\\' => b'\\',
            '\u{8}' => b'b',
            '\t' => b't',
            '\n' => b'n',
            '\u{c}' => b'f',
            '\r' => b'r',
            _ => 0,
        };
        let mut bytes = *b"\\u0000";
        let len = match c {
            _ if short != 0 => {
                bytes[1] = short;
                2
            }
            '\0'..='\u{1f}' => {
                let hex = super::super::Hex::new(&[c as u8]);
                bytes[4..].copy_from_slice(hex.as_ref());
                6
            }
            _ => c.encode_utf8(&mut bytes).len(),
        };
        Self { bytes, len: u8::try_from(len).unwrap_or_default() }
    }
}

impl AsRef<[u8]> for Escaped {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The canonical text of a string, with its quotes.
pub(in super::super) fn canonical_string(text: &str) -> Vec<u8> {
    let mut out = vec![b'"'];
    for c in text.chars() {
        out.extend_from_slice(Escaped::new(c).as_ref());
    }
    out.push(b'"');
    out
}
