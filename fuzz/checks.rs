//! What must hold for any body whatever: shared by the fuzz targets and by the test that runs their
//! corpus.
//!
//! Each takes bytes and panics if a promise of `pincer_core::digest` does not hold for them.

#![allow(dead_code)] // each fuzz target uses one of them

use pincer_core::digest::{Algorithm, BodyDigest, Digest, Form, Hashed, Ignore, Params};

/// A boundary that is long enough not to come about by chance, and another one.
const BOUNDARY: &str = "0123456789ab";
const OTHER: &str = "--zyxwvutsrqponm";

fn params(form: Form) -> Params {
    let ignore = Ignore::parse("/a,/b/c,/0,/1/a").expect("a list of pointers");
    Params { algorithm: Algorithm::Xxh3, form, ignore, json_bytes_max: 64 << 10 }
}

fn digest<'a>(params: &Params, content_type: &str, chunks: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut body = BodyDigest::new(params, content_type.as_bytes(), b"");
    chunks.into_iter().for_each(|chunk| body.update(params, chunk));
    body.finish(params)
}

/// Two texts with a byte between them that no JSON has: what is read, serde_json reads too, and
/// what agrees is the same to it.
pub fn json(data: &[u8]) {
    let params = Params { ignore: Ignore::default(), ..params(Form::Json) };
    let read = |text: &[u8]| {
        let digest = digest(&params, "", [text]);
        let serde = serde_json::from_slice::<serde_json::Value>(text);
        match (&serde, digest.hashed()) {
            // serde_json reads numbers, of which we keep the spelling
            (Err(error), Hashed::Json) => assert!(error.to_string().contains("number out of range"), "{error}"),
            (_, hashed) => assert!(matches!(hashed, Hashed::Json | Hashed::Unparsed)),
        }
        (digest, serde.ok())
    };
    let (first, rest) = data.split_at(data.iter().position(|&byte| byte == 0xff).unwrap_or(data.len()));
    let second = rest.get(1..).unwrap_or_default();
    let ((a, a_value), (b, b_value)) = (read(first), read(second));
    assert!(a != b || a_value == b_value);
    assert!(a != b || first == second || a.hashed() == Hashed::Json);
    let spaced = [b" \r\n", first, b"\t"].concat();
    if a.hashed() == Hashed::Json && spaced.len() <= params.json_bytes_max {
        assert_eq!(a, digest(&params, "", [&spaced[..]]));
    }
    // in an array each keeps its place, and the second is ignored
    let ignoring = self::params(Form::Json);
    let pair = |x: &[u8], y: &[u8]| digest(&ignoring, "", [&b"["[..], x, b",", y, b"]"]);
    if a.hashed() == Hashed::Json && b.hashed() == Hashed::Json {
        let (ab, ba) = (pair(first, second), pair(second, first));
        let is_read = ab.hashed() == Hashed::Json && ba.hashed() == Hashed::Json;
        assert!(!is_read || pair(second, second) == ab, "an ignored element matters");
    }
}

/// A body with a known boundary: whatever is read has the same parts with another boundary.
pub fn multipart(data: &[u8]) {
    let params = params(Form::Multipart);
    let content_type = |boundary| format!("multipart/form-data; boundary={boundary}");
    let first = digest(&params, &content_type(BOUNDARY), [data]);
    assert!(matches!(first.hashed(), Hashed::Multipart | Hashed::Unparsed));
    if data.windows(OTHER.len()).any(|window| window == OTHER.as_bytes()) {
        return;
    }
    let mut repacked = Vec::new();
    let mut rest = data;
    while let Some(at) =
        rest.windows(BOUNDARY.len() + 2).position(|w| w.starts_with(b"--") && w.ends_with(BOUNDARY.as_bytes()))
    {
        repacked.extend_from_slice(&rest[..at]);
        repacked.extend_from_slice(b"--");
        repacked.extend_from_slice(OTHER.as_bytes());
        rest = &rest[at + 2 + BOUNDARY.len()..];
    }
    repacked.extend_from_slice(rest);
    let second = digest(&params, &content_type(OTHER), [&repacked[..]]);
    if first.hashed() == Hashed::Multipart && second.hashed() == Hashed::Multipart {
        assert_eq!(first, second);
    }
    if first.hashed() == Hashed::Unparsed && repacked != data {
        assert_ne!(first, second);
    }
    // one more byte is never the same body
    assert_ne!(first, digest(&params, &content_type(BOUNDARY), [data, b"x"]));
}

/// Four bytes that choose form, algorithm and cuts, then a body: however it is cut, the digest is
/// the same.
pub fn split(data: &[u8]) {
    let Some((&[form, algorithm, step, jitter], body)) = data.split_first_chunk::<4>() else { return };
    let params = Params {
        algorithm: Algorithm::ALL[usize::from(algorithm) % 3],
        json_bytes_max: if algorithm & 0x80 == 0 { 64 << 10 } else { 40 },
        ..params(Form::ALL[usize::from(form) % 4])
    };
    let kind = ["application/json", "multipart/form-data; boundary=b", "multipart/form-data; boundary=\"--\"", ""]
        [usize::from(form >> 2) % 4];
    let whole = digest(&params, kind, [body]);
    assert_eq!(whole, digest(&params, kind, body.chunks(1)));
    let mut digest = BodyDigest::new(&params, kind.as_bytes(), b"");
    let (mut rest, mut len) = (body, usize::from(step));
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(len.clamp(1, rest.len()));
        digest.update(&params, chunk);
        digest.update(&params, b"");
        (rest, len) = (after, (len * 5 + usize::from(jitter)) % 97);
    }
    assert_eq!(digest.bytes(), body.len() as u64);
    assert_eq!(whole, digest.finish(&params));
}
