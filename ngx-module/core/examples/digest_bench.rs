//! What a digest costs: megabytes per second of each algorithm and form, and the longest time that
//! one call takes.
//!
//! `cargo run --release -p pincer-core --example digest_bench`. The promise: no step of a body
//! holds the event loop for more than 5 ms, with 16 KiB chunks as nginx hands them over. Each
//! call's time is the best of ten runs; the last column is the slowest call's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use pincer_core::digest::{Algorithm, BodyDigest, Form, Hashed, Ignore, KeyContext, Params};

const MIB: usize = 1 << 20;
const RUNS: usize = 10;

/// What each call took, `finish` last, at best over all runs: so what other programs took in
/// between is left out.
struct Costs {
    calls: Vec<Duration>,
    hashed: Hashed,
}

fn run(params: &Params, content_type: &str, body: &[u8], chunk: usize) -> Costs {
    let mut calls = Vec::with_capacity(body.len() / chunk + 2);
    let mut digest = BodyDigest::new(params, content_type.as_bytes(), b"");
    let mut began = Instant::now();
    for part in body.chunks(chunk) {
        digest.update(params, part);
        let now = Instant::now();
        calls.push(now - began);
        began = now;
    }
    let hashed = black_box(digest.finish(params)).hashed();
    calls.push(began.elapsed());
    Costs { calls, hashed }
}

fn measure(name: &str, params: &Params, content_type: &str, body: &[u8], chunk: usize) {
    let mut best = run(params, content_type, body, chunk);
    for _ in 1..RUNS {
        let again = run(params, content_type, body, chunk);
        best.calls.iter_mut().zip(again.calls).for_each(|(best, call)| *best = call.min(*best));
    }
    let total_s = best.calls.iter().sum::<Duration>().as_secs_f64();
    println!(
        "{:<7} {name:<44} {:>5} KiB chunks {:>9.0} MB/s, worst call {:>8.3} ms, {}",
        params.algorithm.name(),
        chunk >> 10,
        body.len() as f64 / total_s / 1e6,
        best.calls.iter().max().unwrap().as_secs_f64() * 1e3,
        best.hashed.name(),
    );
}

/// Not compressible, and with all bytes in it.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn upload(content: &[u8]) -> Vec<u8> {
    let head = "--b0b0b0b0\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n";
    [head.as_bytes(), content, b"\r\n--b0b0b0b0--\r\n"].concat()
}

fn repeat(unit: &str, bytes: usize) -> String {
    unit.repeat(bytes / unit.len())
}

/// A megabyte of each kind that could cost more than its length.
fn hostile_json() -> Vec<(&'static str, String)> {
    // numbers below 2^14 in no order, each once
    let scattered = |count: u32| (0..count).map(|i| i.wrapping_mul(0x9e37).wrapping_add(77) & 0x3fff);
    let object = |count, width: usize| {
        let members = scattered(count).map(|key| format!("\"{key:0width$x}\":1")).collect::<Vec<_>>();
        format!("{{{}}}", members.join(","))
    };
    let nest = |depth, inner: &str| format!("{}{inner}{}", "{\"b\":".repeat(depth), ",\"a\":1}".repeat(depth));
    let wide = object(1 << 14, 1);
    let many = |unit: &str| format!("[{}{unit}]", repeat(&format!("{unit},"), MIB.saturating_sub(unit.len() + 1_200)));
    vec![
        ("objects of 16,384 members", many(&wide)),
        ("16,384 keys with a long equal prefix", object(1 << 14, 56)),
        ("127 unordered objects around the wide ones", nest(126, &many(&wide))),
        ("towers of 127 unordered objects", many(&nest(126, "{\"b\":1,\"a\":2}"))),
        ("objects of 1,000 members", many(&object(1_000, 1))),
        ("75,000 small unordered objects", many("{\"b\":1,\"a\":2}")),
        ("empty objects", many("{}")),
        ("digits", many("1")),
        ("escapes", format!("\"{}\"", repeat("\\u00e9", MIB - 2))),
        ("not ASCII", format!("\"{}\"", repeat("é", MIB - 2))),
        ("white space", format!("{}1", " ".repeat(MIB - 1))),
        ("one long key", format!("{{\"{}\":1}}", "k".repeat(MIB - 6))),
    ]
}

fn main() {
    let plain = |algorithm, form| Params { algorithm, form, ignore: Ignore::default(), json_bytes_max: 2 * MIB };
    let noise = noise(16 * MIB);
    for algorithm in Algorithm::ALL {
        for chunk in [1 << 10, 16 << 10, 64 << 10, MIB] {
            measure("raw", &plain(algorithm, Form::Raw), "", &noise, chunk);
        }
    }
    for algorithm in Algorithm::ALL {
        measure("raw, 16 KiB, in one piece", &plain(algorithm, Form::Raw), "", &noise[..16 << 10], 16 << 10);
        measure("raw, in uneven pieces", &plain(algorithm, Form::Raw), "", &noise, (16 << 10) - 700);
    }
    let upload_type = "multipart/form-data; boundary=b0b0b0b0";
    for algorithm in Algorithm::ALL {
        measure("multipart, an image", &plain(algorithm, Form::Multipart), upload_type, &upload(&noise), 16 << 10);
    }
    let blake3 = plain(Algorithm::Blake3, Form::Auto);
    for (name, unit) in [("CR", "\r"), ("boundary's start", "\r\n--b0b0b0b"), ("LF and hyphens", "\r\n--")] {
        measure(
            &format!("multipart, full of {name}"),
            &blake3,
            upload_type,
            &upload(repeat(unit, MIB).as_bytes()),
            16 << 10,
        );
    }
    let parts = "--b0b0b0b0\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n".repeat(1_000) + "--b0b0b0b0--";
    measure("multipart, 1,000 empty parts", &blake3, upload_type, parts.as_bytes(), 16 << 10);

    let message = |i| format!("{{\"role\":\"user\",\"content\":\"Tell me a story about the number {i}, please.\\n\"}}");
    let prompt = |count| {
        let messages = (0..count).map(message).collect::<Vec<_>>().join(", ");
        format!("{{\"model\":\"m\",\"stream\":true,\"messages\":[{messages}],\"temperature\":0.7}}")
    };
    let ignoring = Params { ignore: Ignore::parse("/user,/stream,/metadata").unwrap(), ..blake3.clone() };
    for count in [1, 200, 12_000] {
        let body = prompt(count);
        measure(
            &format!("json, a chat of {} KiB", body.len() >> 10),
            &ignoring,
            "application/json",
            body.as_bytes(),
            16 << 10,
        );
    }
    let image = format!("{{\"image\":\"{}\"}}", "iVBORw0KGgoAAAANSUhEUgAA".repeat(MIB / 24 - 1));
    measure("json, an image in base64", &ignoring, "application/json", image.as_bytes(), 16 << 10);
    for (name, body) in hostile_json() {
        for chunk in [16 << 10, MIB] {
            measure(&format!("json, {name}"), &blake3, "application/json", body.as_bytes(), chunk);
        }
    }

    let stable_fields: [&[u8]; 8] =
        [b"POST", b"server", b"127.0.0.1:443", b"example.com", b"", b"upstream", b"application/json", b""];
    let fields: [&[u8]; 5] = [b"raw", &[7; 32], b"/v1/chat/completions", b"", b"class"];
    let mut context = KeyContext::default();
    let began = Instant::now();
    for _ in 0..100_000 {
        black_box(context.key(black_box(&stable_fields), black_box(&fields)));
    }
    println!("a cache key of 13 fields, 8 of them as before: {:.0} ns", began.elapsed().as_nanos() as f64 / 1e5);
    let began = Instant::now();
    for _ in 0..100_000 {
        black_box(BodyDigest::new(black_box(&plain(Algorithm::Blake3, Form::Raw)), b"", b"").finish(&blake3));
    }
    println!(
        "an empty body: {:.0} ns, {} bytes of state",
        began.elapsed().as_nanos() as f64 / 1e5,
        size_of::<BodyDigest>()
    );
}
