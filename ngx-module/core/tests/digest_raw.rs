//! Plain digests are those of other authors' tools, and a content coding keeps a body apart.

#![allow(clippy::cast_possible_truncation)]

use pincer_core::digest::{Algorithm, BodyDigest, Digest, Form, Hashed, Ignore, Params};
use proptest::prelude::*;

fn params(algorithm: Algorithm) -> Params {
    Params { algorithm, form: Form::Raw, ignore: Ignore::default(), json_bytes_max: 1 << 20 }
}

fn digest(algorithm: Algorithm, coding: &[u8], chunks: &[&[u8]]) -> Digest {
    let params = params(algorithm);
    let mut body = BodyDigest::new(&params, b"application/json", coding);
    chunks.iter().for_each(|chunk| body.update(&params, chunk));
    assert_eq!(body.bytes(), chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
    let digest = body.finish(&params);
    assert_eq!(BodyDigest::of_complete(&params, b"application/json", coding, &chunks.concat()), digest);
    digest
}

/// From other authors' code: ring for SHA-256, xxhash-rust for XXH3.
fn other(algorithm: Algorithm, body: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match algorithm {
        Algorithm::Blake3 => hex(blake3::hash(body).as_bytes()),
        Algorithm::Sha256 => hex(ring::digest::digest(&ring::digest::SHA256, body).as_ref()),
        Algorithm::Xxh3 => format!("{:032x}", xxhash_rust::xxh3::xxh3_128(body)),
    }
}

/// From the BLAKE3 authors' test_vectors.json: the input is 0, 1, … 250, 0, 1, …
const BLAKE3_VECTORS: [(usize, &str); 5] = [
    (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
    (1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11"),
    (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
    (102_400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"),
];

#[test]
fn blake3_gives_its_authors_vectors() {
    for (len, expected) in BLAKE3_VECTORS {
        let input: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        assert_eq!(digest(Algorithm::Blake3, b"", &[&input]).hex().as_str(), expected, "{len} bytes");
    }
}

#[test]
fn an_empty_body_has_the_digest_that_the_tools_print() {
    let text = |algorithm| digest(algorithm, b"", &[]).hex().as_str().to_owned();
    assert_eq!(text(Algorithm::Sha256), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(text(Algorithm::Xxh3), "99aa06d3014798d86001c324468d497f");
    for algorithm in Algorithm::ALL {
        assert_eq!(text(algorithm), other(algorithm, b""));
        assert_eq!(text(algorithm).len(), algorithm.hex_len());
        assert_eq!(Algorithm::by_name(algorithm.name()), Some(algorithm));
    }
}

#[test]
fn a_content_coding_is_part_of_the_identity() {
    for algorithm in Algorithm::ALL {
        let of = |coding: &[u8]| digest(algorithm, coding, &[b"body"]);
        assert_eq!(of(b""), of(b"identity"));
        assert_eq!(of(b""), of(b" Identity "));
        assert_eq!(of(b"gzip"), of(b"GZIP"));
        assert_ne!(of(b"").as_bytes(), of(b"gzip").as_bytes());
        assert_ne!(of(b"gzip").as_bytes(), of(b"br").as_bytes());
        assert_eq!(of(b"gzip").hashed(), Hashed::Raw);
        assert_ne!(digest(algorithm, b"gzi", &[b"pbody"]), of(b"gzip"));
        assert_ne!(digest(algorithm, b"", &[b"\x04\0\0\0\0\0\0\0gzipbody"]).as_bytes(), of(b"gzip").as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_digest_of_another_authors_code(
        body in prop::collection::vec(any::<u8>(), 0..20_000),
        cuts in prop::collection::vec(0_usize..20_000, 0..8),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
        for algorithm in Algorithm::ALL {
            let digest = digest(algorithm, b"", &chunks);
            let text = digest.hex();
            prop_assert_eq!(text.as_str(), other(algorithm, &body));
            prop_assert_eq!(digest.hashed(), Hashed::Raw);
        }
    }
}

#[test]
fn a_body_trickled_byte_by_byte_has_the_same_digest() {
    let body: Vec<u8> = (0..5_000_u32).map(|i| (i * 7 % 256) as u8).collect();
    let chunks: Vec<&[u8]> = body.chunks(1).collect();
    for algorithm in Algorithm::ALL {
        assert_eq!(digest(algorithm, b"", &chunks).hex().as_str(), other(algorithm, &body));
    }
}
