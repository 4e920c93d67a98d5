//! What inputs are made of. Each kind is a function of a random number generator; the same seed and
//! number make the same input.
//!
//! Sound requests and those that RFC 9112 and RFC 9113 forbid; pace, end, server and port are
//! chosen apart from the bytes.

mod frames;
mod http1;
mod parts;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::conf::PLACES;
use crate::input::{Door, End, Input, Pace};

/// The segments of an input.
pub type Segments = Vec<Vec<u8>>;

type Make = fn(&mut SmallRng) -> Segments;

/// Kinds with how often they come, and the door they go to.
const KINDS: [(&str, u32, Door, Make); 34] = [
    ("simple", 10, Door::Http, http1::simple),
    ("body", 10, Door::Http, http1::with_body),
    ("http/0.9", 3, Door::Http, http1::http09),
    ("http/1.0", 3, Door::Http, http1::http10),
    ("pipelined", 5, Door::Http, http1::pipelined),
    ("garbage", 3, Door::Http, http1::garbage),
    ("tls hello", 1, Door::Http, http1::tls_hello),
    ("cut", 4, Door::Http, http1::cut),
    ("chunked", 6, Door::Http, http1::chunked),
    ("bad chunk", 4, Door::Http, http1::bad_chunk),
    ("bad length", 4, Door::Http, http1::bad_length),
    ("expect", 3, Door::Http, http1::expect),
    ("long uri", 2, Door::Http, http1::long_uri),
    ("long header", 2, Door::Http, http1::long_header),
    ("many headers", 2, Door::Http, http1::many_headers),
    ("odd method", 4, Door::Http, http1::odd_method),
    ("odd version", 2, Door::Http, http1::odd_version),
    ("odd uri", 4, Door::Http, http1::odd_uri),
    ("odd header", 4, Door::Http, http1::odd_header),
    ("range", 3, Door::Http, http1::range),
    ("upgrade", 3, Door::Http, http1::upgrade),
    ("absolute uri", 2, Door::Http, http1::absolute),
    ("error code", 4, Door::Http, http1::error_code),
    ("mutated", 8, Door::Http, http1::mutated),
    ("h2 request", 8, Door::Http2, frames::requests),
    ("h2 body", 6, Door::Http2, frames::bodies),
    ("h2 hostile", 10, Door::Http2, frames::hostile),
    ("h2 cut", 3, Door::Http2, frames::cut),
    ("h2 mutated", 4, Door::Http2, frames::mutated),
    ("h2 garbage", 1, Door::Http2, http1::simple),
    ("preface to http/1", 1, Door::Http, frames::requests),
    ("plain to tls", 2, Door::Bare, http1::simple),
    ("tls", 3, Door::Tls, http1::simple),
    ("tls h2", 2, Door::Tls2, frames::requests),
];

/// The names of all kinds, in order.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, ..)| *name)
}

/// Input `number` of the run with this seed.
pub fn input(seed: u64, number: u64) -> Input {
    // A generator for each input, so that one can be made without those before it.
    let mut rng =
        SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd129_0d3e_4f2b_8c65));
    let (kind, _, door, make) =
        KINDS.choose_weighted(&mut rng, |(_, weight, ..)| *weight).expect("weights that are not all zero");
    let mut segments = make(&mut rng);
    segments.retain(|segment| !segment.is_empty());
    let pace = match rng.random_range(0..10) {
        0..6 => Pace::Together,
        6..9 => Pace::Segments,
        _ => Pace::Trickle(*[1, 2, 7, 60].choose(&mut rng).expect("not empty")),
    };
    let end = match rng.random_range(0..100) {
        0..85 => End::Quiet,
        85..88 => End::HalfClose,
        88..94 => End::Wait,
        94..98 => End::Leave,
        _ => End::Reset,
    };
    Input { number, kind, place: rng.random_range(0..PLACES.len()), door: *door, segments, pace, end }
}
