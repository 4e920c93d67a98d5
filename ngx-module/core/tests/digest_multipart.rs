//! Two multipart bodies share a digest if and only if they have the same parts, as the module
//! `digest` promises.

use pincer_core::digest::{
    Algorithm, BodyDigest, Digest, Form, Hashed, Ignore, Params, cache_key, normal_content_type,
};
use proptest::prelude::*;

fn params(form: Form) -> Params {
    Params { algorithm: Algorithm::Blake3, form, ignore: Ignore::default(), json_bytes_max: 1 << 20 }
}

fn digest_with(params: &Params, content_type: &[u8], chunks: &[&[u8]]) -> Digest {
    let mut body = BodyDigest::new(params, content_type, b"");
    chunks.iter().for_each(|chunk| body.update(params, chunk));
    let digest = body.finish(params);
    assert_eq!(BodyDigest::of_complete(params, content_type, b"", &chunks.concat()), digest);
    digest
}

/// With the boundary `b`.
fn digest(body: &[u8]) -> Digest {
    digest_with(&params(Form::Multipart), b"multipart/form-data; boundary=b", &[body])
}

fn parsed(body: &str) -> Digest {
    let digest = digest(body.as_bytes());
    assert_eq!(digest.hashed(), Hashed::Multipart, "{body}");
    digest
}

/// One part with these headers and that content.
fn part(headers: &str, content: &str) -> String {
    format!("--b\r\n{headers}\r\n\r\n{content}\r\n--b--\r\n")
}

const NAMED: &str = "Content-Disposition: form-data; name=\"a\"";

#[test]
fn what_clients_make_up_does_not_matter() {
    let plain =
        parsed(&part("Content-Disposition: form-data; name=\"a\"; filename=\"f\"\r\nContent-Type: image/png", "x"));
    for headers in [
        "content-type:image/png\r\nCONTENT-DISPOSITION:  form-data;filename=f;name=a ",
        "Content-Disposition: Form-Data; FileName=\"f\" ; Name=a\r\nContent-Type: \timage/png\t",
        "Content-Disposition: form-data; name=a; filename=f\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: Binary",
        "Content-Disposition: form-data; name=a; filename=f\r\nContent-Type: image/png\r\nContent-Length: 1",
    ] {
        assert_eq!(parsed(&part(headers, "x")), plain, "{headers}");
    }
    let body = "--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--b--";
    assert_eq!(parsed(body), parsed(&format!("{body}\r\n")));
    let both = format!("{NAMED}\r\nX-B: 2\r\nX-A: 1");
    assert_eq!(parsed(&part(&both, "x")), parsed(&part(&format!("x-a: 1\r\n{NAMED}\r\nx-b: 2"), "x")));
}

#[test]
fn what_a_server_could_see_matters() {
    let bodies = [
        part(NAMED, "x"),
        part(NAMED, "y"),
        part(NAMED, ""),
        part(NAMED, "\r\n"),
        part(NAMED, "x\r\n"),
        part("Content-Disposition: form-data; name=b", "x"),
        part("Content-Disposition: form-data; name=A", "x"),
        part("Content-Disposition: form-data; name=\"\"", "x"),
        part("Content-Disposition: form-data; name=a; filename=\"\"", "x"),
        part("Content-Disposition: form-data; name=a; filename=f", "x"),
        part("Content-Disposition: form-data; name=a; filename*=f", "x"),
        part("Content-Disposition: form-data; name=a; filename*=utf-8''f", "x"),
        part("Content-Disposition: form-data; name=a; size=f", "x"),
        part("Content-Disposition: form-data; name=\"a\\b\"", "x"),
        part("Content-Disposition: form-data; name=\"a\\\\b\"", "x"),
        part("Content-Disposition: form-data; name=\"a\\\"b\"", "x"),
        part(&format!("{NAMED}\r\nContent-Type:"), "x"),
        part(&format!("{NAMED}\r\nContent-Type: text/plain"), "x"),
        part(&format!("{NAMED}\r\nContent-Type: text/plain; charset=utf-8"), "x"),
        part(&format!("{NAMED}\r\nContent-Transfer-Encoding: base64"), "x"),
        part(&format!("{NAMED}\r\nX-A: 1"), "x"),
        part(&format!("{NAMED}\r\nX-A: 1\r\nX-A: 2"), "x"),
        part(&format!("{NAMED}\r\nX-A: 2\r\nX-A: 1"), "x"),
        part(&format!("{NAMED}\r\nX-A: 1\r\nX-B: 2"), "x"),
        format!("--b\r\n{NAMED}\r\n\r\nx\r\n{}", part(NAMED, "x")),
        format!("--b\r\n{NAMED}\r\n\r\nx\r\n{}", part(NAMED, "y")),
        format!("--b\r\n{NAMED}\r\n\r\ny\r\n{}", part(NAMED, "x")),
        "--b--".to_owned(),
    ];
    for (i, a) in bodies.iter().enumerate() {
        for (k, b) in bodies.iter().enumerate() {
            assert_eq!(parsed(a).as_bytes() == parsed(b).as_bytes(), i == k, "{a} {b}");
        }
    }
}

#[test]
fn what_two_programs_could_take_for_different_parts_is_hashed_as_it_came() {
    let long = "x".repeat(8 << 10);
    let mut bad = vec![
        String::new(),
        "--b".to_owned(),
        "--b\r\n".to_owned(),
        "--b-".to_owned(),
        "--c--".to_owned(),
        "--b--\r".to_owned(),
        "--b--\r\n\r\n".to_owned(),
        "--b--\r\nepilogue".to_owned(),
        "--b--x".to_owned(),
        "--b --".to_owned(),
        format!("\r\n{}", part(NAMED, "x")),
        format!("preamble\r\n{}", part(NAMED, "x")),
        format!("--b\r\n{NAMED}\r\n\r\nx"),
        format!("--b\r\n{NAMED}\r\n\r\nx\r\n--b"),
        format!("--b\r\n{NAMED}\r\n\r\nx\r\n--b\r"),
        format!("--b\r\n{NAMED}\r\n\r\nx\r\n--b\r\n"),
        format!("--b\r\n{NAMED}\r\n\r\n--b--\r\n"),
        format!("--b\r\n{NAMED}\r\n\r\n\n--b--\r\n"),
        format!("--b \r\n{NAMED}\r\n\r\nx\r\n--b--\r\n"),
        format!("--b\n{NAMED}\n\nx\n--b--\n"),
        format!("--b\r\n{NAMED}\n\r\n\r\nx\r\n--b--\r\n"),
        "--b\r\n\r\nx\r\n--b--\r\n".to_owned(),
        "--b\r\n\r\n\r\n\r\nx\r\n--b--\r\n".to_owned(),
    ];
    for content in ["a--b", "\n--b\r\n", "\r--b--", "x\r\n--bc\r\n", "\r\n--b x", "\r\n--b-x"] {
        bad.push(part(NAMED, content));
    }
    for headers in [
        "Content-Type: text/plain",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data;",
        "Content-Disposition: form-data; name=a;",
        "Content-Disposition: form-data; name=a; name=a",
        "Content-Disposition: form-data; name=a; NAME=b",
        "Content-Disposition: form-data; name=a; filename=x; filename=y",
        "Content-Disposition: form-data; name=a b",
        "Content-Disposition: form-data; name=",
        "Content-Disposition: form-data; name",
        "Content-Disposition: form-data; name = a",
        "Content-Disposition: form-data; name=\"a",
        "Content-Disposition: form-data; name=\"a\\\"",
        "Content-Disposition: form-data; name=\"a\"b",
        "Content-Disposition: attachment; name=a",
        "Content-Disposition form-data; name=a",
        "Content-Disposition : form-data; name=a",
        " Content-Disposition: form-data; name=a",
        "Content-Disposition: form-data;\r\n name=a",
        "Content-Disposition: form-data; name=a\r",
        "Content-Disposition: form-data; name=a\0",
        "Content-Disposition: form-data; name=a\u{b}",
        "Content-Disposition: form-data; name=a\r\n--b: x",
        "Content-Disposition: form-data; name=a--b",
        ": x\r\nContent-Disposition: form-data; name=a",
        "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=a",
        "Content-Disposition: form-data; name=a\r\nContent-Type: a/b\r\ncontent-type: a/b",
        "Content-Disposition: form-data; name=a\r\nContent-Length: 2",
        "Content-Disposition: form-data; name=a\r\nContent-Length: +1",
        "Content-Disposition: form-data; name=a\r\nContent-Length: 1, 1",
        "Content-Disposition: form-data; name=a\r\nContent-Length: 1\r\nContent-Length: 1",
        &format!("{NAMED}\r\nX-A: {long}"),
        &format!("{NAMED}{}", "\r\nX: 1".repeat(33)),
        &format!("{NAMED}{}", (0..33).map(|i| format!("; p{i}=1")).collect::<String>()),
    ] {
        bad.push(part(headers, "x"));
    }
    for (i, a) in bad.iter().enumerate() {
        assert_eq!(digest(a.as_bytes()).hashed(), Hashed::Unparsed, "{a:?}");
        for (k, b) in bad.iter().enumerate() {
            assert_eq!(digest(a.as_bytes()).as_bytes() == digest(b.as_bytes()).as_bytes(), i == k, "{a:?} {b:?}");
        }
    }
}

#[test]
fn bounds_hold_to_the_byte_and_to_the_part() {
    let filler = |bytes: usize| format!("{NAMED}\r\nX: {}", "x".repeat(bytes - NAMED.len() - "\r\nX: \r\n\r\n".len()));
    assert_eq!(digest(part(&filler(8 << 10), "").as_bytes()).hashed(), Hashed::Multipart);
    assert_eq!(digest(part(&filler((8 << 10) + 1), "").as_bytes()).hashed(), Hashed::Unparsed);
    let many = |count: usize| format!("{}--b--", format!("--b\r\n{NAMED}\r\n\r\nx\r\n").repeat(count));
    assert_eq!(digest(many(1_000).as_bytes()).hashed(), Hashed::Multipart);
    assert_eq!(digest(many(1_001).as_bytes()).hashed(), Hashed::Unparsed);
}

#[test]
fn the_boundary_must_be_one_that_rfc_2046_allows() {
    let hashed = |content_type: &str, boundary: &str| {
        let body = format!("--{boundary}\r\n{NAMED}\r\n\r\nx\r\n--{boundary}--\r\n");
        let digest = digest_with(&params(Form::Auto), content_type.as_bytes(), &[body.as_bytes()]);
        if digest.hashed() == Hashed::Multipart {
            assert_eq!(digest, parsed(&part(NAMED, "x")), "{content_type}");
        }
        digest.hashed()
    };
    let long = "b".repeat(70);
    for (content_type, boundary) in [
        ("multipart/form-data; boundary=b", "b"),
        ("Multipart/Form-Data;BOUNDARY=\"b\"; charset=utf-8", "b"),
        (
            "multipart/form-data; charset=\"a\\\"; boundary=c\" ; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        ("multipart/form-data; boundary=\"a b'()+_,-./:=?z\"", "a b'()+_,-./:=?z"),
        (&format!("multipart/form-data; boundary={long}"), &long),
    ] {
        assert_eq!(hashed(content_type, boundary), Hashed::Multipart, "{content_type}");
    }
    for (content_type, boundary) in [
        ("multipart/form-data", "b"),
        ("multipart/form-data; boundary", "b"),
        ("multipart/form-data; boundary=", ""),
        ("multipart/form-data; boundary=\"\"", ""),
        ("multipart/form-data; boundary=\"b \"", "b "),
        ("multipart/form-data; boundary=b; boundary=b", "b"),
        ("multipart/form-data; boundary=b; x", "b"),
        ("multipart/form-data; boundary=\"a\\b\"", "ab"),
        ("multipart/form-data; boundary=a=b", "a=b"),
        ("multipart/form-data; boundary=b, multipart/form-data; boundary=b", "b"),
        ("multipart/form-data; boundary=\"b", "b"),
        (&format!("multipart/form-data; boundary={long}b"), &format!("{long}b")),
    ] {
        assert_eq!(hashed(content_type, boundary), Hashed::Unparsed, "{content_type}");
    }
    assert_eq!(hashed("multipart/mixed; boundary=b", "b"), Hashed::Raw);
    let mixed = digest_with(&params(Form::Multipart), b"multipart/mixed; boundary=b", &[b"--b--"]);
    assert_eq!(mixed.hashed(), Hashed::Unparsed);
}

#[test]
fn the_boundary_is_left_out_of_the_keys_content_type() {
    let normal = |content_type: &'static str| {
        normal_content_type(content_type.as_bytes(), Hashed::Multipart).map(|field| std::str::from_utf8(field).unwrap())
    };
    for bare in
        ["multipart/form-data; boundary=x", "multipart/form-data;boundary=\"y\"", "multipart/form-data ; boundary=z "]
    {
        assert_eq!(normal(bare), ["multipart/form-data", ""], "{bare}");
    }
    let charset = "multipart/form-data; boundary=x ; charset=utf-8";
    assert_eq!(normal(charset), ["multipart/form-data", "charset=utf-8"]);
    assert_eq!(normal("multipart/form-data; charset=utf-8; boundary=x"), ["multipart/form-data; charset=utf-8", ""]);
    for hashed in [Hashed::Raw, Hashed::Json, Hashed::Unparsed] {
        assert_eq!(normal_content_type(charset.as_bytes(), hashed), [charset.as_bytes(), b""]);
    }
}

/// A part as the tests know it.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    content: Vec<u8>,
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let text = || prop_oneof!["[a-z]{0,3}", "[a-z é;=]{1,8}"];
    let content = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(prop::sample::select(b"\r\n-b".to_vec()), 0..12),
        prop::collection::vec(any::<u8>(), 0..2_000),
    ];
    let part = (text(), prop::option::of(text()), prop::option::of("[a-z]{1,3}/[a-z]{1,3}"), content)
        .prop_map(|(name, filename, content_type, content)| Part { name, filename, content_type, content });
    prop::collection::vec(part, 0..4)
}

/// Writes the parts with a boundary and with choices that do not matter, which are the bits of
/// `seed`.
fn write(parts: &[Part], boundary: &str, seed: u64) -> Vec<u8> {
    let mut seed = seed;
    let mut coin = || {
        seed = seed.rotate_right(1);
        seed & 1 == 1
    };
    let mut out = Vec::new();
    for part in parts {
        let quoted = |text: &str, coin: bool| {
            let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase());
            if is_token && coin { text.to_owned() } else { format!("\"{text}\"") }
        };
        let mut parameters = vec![format!("name={}", quoted(&part.name, coin()))];
        parameters.extend(part.filename.iter().map(|name| format!("Filename={}", quoted(name, coin()))));
        if coin() {
            parameters.reverse();
        }
        let mut headers =
            vec![format!("Content-Disposition: form-data; {}", parameters.join(if coin() { "; " } else { ";" }))];
        headers.extend(
            part.content_type
                .iter()
                .map(|kind| format!("{}: {kind}", if coin() { "Content-Type" } else { "CONTENT-type" })),
        );
        if coin() {
            headers.push(format!("Content-Length: {}", part.content.len()));
        }
        if coin() {
            headers.reverse();
        }
        out.extend_from_slice(format!("--{boundary}\r\n{}\r\n\r\n", headers.join("\r\n")).as_bytes());
        out.extend_from_slice(&part.content);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--{}", if coin() { "\r\n" } else { "" }).as_bytes());
    out
}

fn written(parts: &[Part], boundary: &str, seed: u64) -> Digest {
    let content_type = format!("multipart/form-data; boundary=\"{boundary}\"");
    digest_with(&params(Form::Auto), content_type.as_bytes(), &[&write(parts, boundary, seed)])
}

fn holds(parts: &[Part], boundary: &str) -> bool {
    let needle = format!("--{boundary}");
    // the part's own last bytes and the line's end before the next delimiter may form one, too
    parts.iter().any(|part| {
        [&part.content[..], b"\r\n"].concat().windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_digest_is_of_the_parts_and_of_nothing_else(
        a in parts(), b in parts(), boundaries in ["[-a-z]{6,20}", "-{0,40}[0-9a-z]{8,30}"], seeds in any::<[u64; 2]>(),
    ) {
        prop_assume!(!boundaries.iter().any(|boundary| holds(&a, boundary) || holds(&b, boundary)));
        let first = written(&a, &boundaries[0], seeds[0]);
        prop_assert_eq!(first.hashed(), Hashed::Multipart);
        prop_assert_eq!(first, written(&a, &boundaries[1], seeds[1]));
        prop_assert_eq!(first == written(&b, &boundaries[1], seeds[0]), a == b);
    }

    #[test]
    fn any_change_of_one_contents_byte_changes_the_digest(
        parts in parts(), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let boundary = "0123456789abcdefghij";
        prop_assume!(!parts.is_empty() && !parts[which.index(parts.len())].content.is_empty());
        let mut changed = parts.clone();
        *at.get_mut(&mut which.get_mut(&mut changed).content) = byte;
        prop_assume!(!holds(&parts, boundary) && !holds(&changed, boundary));
        prop_assert_eq!(written(&parts, boundary, 0) == written(&changed, boundary, 0), parts == changed);
    }

    #[test]
    fn split_points_never_matter(
        parts in parts(), boundary in "[-b]{1,4}", noise in "[-b\r\n]{0,6}", at in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9), seed in any::<u64>(),
    ) {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let mut body = write(&parts, &boundary, seed);
        let at = at.index(body.len() + 1);
        body.splice(at..at, noise.bytes());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
        let of = |chunks: &[&[u8]]| digest_with(&params(Form::Multipart), content_type.as_bytes(), chunks);
        let whole = of(&[&body]);
        prop_assert_eq!(whole, of(&chunks));
        prop_assert_eq!(whole, of(&body.chunks(1).collect::<Vec<_>>()));
    }

    #[test]
    fn unread_bodies_agree_only_if_their_bytes_do(parts in parts(), noise in "[-b\r\n]{1,6}", at in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let body = write(&parts, "b", 0);
        let with = |at: prop::sample::Index| {
            let (mut body, at) = (body.clone(), at.index(body.len() + 1));
            body.splice(at..at, noise.bytes());
            body
        };
        let (a, b) = (with(at), with(other));
        let (first, second) = (digest(&a), digest(&b));
        if first.hashed() == Hashed::Unparsed || second.hashed() == Hashed::Unparsed {
            prop_assert_eq!(first == second, a == b);
        }
    }

    #[test]
    fn the_keys_encoding_is_injective(a in fields(), b in fields(), cut in any::<prop::sample::Index>()) {
        let key = |fields: &[Vec<u8>]| cache_key(&fields.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert_eq!(key(&a) == key(&b), a == b);
        // the same bytes, cut elsewhere
        let all = a.concat();
        let (left, right) = all.split_at(cut.index(all.len() + 1));
        let moved = vec![left.to_vec(), right.to_vec()];
        prop_assert_eq!(key(&a) == key(&moved), a == moved);
    }
}

fn fields() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(prop::sample::select(vec![0, 1, b'a', b'b']), 0..4), 0..4)
}

#[test]
fn a_key_knows_where_its_fields_end() {
    assert_ne!(cache_key(&[b"ab", b"c"]), cache_key(&[b"a", b"bc"]));
    assert_ne!(cache_key(&[b"ab"]), cache_key(&[b"ab", b""]));
    assert_ne!(cache_key(&[]), cache_key(&[b""]));
}
