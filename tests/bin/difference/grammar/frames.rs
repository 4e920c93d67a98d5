//! HTTP/2 with prior knowledge, right and wrong (RFC 9113): each segment is a frame.

use rand::Rng;
use rand::rngs::SmallRng;

use super::Segments;
use super::parts::{body, headers, mutate, once_in, one, target};
use crate::http2::{PREFACE, field, flag, frame, kind, lying};

/// Windows that are large enough for every response; nginx then waits for no update.
fn begin(rng: &mut SmallRng) -> Segments {
    let window = [0, 4, 0x00, 0x7f, 0xff, 0xff];
    let mut first = PREFACE.to_vec();
    first.extend(if once_in(rng, 20) {
        frame(kind::SETTINGS, 0, 0, &[])
    } else {
        frame(kind::SETTINGS, 0, 0, &window)
    });
    vec![first, frame(kind::WINDOW_UPDATE, 0, 0, &0x00ff_0000_u32.to_be_bytes())]
}

fn block(rng: &mut SmallRng, method: &str, target: &str, most: usize) -> Vec<u8> {
    let mut block = [(":method", method), (":scheme", "http"), (":path", target), (":authority", "fuzz.test")]
        .map(|(name, value)| field(name.as_bytes(), value.as_bytes()))
        .concat();
    for header in headers(rng, most) {
        let (name, value) = header.split_once(": ").unwrap_or((&header, ""));
        // Connection-specific fields are wrong in HTTP/2; once in a while they come.
        if !name.eq_ignore_ascii_case("connection") || once_in(rng, 8) {
            block.extend(field(name.to_ascii_lowercase().as_bytes(), value.as_bytes()));
        }
    }
    block
}

/// HEADERS, whole or continued.
fn head(rng: &mut SmallRng, stream: u32, flags: u8, block: &[u8]) -> Segments {
    if !once_in(rng, 6) {
        return vec![frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)];
    }
    let (first, rest) = block.split_at(rng.random_range(0..=block.len()));
    vec![frame(kind::HEADERS, flags, stream, first), frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest)]
}

fn get(rng: &mut SmallRng, stream: u32) -> Segments {
    let method = one(rng, &["GET", "GET", "HEAD", "OPTIONS", "DELETE"]);
    let target = target(rng);
    let block = block(rng, method, &target, 4);
    head(rng, stream, flag::END_STREAM, &block)
}

fn post(rng: &mut SmallRng, stream: u32) -> Segments {
    let (content, method, target) = (body(rng), one(rng, &["POST", "PUT", "GET"]), target(rng));
    let mut block = block(rng, method, &target, 3);
    match rng.random_range(0..8) {
        0..4 => block.extend(field(b"content-length", content.len().to_string().as_bytes())),
        4 => block.extend(field(b"content-length", b"7")),
        _ => {}
    }
    let mut segments = head(rng, stream, 0, &block);
    let size = *[1000, 16_384, 50].get(rng.random_range(0..3)).unwrap_or(&1000);
    let mut pieces: Vec<&[u8]> = content.chunks(size).collect();
    pieces.truncate(60);
    let last = pieces.len().saturating_sub(1);
    let trailers = once_in(rng, 5);
    for (index, piece) in pieces.iter().enumerate() {
        let flags = if index == last && !trailers { flag::END_STREAM } else { 0 };
        if once_in(rng, 8) {
            let padded = [&[3], *piece, &[0; 3]].concat();
            segments.push(frame(kind::DATA, flags | flag::PADDED, stream, &padded));
        } else {
            segments.push(frame(kind::DATA, flags, stream, piece));
        }
    }
    if trailers {
        segments.push(frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &field(b"x-trailer", b"yes")));
    } else if pieces.is_empty() {
        segments.push(frame(kind::DATA, flag::END_STREAM, stream, b""));
    }
    segments
}

/// Sound requests, on one stream or some.
pub fn requests(rng: &mut SmallRng) -> Segments {
    let mut segments = begin(rng);
    for index in 0..rng.random_range(1..5) {
        segments.extend(get(rng, 2 * index + 1));
    }
    segments
}

/// Requests with bodies, one after the other or mixed.
pub fn bodies(rng: &mut SmallRng) -> Segments {
    let mut segments = begin(rng);
    let mut streams: Vec<std::collections::VecDeque<_>> =
        (0..rng.random_range(1..4)).map(|index| post(rng, 2 * index + 1).into()).collect();
    // Heads in order of their streams, or the numbers would be wrong; then frames as they come.
    for stream in &mut streams {
        while let Some(next) = stream.pop_front() {
            let ends = next.get(4).is_some_and(|flags| flags & flag::END_HEADERS != 0);
            segments.push(next);
            if ends {
                break;
            }
        }
    }
    while streams.iter().any(|stream| !stream.is_empty()) {
        let which = rng.random_range(0..streams.len());
        segments.extend(streams[which].pop_front());
    }
    segments
}

/// Something that RFC 9113 forbids, before, between or after requests.
pub fn hostile(rng: &mut SmallRng) -> Segments {
    let mut segments = if rng.random() { requests(rng) } else { bodies(rng) };
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(1..=segments.len());
        let bad = bad_frame(rng);
        segments.insert(at, bad);
    }
    if once_in(rng, 3) {
        segments.extend(get(rng, 99));
    }
    segments
}

fn bad_frame(rng: &mut SmallRng) -> Vec<u8> {
    let stream = *[0, 1, 1, 1, 2, 3, 5, 99, 0x7fff_ffff, 0x8000_0001].get(rng.random_range(0..10)).unwrap_or(&1);
    let four = rng.random::<u32>().to_be_bytes();
    match rng.random_range(0..27) {
        0 => frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        1 => frame(kind::RST_STREAM, 0, stream, &four[..3]),
        2 => frame(kind::DATA, 0, stream, b"data that nobody asked for"),
        3 => frame(kind::DATA, flag::END_STREAM, stream, b"the end, again"),
        4 => frame(kind::DATA, flag::PADDED, stream, &[200, 1, 2]),
        5 => frame(kind::CONTINUATION, flag::END_HEADERS, stream, &field(b"a", b"b")),
        6 => frame(kind::HEADERS, 0, stream, &field(b"a", b"b")),
        7 => frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block(rng, "GET", "/proxy/", 1)),
        8 => frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, stream, &stream.to_be_bytes()),
        9 => frame(kind::PRIORITY, 0, stream, &[four.as_slice(), &[1]].concat()),
        10 => frame(kind::PRIORITY, 0, stream, &[stream.to_be_bytes().as_slice(), &[1]].concat()),
        11 => frame(kind::SETTINGS, 0, stream, &[0, 3, 0, 0, 0, 1]),
        12 => frame(kind::SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        13 => frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        14 => frame(kind::SETTINGS, flag::ACK, 0, if rng.random() { b"" } else { b"123456" }),
        15 => frame(kind::PING, 0, 0, &rng.random::<u64>().to_be_bytes()[..rng.random_range(6..=8)]),
        16 => frame(kind::GOAWAY, 0, 0, &[0; 8]),
        17 => frame(kind::WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()),
        18 => frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()),
        19 => frame(kind::PUSH_PROMISE, flag::END_HEADERS, stream, &[0, 0, 0, 2]),
        20 => frame(rng.random(), rng.random(), stream, &four),
        21 => lying(rng.random_range(0..70_000), rng.random_range(0..10), rng.random(), stream, &four),
        22 => frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &bad_block(rng)),
        23 => frame(kind::HEADERS, flag::END_HEADERS, stream, &bad_block(rng)),
        24 => frame(kind::DATA, 0, stream, &vec![b'z'; 16_385]),
        25 => frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 101, &long_block(rng)),
        _ => (0..rng.random_range(1..30)).map(|_| rng.random()).collect(),
    }
}

/// A header block that is wrong: as HPACK, or as a request.
fn bad_block(rng: &mut SmallRng) -> Vec<u8> {
    let good = block(rng, "GET", "/proxy/l5", 1);
    match rng.random_range(0..16) {
        0 => field(b":method", b"GET"),
        1 => [good, field(b":path", b"/twice")].concat(),
        2 => [field(b"a", b"b"), good].concat(),
        3 => [good, field(b"Upper", b"case")].concat(),
        4 => [good, field(b"x", b"a\r\nb: c")].concat(),
        5 => [good, field(b"", b"")].concat(),
        6 => [good, field(b":unknown", b"x")].concat(),
        7 => vec![0x80],
        8 => vec![0xff; 12],
        9 => vec![0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f],
        10 => [good, vec![0xbe]].concat(),
        11 => [good, vec![0x00, 0x85, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]].concat(),
        12 => [good, field(b"content-length", one(rng, &[b"-1".as_slice(), b"", b"5, 5", b"99999999999999999999"]))]
            .concat(),
        13 => [good, field(b"transfer-encoding", b"chunked"), field(b"te", b"gzip"), field(b"upgrade", b"x")].concat(),
        14 => [(":method", "CONNECT"), (":authority", "x:1")]
            .map(|(name, value)| field(name.as_bytes(), value.as_bytes()))
            .concat(),
        _ => {
            let path =
                one(rng, &["", "*", "proxy/", "/\0", "/proxy/\r\n", "http://a/proxy/", "/../x", "/%zz", "/proxy/#x"]);
            [(":method", "GET"), (":scheme", "http"), (":path", path)]
                .map(|(name, value)| field(name.as_bytes(), value.as_bytes()))
                .concat()
        }
    }
}

/// More than nginx's buffers hold, in one field or in many.
fn long_block(rng: &mut SmallRng) -> Vec<u8> {
    let target = target(rng);
    let mut block = block(rng, "GET", &target, 1);
    if rng.random() {
        block.extend(field(
            one(rng, &[b"x-long".as_slice(), b"cookie", b"authorization"]),
            &vec![b'a'; rng.random_range(1000..9000)],
        ));
    } else {
        for index in 0..rng.random_range(20..90) {
            block.extend(field(format!("x-field-{index}").as_bytes(), b"value"));
        }
    }
    block
}

/// A connection that stops somewhere.
pub fn cut(rng: &mut SmallRng) -> Segments {
    let mut segments = if rng.random() { requests(rng) } else { bodies(rng) };
    let keep = rng.random_range(1..=segments.len());
    segments.truncate(keep);
    if let Some(last) = segments.last_mut() {
        last.truncate(rng.random_range(0..=last.len()));
    }
    segments
}

/// One of the above with changed bytes.
pub fn mutated(rng: &mut SmallRng) -> Segments {
    let mut segments = if rng.random() { requests(rng) } else { bodies(rng) };
    let which = rng.random_range(0..segments.len());
    mutate(rng, &mut segments[which]);
    segments
}
