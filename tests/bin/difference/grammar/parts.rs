//! Pieces of requests: URIs with words for the origin, header fields, bodies.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::conf::{CODES, LOCATIONS};

/// Words that the origin understands.
const WORDS: [&str; 43] = [
    "s404",
    "s500",
    "s503",
    "s403",
    "s429",
    "s400",
    "s204",
    "s304",
    "s206",
    "s301",
    "s502",
    "s401",
    "l0",
    "l1",
    "l500",
    "l4000",
    "l4096",
    "l9000",
    "l70000",
    "chunked",
    "close",
    "trailers",
    "early",
    "shut",
    "garbage",
    "longheader",
    "badchunk",
    "twolengths",
    "ssi",
    "json",
    "sse",
    "keep",
    "vary",
    "etag",
    "cookie",
    "redirect",
    "accel",
    "accelproxy",
    "accelname",
    "unbuffered",
    "p3",
    "c20",
    "c4000",
];

/// Words that take a second or more each.
const SLOW_WORDS: [&str; 2] = ["hang", "limited"];

/// One of a list.
pub fn one<'a, T: ?Sized>(rng: &mut SmallRng, of: &[&'a T]) -> &'a T {
    of.choose(rng).copied().expect("not empty")
}

/// True once in `times`.
pub fn once_in(rng: &mut SmallRng, times: u32) -> bool {
    rng.random_ratio(1, times)
}

/// A path to a location, with words for the origin.
pub fn target(rng: &mut SmallRng) -> String {
    if once_in(rng, 25) {
        return format!("/code/{}", one(rng, &CODES.split(' ').collect::<Vec<_>>()));
    }
    let mut path = one(rng, &LOCATIONS).to_owned();
    let many = rng.random_range(0..4);
    let words: Vec<&str> = (0..many).map(|_| word(rng)).collect();
    if path.ends_with('/') && rng.random() {
        path += &words.join("/");
    } else if !words.is_empty() {
        path += &format!("?{}", words.join("&"));
    }
    if path.starts_with("/slice") && rng.random() {
        path += "?s206";
    }
    if once_in(rng, 12) {
        path += if path.contains('?') { "&x=1" } else { "?x=1" };
    }
    path
}

fn word(rng: &mut SmallRng) -> &'static str {
    if once_in(rng, 60) { one(rng, &SLOW_WORDS) } else { one(rng, &WORDS) }
}

/// A header field of those that mean something to nginx or to the module; without line end.
pub fn header(rng: &mut SmallRng) -> String {
    const HEADERS: [&str; 38] = [
        "Accept: */*",
        "Accept-Encoding: gzip",
        "Accept-Encoding: gzip, br",
        "Connection: close",
        "Connection: keep-alive",
        "Cookie: a=b",
        "Cookie: c=d; e=f",
        "User-Agent: fuzz",
        "Content-Type: application/json",
        "Content-Type: multipart/form-data; boundary=b",
        "Content-Type: text/plain",
        "Content-Encoding: gzip",
        "Authorization: Bearer pk_0000000000000000",
        "Authorization: Basic dTpw",
        "Authorization: Basic !!!!",
        "Authorization: ",
        "X-Pincer-Class: vip",
        "x_pincer_class: vip",
        "X-Pincer-Tenant: acme",
        "X-Class: wide",
        "X-Class: default",
        "X-Class: bare",
        "X-Class: nothing",
        "X-Key: k",
        "X-If: 1",
        "If-Modified-Since: Thu, 01 Jan 2037 00:00:00 GMT",
        "If-None-Match: \"fuzz\"",
        "If-Match: \"other\"",
        "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:01 GMT",
        "If-Range: \"fuzz\"",
        "X-Forwarded-For: 10.0.0.1",
        "Via: 1.1 proxy",
        "TE: trailers",
        "Referer: http://fuzz.test/",
        "Keep-Alive: 300",
        "Accept-Language: en",
        "X-Accel-Expires: 1",
        "X-Fuzz: \u{e9}",
    ];
    one(rng, &HEADERS).to_owned()
}

/// Up to `most` of them.
pub fn headers(rng: &mut SmallRng, most: usize) -> Vec<String> {
    (0..rng.random_range(0..=most)).map(|_| header(rng)).collect()
}

/// A body: text, JSON, parts, or bytes; most are short, some do not fit into nginx's buffers.
pub fn body(rng: &mut SmallRng) -> Vec<u8> {
    match rng.random_range(0..8) {
        0 => b"{\"prompt\": \"hello\", \"n\": 1.0, \"a\": [1, 2, {\"b\": null}]}".to_vec(),
        1 => b"{\"a\": 1, \"a\": 2, \"broken\": ".to_vec(),
        2 => b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nvalue\r\n--b--\r\n".to_vec(),
        3 => b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n\x00\x01\x02".to_vec(),
        4 => vec![b'x'; rng.random_range(0..120)],
        5 => vec![b'y'; *[2047, 2048, 2049, 4096, 9000, 70_000].choose(rng).expect("not empty")],
        _ => (0..rng.random_range(0..400)).map(|_| rng.random()).collect(),
    }
}

/// Cut into a few segments.
pub fn split(rng: &mut SmallRng, bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut segments = vec![bytes];
    for _ in 0..rng.random_range(0..3) {
        let last = segments.pop().unwrap_or_default();
        let at = rng.random_range(0..=last.len());
        segments.extend([last[..at].to_vec(), last[at..].to_vec()]);
    }
    segments
}

/// Changes bytes here and there: flips, inserts, removes, repeats.
pub fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    const INSERTED: [&[u8]; 14] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"%",
        b"%00",
        b"%2e%2e/",
        b"/../",
        b"\xff",
        b"HTTP/1.1",
        b"Content-Length: 5\r\n",
    ];
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => drop(bytes.splice(at..at, one(rng, &INSERTED).iter().copied())),
            3 => drop(bytes.drain(at..(at + rng.random_range(1..12)).min(bytes.len()))),
            _ => {
                let end = (at + rng.random_range(1..40)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
}
