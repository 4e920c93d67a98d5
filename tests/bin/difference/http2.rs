//! HTTP/2 (RFC 9113) from both ends: frames as bytes, right or wrong, and what nginx responds as
//! lines to compare.
//!
//! Streams are compared one by one: how their frames are mixed, window updates and the sizes of
//! DATA frames do not count.

use std::collections::BTreeMap;

use loona_hpack::Decoder;

use crate::{documented, text};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// A frame with an honest length.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    lying(payload.len(), kind, flags, stream, payload)
}

/// A frame that says of itself what it likes.
pub fn lying(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length & 0xff_ffff).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field as a literal without indexing and without Huffman (RFC 7541, 6.2.2).
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        integer(&mut block, text.len());
        block.extend(text);
    }
    block
}

/// An integer with a prefix of 7 bits (RFC 7541, 5.1).
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).unwrap_or_default());
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap_or_default() | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap_or_default());
}

/// What came on one stream.
#[derive(Default)]
struct Stream {
    lines: Vec<String>,
    data: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// The data so far as a line of its own.
    fn flush(&mut self) {
        if !self.data.is_empty() {
            self.lines.push(format!("data {}", text::summary(&text::neutral(&self.data))));
            self.data.clear();
        }
    }
}

/// The lines of everything that came over a connection.
pub fn lines(bytes: &[u8]) -> Vec<String> {
    let mut connection = Vec::new();
    let mut streams: BTreeMap<u32, Stream> = BTreeMap::new();
    let mut decoder = Decoder::new();
    let mut block = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let (kind, flags) = (rest[3], rest[4]);
        let id = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]) & 0x7fff_ffff;
        // What is no frame is an HTTP/1 response: the preface was not understood.
        if rest.len() < 9 + length || rest.starts_with(b"HTTP/1.") {
            break;
        }
        let payload = &rest[9..9 + length];
        rest = &rest[9 + length..];
        match kind {
            kind::DATA => {
                let stream = streams.entry(id).or_default();
                stream.data.extend(payload);
                stream.ended |= flags & flag::END_STREAM != 0;
            }
            kind::HEADERS | kind::CONTINUATION => {
                block.extend(payload);
                let stream = streams.entry(id).or_default();
                stream.flush();
                stream.ended |= kind == kind::HEADERS && flags & flag::END_STREAM != 0;
                if flags & flag::END_HEADERS != 0 {
                    fields(&mut decoder, &block, &mut stream.lines);
                    block.clear();
                }
            }
            kind::RST_STREAM => {
                let stream = streams.entry(id).or_default();
                stream.flush();
                stream.lines.push(format!("reset {}", text::escaped(payload)));
            }
            kind::WINDOW_UPDATE => {}
            _ => connection.push(format!("frame {kind} flags {flags} stream {id} {}", text::summary(payload))),
        }
    }
    if !rest.is_empty() {
        connection.extend(crate::response::lines(rest));
    }
    for (id, mut stream) in streams {
        stream.flush();
        let end = if stream.ended { "ended" } else { "not ended" };
        connection.extend(stream.lines.into_iter().map(|line| format!("stream {id}: {line}")));
        connection.push(format!("stream {id}: {end}"));
    }
    connection
}

fn fields(decoder: &mut Decoder<'_>, block: &[u8], lines: &mut Vec<String>) {
    let Ok(fields) = decoder.decode(block) else {
        lines.push(format!("a header block that is none: {}", text::summary(block)));
        return;
    };
    let fields = fields.into_iter().filter(|(name, _)| !documented::to_client(name));
    lines.extend(
        fields.map(|(name, value)| format!("{}: {}", text::escaped(&name), text::escaped(&text::neutral(&value)))),
    );
}
