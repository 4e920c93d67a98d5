//! Two JSON bodies share a digest if and only if they have the same value, as the module `digest`
//! promises.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use pincer_core::digest::{Algorithm, BodyDigest, Digest, Form, Hashed, Ignore, Params};
use proptest::prelude::*;

fn params(ignore: &str) -> Params {
    Params {
        algorithm: Algorithm::Blake3,
        form: Form::Json,
        ignore: Ignore::parse(ignore).unwrap(),
        json_bytes_max: 1 << 20,
    }
}

fn digest_with(params: &Params, content_type: &str, chunks: &[&[u8]]) -> Digest {
    let mut body = BodyDigest::new(params, content_type.as_bytes(), b"");
    chunks.iter().for_each(|chunk| body.update(params, chunk));
    let digest = body.finish(params);
    assert_eq!(BodyDigest::of_complete(params, content_type.as_bytes(), b"", &chunks.concat()), digest);
    digest
}

fn digest(ignore: &str, body: &[u8]) -> Digest {
    digest_with(&params(ignore), "", &[body])
}

fn parsed(ignore: &str, body: &str) -> Digest {
    let digest = digest(ignore, body.as_bytes());
    assert_eq!(digest.hashed(), Hashed::Json, "{body}");
    digest
}

fn same(ignore: &str, a: &str, b: &str) {
    assert_eq!(parsed(ignore, a), parsed(ignore, b), "{a} {b}");
}

fn different(ignore: &str, a: &str, b: &str) {
    assert_ne!(parsed(ignore, a), parsed(ignore, b), "{a} {b}");
}

#[test]
fn white_space_order_and_escapes_do_not_matter() {
    same("", r#"{"a":1,"b":[true,null,"x"]}"#, "\r\n{ \"b\" :\t[true , null,\"\\u0078\"],\n\"a\": 1 } ");
    same(
        "",
        r#"{"b":{"d":1,"c":2},"a":{"f":[{"z":1,"y":2}],"e":0}}"#,
        r#"{"a":{"e":0,"f":[{"y":2,"z":1}]},"b":{"c":2,"d":1}}"#,
    );
    same("", r#""\u0041\/\u00e9\ud83d\ude00\u0008""#, "\"A/é😀\\b\"");
    same("", r#""\u001F\u0000""#, r#""\u001f\u0000""#);
    same("", r#"{"\u0061":1}"#, r#"{"a":1}"#);
    same("", "17", " 17\n");
    same("", "[]", "[ ]");
    same("", "{}", "{ }");
}

#[test]
fn values_and_spellings_of_numbers_differ() {
    for (a, b) in [
        ("1", "1.0"),
        ("1", "1e0"),
        ("1e0", "1E0"),
        ("0", "-0"),
        ("10", "1e1"),
        ("1e+1", "1e1"),
        ("\"1\"", "1"),
        ("null", "\"null\""),
        ("true", "false"),
        ("[]", "{}"),
        ("[[]]", "[]"),
        ("[1,2]", "[2,1]"),
        ("[1,2]", "[12]"),
        (r#"{"a":1}"#, r#"{"a":2}"#),
        (r#"{"a":1}"#, r#"{"b":1}"#),
        (r#"{"a":"b,c"}"#, r#"{"a":"b","c":""}"#),
        (r#"["a","b"]"#, r#"["a\",\"b"]"#),
        (r#""é""#, r#""e\u0301""#),
        (r#"{"a":{"b":1},"c":2}"#, r#"{"a":{"b":1,"c":2}}"#),
        (r#"{"b":[1],"a":[2]}"#, r#"{"b":[2],"a":[1]}"#),
        (r#""\\n""#, r#""\n""#),
        ("\"?\"", "\"\""),
    ] {
        different("", a, b);
    }
}

#[test]
fn ignored_members_do_not_matter_wherever_they_stand() {
    same("/user", r#"{"user":"x","a":1}"#, r#"{"a":1}"#);
    same("/user", r#"{"user":{"b":1,"a":[{"d":1,"c":2}]},"z":{"b":1,"a":2}}"#, r#"{"z":{"a":2,"b":1},"\u0075ser":7}"#);
    same("/user", r#"{"user":1}"#, "{}");
    same("/user,/stream", r#"{"stream":true,"a":1,"user":0}"#, r#"{"a":1}"#);
    different("/user", r#"{"a":{"user":1}}"#, r#"{"a":{"user":2}}"#);
    same("/a/user", r#"{"a":{"user":1}}"#, r#"{"a":{}}"#);
    same("/messages/0/id", r#"{"messages":[{"id":1},{"id":2}]}"#, r#"{"messages":[{"id":3},{"id":2}]}"#);
    different("/messages/0/id", r#"{"messages":[{"id":1},{"id":2}]}"#, r#"{"messages":[{"id":1},{"id":3}]}"#);
    same("/a~1b", r#"{"a/b":1}"#, "{}");
    same("/m~0n", r#"{"m~n":1}"#, "{}");
    same("/é", r#"{"\u00e9":1}"#, "{}");
    same("/", r#"{"":1,"a":2}"#, r#"{"a":2}"#);
    same("/q\"", r#"{"q\"":1}"#, "{}");
    same("/1", r#"{"1":7}"#, "{}");
}

#[test]
fn what_is_ignored_is_part_of_the_identity() {
    let of = |ignore| parsed(ignore, r#"{"a":1}"#);
    assert_eq!(of("/user,/seed/x"), of("/seed/x,/user"));
    assert_eq!(of("/a~1b"), of("/a~1b"));
    let lists = ["", "/user", "/seed", "/user,/seed", "/user/seed", "/user,/seed/x", "/", "/0", "/user,/", "/user/"];
    let different: HashSet<Vec<u8>> = lists.iter().map(|list| of(list).as_bytes().to_vec()).collect();
    assert_eq!(different.len(), lists.len());
    // A body that is not read is hashed as it came, whatever would not have counted.
    assert_eq!(digest("/user", b"{"), digest("", b"{"));
}

#[test]
fn an_ignored_element_keeps_its_place() {
    same("/a/1", r#"{"a":[1,2,3]}"#, r#"{"a":[1,{"x":[]},3]}"#);
    different("/a/1", r#"{"a":[1,2,3]}"#, r#"{"a":[1,3]}"#);
    different("/a/1", r#"{"a":[1,2]}"#, r#"{"a":[1]}"#);
    same("/0", "[1]", "[2]");
    different("/01", "[1,2]", "[1,3]");
    different("/-", "[1]", "[2]");
    different("/0", "[1]", "[\"?\",1]");
}

#[test]
fn what_is_not_json_or_is_read_differently_is_hashed_as_it_came() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(digest("", deep(128).as_bytes()).hashed(), Hashed::Json);
    let too_deep = deep(129);
    let bad: &[&[u8]] = &[
        b"",
        b" ",
        b"{",
        b"[1",
        b"\"a",
        b"tru",
        b"nulll",
        b"1 2",
        b"{}{}",
        b"[1,]",
        b"{\"a\":1,}",
        b"{,}",
        b"[,1]",
        b"{\"a\"}",
        b"{a:1}",
        b"{1:2}",
        b"{\"a\":1 \"b\":2}",
        b"[1}",
        b"{\"a\":1]",
        b"]",
        b"01",
        b"-",
        b"1.",
        b".5",
        b"+1",
        b"1e",
        b"1e+",
        b"--1",
        b"0x1",
        b"NaN",
        b"True",
        b"'a'",
        b"\xef\xbb\xbf{}",
        b"\"\xff\"",
        b"\"\xc3\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xc0\x80\"",
        b"\"\n\"",
        b"\"\t\"",
        b"\"\0\"",
        b"\"\\x\"",
        b"\"\\u12g4\"",
        b"\"\\ud800\"",
        b"\"\\ud800\\u0041\"",
        b"\"\\ud800x\"",
        b"\"\\udc00\"",
        b"\"\\ud800\\n\"",
        b"{\"a\":1,\"a\":1}",
        b"{\"a\":1,\"\\u0061\":2}",
        b"\"\xc3\\u00a9\"",
        b"{\"user\":1,\"user\":2}",
        b"{\"user\":{\"x\":1,\"x\":2}}",
        b"{\"b\":1,\"a\":2,\"b\":3}",
        b"//\n1",
        b"1\0",
        b"{} x",
        b"\x0c1",
        too_deep.as_bytes(),
    ];
    for body in bad {
        let text = String::from_utf8_lossy(body);
        let found = digest("/user", body);
        assert_eq!(found.hashed(), Hashed::Unparsed, "{text}");
        for other in bad {
            assert_eq!(digest("/user", other).as_bytes() == found.as_bytes(), other == body, "{text}");
        }
        let raw = Params { form: Form::Raw, ..params("") };
        assert_ne!(digest_with(&raw, "", &[body]).as_bytes(), found.as_bytes(), "{text}");
    }
}

#[test]
fn a_canonical_text_sent_as_a_body_of_another_form_differs() {
    let body = br#"{"a":1}"#;
    let raw = digest_with(&Params { form: Form::Raw, ..params("") }, "", &[body]);
    for algorithm in Algorithm::ALL {
        let of = |form| digest_with(&Params { algorithm, form, ..params("") }, "", &[body]);
        assert_ne!(of(Form::Raw).as_bytes(), of(Form::Json).as_bytes());
        assert_ne!(of(Form::Multipart).as_bytes(), of(Form::Json).as_bytes());
        assert_ne!(of(Form::Multipart).as_bytes(), of(Form::Raw).as_bytes());
    }
    assert_eq!(raw.hashed(), Hashed::Raw);
}

#[test]
fn auto_goes_by_the_content_type() {
    let auto = Params { form: Form::Auto, ..params("") };
    let hashed = |content_type| digest_with(&auto, content_type, &[b"{}"]).hashed();
    for json in
        ["application/json", "Application/JSON; charset=utf-8", "application/ld+json", "application/problem+JSON ;x"]
    {
        assert_eq!(hashed(json), Hashed::Json, "{json}");
    }
    for raw in [
        "",
        "text/plain",
        "application/jsonx",
        "application/+json",
        "application/json5",
        "text/json",
        "application/json/x+json",
        "application/a b+json",
    ] {
        assert_eq!(hashed(raw), Hashed::Raw, "{raw}");
    }
}

#[test]
fn a_body_over_the_bound_is_hashed_as_it_came() {
    let small = Params { json_bytes_max: 7, ..params("") };
    assert_eq!(digest_with(&small, "", &[br#"{"a":1}"#]).hashed(), Hashed::Json);
    let over = digest_with(&small, "", &[br#"{"a":1}"#, b" "]);
    assert_eq!(over.hashed(), Hashed::Unparsed);
    assert_eq!(over, digest_with(&small, "", &[br#"{"a":1} "#]));
    assert_ne!(over, digest_with(&small, "", &[br#"{"a":1}  "#]));
    let none = Params { json_bytes_max: 0, ..params("") };
    assert_eq!(digest_with(&none, "", &[b"1"]).hashed(), Hashed::Unparsed);
}

#[test]
fn lists_of_pointers_are_checked() {
    let error = |list: &str| Ignore::parse(list).unwrap_err().to_string();
    assert!(error("/a,").contains("empty pointer"));
    assert!(error("user").contains("\"user\" must begin with \"/\""));
    assert!(error("/a~2").contains("\"/a~2\""));
    assert!(error("/a~").contains("\"/a~\""));
    assert!(error("/a,/b,/a").contains("\"/a\" is given twice"));
    assert!(error(&"/x".repeat(33)).contains("deeper"));
    let many = |count: usize| (0..count).map(|i| format!("/{i}")).collect::<Vec<_>>().join(",");
    assert!(error(&many(33)).contains("\"/32\" is too many"));
    assert!(!Ignore::parse(&many(32)).unwrap().is_empty());
    assert!(Ignore::parse("").unwrap().is_empty());
}

/// A JSON value as the tests know it: keys unique, numbers by their spelling.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Atom(&'static str),
    Text(String),
    List(Vec<Value>),
    Members(BTreeMap<String, Value>),
}

fn value() -> impl Strategy<Value = Value> {
    let atom = prop::sample::select(vec!["null", "true", "false", "0", "-0", "1", "1.0", "1e0", "-12.5E+7"]);
    let key =
        prop_oneof!["[a-c]{0,3}", "\\PC{0,3}", prop::collection::vec(any::<char>(), 0..3).prop_map(String::from_iter)];
    let leaf = prop_oneof![atom.prop_map(Value::Atom), key.clone().prop_map(Value::Text)];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::btree_map(key.clone(), inner, 0..6).prop_map(Value::Members),
        ]
    })
}

/// Choices that do not matter, from a stream of numbers.
struct Spelling(u64);

impl Spelling {
    fn choose(&mut self, among: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % among
    }

    fn blank(&mut self, out: &mut String) {
        out.push_str(["", "", "", " ", "\n\t", "\r"][usize::try_from(self.choose(6)).unwrap()]);
    }

    fn text(&mut self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            let must = c < ' ' || c == '"' || c == '\\';
            if must || self.choose(4) == 0 {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ =
                        if self.choose(2) == 0 { write!(out, "\\u{unit:04x}") } else { write!(out, "\\u{unit:04X}") };
                }
            } else {
                out.push(c);
            }
        }
        out.push('"');
    }

    fn write(&mut self, value: &Value, out: &mut String) {
        self.blank(out);
        match value {
            Value::Atom(text) => out.push_str(text),
            Value::Text(text) => self.text(text, out),
            Value::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    self.write(item, out);
                }
                self.blank(out);
                out.push(']');
            }
            Value::Members(members) => {
                let mut members: Vec<_> = members.iter().collect();
                for i in (1..members.len()).rev() {
                    members.swap(i, usize::try_from(self.choose(i as u64 + 1)).unwrap());
                }
                out.push('{');
                for (i, (key, member)) in members.into_iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    self.blank(out);
                    self.text(key, out);
                    self.blank(out);
                    out.push(':');
                    self.write(member, out);
                }
                self.blank(out);
                out.push('}');
            }
        }
        self.blank(out);
    }
}

fn spell(value: &Value, seed: u64) -> String {
    let mut out = String::new();
    Spelling(seed).write(value, &mut out);
    out
}

/// The value without what the pointer leads to: a member goes, an element becomes a mark.
fn without(value: &Value, path: &[&str]) -> Value {
    let Some((first, rest)) = path.split_first() else { return Value::Text("gone".to_owned()) };
    match value {
        Value::Members(members) => {
            let mut members = members.clone();
            match members.get(*first) {
                Some(_) if rest.is_empty() => drop(members.remove(*first)),
                Some(inner) => drop(members.insert((*first).to_owned(), without(inner, rest))),
                None => (),
            }
            Value::Members(members)
        }
        Value::List(items) => {
            let mut items = items.clone();
            if let Some(item) = first.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                *item = without(item, rest);
            }
            Value::List(items)
        }
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_digest_is_of_the_value_and_of_nothing_else(a in value(), b in value(), seeds in any::<[u64; 2]>()) {
        let (first, second) = (spell(&a, seeds[0]), spell(&a, seeds[1]));
        prop_assert_eq!(parsed("", &first), parsed("", &second), "{} {}", first, second);
        let other = spell(&b, seeds[0]);
        prop_assert_eq!(parsed("", &other) == parsed("", &first), a == b, "{} {}", first, other);
    }

    #[test]
    fn what_serde_reads_is_what_we_read(a in value(), at in any::<prop::sample::Index>(), byte in any::<u8>(), seed in any::<u64>()) {
        let original = spell(&a, seed);
        let mut body = original.clone().into_bytes();
        *at.get_mut(&mut body) = byte;
        let is_json = digest("", &body).hashed() == Hashed::Json;
        let serde = serde_json::from_slice::<serde_json::Value>(&body);
        prop_assert!(!is_json || serde.is_ok() || serde.as_ref().is_err_and(|error| error.to_string().contains("out of range")));
        if let (true, Ok(serde)) = (is_json, &serde) {
            let before: serde_json::Value = serde_json::from_str(&original).unwrap();
            prop_assert!(*serde == before || digest("", &body) != parsed("", &original), "{:?}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn split_points_never_matter(a in value(), garbage in "[\\[\\]{}\":,0-9 a\\\\u]{0,9}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9), seed in any::<u64>()) {
        let params = params("/a,/b/c,/0");
        for body in [spell(&a, seed), spell(&a, seed) + &garbage] {
            let body = body.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
            let whole = digest_with(&params, "", &[body]);
            prop_assert_eq!(whole, digest_with(&params, "", &chunks));
            prop_assert_eq!(whole, digest_with(&params, "", &body.chunks(1).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn ignoring_is_taking_out(a in value(), b in value(), seeds in any::<[u64; 2]>()) {
        for pointer in ["/a", "/b/a", "/0", "/a/1", "/1/b/0"] {
            let path: Vec<&str> = pointer[1..].split('/').collect();
            let is_same = without(&a, &path) == without(&b, &path);
            let (a, b) = (parsed(pointer, &spell(&a, seeds[0])), parsed(pointer, &spell(&b, seeds[1])));
            prop_assert_eq!(a == b, is_same);
        }
        for pointer in ["/a", "/b/a", "/0", "/a/1", "/1/b/0"] {
            let path: Vec<&str> = pointer[1..].split('/').collect();
            let taken = without(&a, &path);
            let again = parsed(pointer, &spell(&taken, seeds[1]));
            prop_assert_eq!(parsed(pointer, &spell(&a, seeds[0])), again, "{}", pointer);
        }
    }
}

/// Bodies that could cost more than their length; none may take unreasonably long, which the test
/// runner would show.
#[test]
fn hostile_bodies_are_read_in_linear_time() {
    let keys = (0..16_384).rev().map(|i| format!("\"{i:08}\":1")).collect::<Vec<_>>().join(",");
    let many = format!("{{{keys}}}");
    let nested = format!("{}{}{}", "{\"b\":".repeat(127), many, ",\"a\":1}".repeat(127));
    let mut sorted: Vec<String> = (0..16_384).map(|i| format!("\"{i:08}\":1")).collect();
    let sorted_many = format!("{{{}}}", sorted.join(","));
    let sorted_nested = format!("{}{}{}", "{\"a\":1,\"b\":".repeat(127), sorted_many, "}".repeat(127));
    assert_eq!(parsed("", &many), parsed("", &sorted_many));
    assert_eq!(parsed("", &nested), parsed("", &sorted_nested));
    let one_more = format!("{{{},\"x\":1}}", sorted.join(","));
    assert_eq!(digest("", one_more.as_bytes()).hashed(), Hashed::Unparsed);
    sorted[1] = sorted[0].clone();
    assert_eq!(digest("", format!("{{{}}}", sorted.join(",")).as_bytes()).hashed(), Hashed::Unparsed);
}
