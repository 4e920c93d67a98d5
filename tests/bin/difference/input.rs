//! An input: bytes in segments, where they go, at what pace, and how the client ends.

use std::fmt;

use crate::conf::PLACES;
use crate::text;

/// Which port an input goes to, and whether through TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The HTTP/1 port.
    Http,
    /// The port of HTTP/2 with prior knowledge.
    Http2,
    /// The TLS port, with a handshake, HTTP/1.1 inside.
    Tls,
    /// The TLS port, with a handshake, HTTP/2 inside.
    Tls2,
    /// The TLS port, without a handshake.
    Bare,
}

impl Door {
    /// Whether the server will speak HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Tls2)
    }
}

/// How the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// In one go.
    Together,
    /// A write for each segment.
    Segments,
    /// In pieces of so many bytes.
    Trickle(usize),
}

/// What the client does once all is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Ends its side when nothing has come for a while.
    Quiet,
    /// Ends its side at once.
    HalfClose,
    /// Waits for the server to close.
    Wait,
    /// Closes without reading.
    Leave,
    /// Resets without reading.
    Reset,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its number in the run.
    pub number: u64,
    /// What the grammar calls it.
    pub kind: &'static str,
    /// Index into [`PLACES`]: the server.
    pub place: usize,
    /// The port.
    pub door: Door,
    /// The bytes.
    pub segments: Vec<Vec<u8>>,
    /// How they are sent.
    pub pace: Pace,
    /// How it ends.
    pub end: End,
}

impl Input {
    /// The pieces that are written one by one.
    pub fn writes(&self) -> Vec<Vec<u8>> {
        match self.pace {
            Pace::Together => vec![self.segments.concat()],
            Pace::Segments => self.segments.clone(),
            Pace::Trickle(size) => {
                // Long inputs trickle at their beginning only.
                let (begin, rest) = (self.segments.concat(), 60 * size);
                let (begin, rest) = begin.split_at(begin.len().min(rest));
                let mut writes: Vec<_> = begin.chunks(size).map(<[u8]>::to_vec).collect();
                writes.push(rest.to_vec());
                writes
            }
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, target) = PLACES[self.place];
        writeln!(f, "input {} ({}), server \"{name}\" (error_page {target:?})", self.number, self.kind)?;
        writeln!(f, "  door {:?}, pace {:?}, end {:?}", self.door, self.pace, self.end)?;
        for segment in &self.segments {
            writeln!(f, "    \"{}\"", text::escaped(segment))?;
        }
        Ok(())
    }
}
