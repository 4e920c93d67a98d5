//! Writes JSON straight into a text. Knows no key of ours.

use core::fmt::{self, Write};

/// What nginx.conf says, what the control plane says, and what is in force.
pub(super) fn write_layers<W: Write>(
    json: &mut Json<'_, W>,
    key: &str,
    configured: Option<u64>,
    live: Option<u64>,
    effective: u64,
) -> fmt::Result {
    json.key(key)?;
    json.open('{')?;
    json.optional("configured", configured)?;
    json.optional("live", live)?;
    json.number("effective", effective)?;
    json.close('}')
}

/// A JSON writer that knows only whether a comma is due.
pub(super) struct Json<'o, W> {
    out: &'o mut W,
    comma: bool,
}

impl<'o, W: Write> Json<'o, W> {
    pub const fn new(out: &'o mut W) -> Self {
        Self { out, comma: false }
    }

    pub fn line_feed(self) -> fmt::Result {
        self.out.write_char('\n')
    }

    fn item(&mut self) -> fmt::Result {
        if core::mem::replace(&mut self.comma, true) { self.out.write_char(',') } else { Ok(()) }
    }

    pub fn open(&mut self, bracket: char) -> fmt::Result {
        self.item()?;
        self.comma = false;
        self.out.write_char(bracket)
    }

    pub fn close(&mut self, bracket: char) -> fmt::Result {
        self.comma = true;
        self.out.write_char(bracket)
    }

    pub fn key(&mut self, key: &str) -> fmt::Result {
        self.item()?;
        self.comma = false;
        write_string(self.out, key)?;
        self.out.write_char(':')
    }

    pub fn number(&mut self, key: &str, value: u64) -> fmt::Result {
        self.optional(key, Some(value))
    }

    pub fn optional(&mut self, key: &str, value: Option<u64>) -> fmt::Result {
        self.value(key, |out| match value {
            Some(value) => write!(out, "{value}"),
            None => out.write_str("null"),
        })
    }

    pub fn boolean(&mut self, key: &str, value: bool) -> fmt::Result {
        self.value(key, |out| write!(out, "{value}"))
    }

    pub fn millis(&mut self, key: &str, ns: Option<u64>) -> fmt::Result {
        self.value(key, |out| match ns {
            Some(ns) => write!(out, "{}.{:03}", ns / 1_000_000, ns / 1_000 % 1_000),
            None => out.write_str("null"),
        })
    }

    pub fn text(&mut self, key: &str, value: Option<&str>) -> fmt::Result {
        self.value(key, |out| match value {
            Some(value) => write_string(out, value),
            None => out.write_str("null"),
        })
    }

    fn value(&mut self, key: &str, write: impl FnOnce(&mut W) -> fmt::Result) -> fmt::Result {
        self.key(key)?;
        write(self.out)?;
        self.comma = true;
        Ok(())
    }
}

/// A JSON string: quotes, backslashes and control characters escaped, the rest as it is.
fn write_string(out: &mut impl Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(out, "\\{character}")?,
            control if control < ' ' || control == '\u{7f}' => write!(out, "\\u{:04x}", u32::from(control))?,
            plain => out.write_char(plain)?,
        }
    }
    out.write_char('"')
}
