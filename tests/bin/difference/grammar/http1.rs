//! HTTP/0.9, 1.0 and 1.1, right and wrong (RFC 9112).

use rand::Rng;
use rand::rngs::SmallRng;

use super::Segments;
use super::parts::{body, header, headers, mutate, once_in, one, split, target};

/// A request from its parts; the header fields of the framing are among `fields`.
fn request(method: &str, target: &str, version: &str, fields: &[String], body: &[u8]) -> Segments {
    let mut head = format!("{method} {target} {version}\r\n");
    for field in fields {
        head += field;
        head += "\r\n";
    }
    head += "\r\n";
    vec![head.into_bytes(), body.to_vec()]
}

fn host(rng: &mut SmallRng) -> String {
    one(
        rng,
        &[
            "Host: fuzz.test",
            "Host: fuzz.test",
            "Host: fuzz.test",
            "Host: other:80",
            "Host: 127.0.0.1",
            "Host: FUZZ.test.",
        ],
    )
    .to_owned()
}

/// Fields with a host first, and sometimes `Connection: close`.
fn fields(rng: &mut SmallRng, most: usize) -> Vec<String> {
    let mut fields = vec![host(rng)];
    if once_in(rng, 2) {
        fields.push("Connection: close".to_owned());
    }
    fields.extend(headers(rng, most));
    fields
}

fn method(rng: &mut SmallRng) -> &'static str {
    one(rng, &["GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE"])
}

/// A sound request without a body.
pub fn simple(rng: &mut SmallRng) -> Segments {
    request(method(rng), &target(rng), "HTTP/1.1", &fields(rng, 4), b"")
}

/// A sound request with a body of a known length, in segments.
pub fn with_body(rng: &mut SmallRng) -> Segments {
    let (content, mut all) = (body(rng), fields(rng, 4));
    all.push(format!("Content-Length: {}", content.len()));
    let mut segments = request(one(rng, &["POST", "POST", "PUT", "GET", "PATCH"]), &target(rng), "HTTP/1.1", &all, b"");
    segments.extend(split(rng, content));
    segments
}

/// HTTP/0.9: a line, and nothing else.
pub fn http09(rng: &mut SmallRng) -> Segments {
    let end = one(rng, &["\r\n", "\r\n", "\n", " \r\n", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"]);
    vec![format!("{} {}{end}", one(rng, &["GET", "GET", "GET", "POST"]), target(rng)).into_bytes()]
}

/// HTTP/1.0, with and without a host.
pub fn http10(rng: &mut SmallRng) -> Segments {
    let (content, mut all) = (body(rng), headers(rng, 4));
    if rng.random() {
        all.push(format!("Content-Length: {}", content.len()));
    }
    let method = one(rng, &["GET", "POST", "HEAD"]);
    request(method, &target(rng), "HTTP/1.0", &all, if method == "POST" { &content } else { b"" })
}

/// Some requests after one another, without waiting for responses.
pub fn pipelined(rng: &mut SmallRng) -> Segments {
    let mut segments = Vec::new();
    for _ in 0..rng.random_range(2..6) {
        segments.extend(match rng.random_range(0..5) {
            0 => with_body(rng),
            1 => chunked(rng),
            2 => expect(rng),
            _ => simple(rng),
        });
    }
    segments
}

/// No request at all.
pub fn garbage(rng: &mut SmallRng) -> Segments {
    const GARBAGE: [&[u8]; 12] = [
        b"FOO\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\0\0\0\0",
        b"GET",
        b"GET /",
        b" GET / HTTP/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x80\x2e\x01\x00\x02",
        b"GET / HTTP/1.1\r\n\0: a\r\n\r\n",
    ];
    if rng.random() {
        return vec![one(rng, &GARBAGE).to_vec()];
    }
    vec![(0..rng.random_range(1..300)).map(|_| rng.random()).collect()]
}

/// The beginning of a TLS handshake where no TLS is spoken.
pub fn tls_hello(rng: &mut SmallRng) -> Segments {
    let mut hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".to_vec();
    hello.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()));
    vec![hello]
}

/// A request that stops somewhere.
pub fn cut(rng: &mut SmallRng) -> Segments {
    let mut bytes = if rng.random() { with_body(rng) } else { chunked(rng) }.concat();
    bytes.truncate(rng.random_range(0..=bytes.len()));
    split(rng, bytes)
}

fn chunks(rng: &mut SmallRng, content: &[u8]) -> Segments {
    let mut segments = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.random_range(1..=rest.len()));
        let extension = one(rng, &["", "", "", ";a=b", ";a=\"b\"", " "]);
        segments.push([format!("{:x}{extension}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        rest = after;
    }
    segments
}

/// A body in chunks, sometimes with trailers.
pub fn chunked(rng: &mut SmallRng) -> Segments {
    let (content, mut all) = (body(rng), fields(rng, 3));
    all.push(
        one(
            rng,
            &[
                "Transfer-Encoding: chunked",
                "Transfer-Encoding: chunked",
                "transfer-encoding: Chunked",
                "TE: trailers\r\nTransfer-Encoding: chunked",
            ],
        )
        .to_owned(),
    );
    let mut segments = request(one(rng, &["POST", "PUT", "GET"]), &target(rng), "HTTP/1.1", &all, b"");
    segments.extend(chunks(rng, &content));
    let end = [
        "0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nX-Trailer: yes\r\n\r\n",
        "000000\r\nA: b\r\nX-Pincer-Class: vip\r\n\r\n",
        "0;last\r\n\r\n",
    ];
    segments.push(one(rng, &end).as_bytes().to_vec());
    segments
}

/// Chunks that are wrong.
pub fn bad_chunk(rng: &mut SmallRng) -> Segments {
    let bad = [
        "g\r\n\r\n",
        "-1\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "7fffffffffffffff\r\n",
        "5\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "\r\n\r\n",
        "0\r\n",
        "0x5\r\nabcde\r\n0\r\n\r\n",
        "5 5\r\nabcde\r\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\n\0: a\r\n\r\n",
        "5\nabcde\n0\n\n",
        "10000000\r\nabc",
    ];
    let mut segments = chunked(rng);
    let keep = rng.random_range(1..=segments.len());
    segments.truncate(keep);
    segments.push(one(rng, &bad).as_bytes().to_vec());
    segments
}

/// A length that is wrong, double, or beside chunks.
pub fn bad_length(rng: &mut SmallRng) -> Segments {
    let bad = [
        "Content-Length: -1",
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: ",
        "Content-Length: 99999999999999999999",
        "Content-Length: 9223372036854775807",
        "Content-Length: 0x5",
        "Content-Length: +5",
        "Content-Length: 5 ",
        "Content-Length : 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: ",
        "Content_Length: 5",
        "Content-Length: 1000000",
        "Content-Length: 9999999",
    ];
    let mut all = fields(rng, 2);
    let at = rng.random_range(0..=all.len());
    all.insert(at, one(rng, &bad).to_owned());
    request(
        one(rng, &["POST", "GET", "PUT"]),
        &target(rng),
        "HTTP/1.1",
        &all,
        one(rng, &[b"hello".as_slice(), b"", b"5\r\nhello\r\n0\r\n\r\n", b"hello world"]),
    )
}

/// A client that asks before it sends its body, and does or does not send it.
pub fn expect(rng: &mut SmallRng) -> Segments {
    let (content, mut all) = (body(rng), fields(rng, 3));
    all.push(format!("Content-Length: {}", content.len()));
    all.push(
        one(
            rng,
            &["Expect: 100-continue", "Expect: 100-continue", "Expect: 200-ok", "Expect: ", "expect: 100-Continue"],
        )
        .to_owned(),
    );
    let mut segments = request("POST", &target(rng), one(rng, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]), &all, b"");
    if !once_in(rng, 4) {
        segments.extend(split(rng, content));
    }
    segments
}

/// Longer than nginx's buffers for a request line, or as long as one.
pub fn long_uri(rng: &mut SmallRng) -> Segments {
    let length = [900, 1000, 1024, 1990, 2040, 2100, 9000];
    let long = "a".repeat(length[rng.random_range(0..length.len())]);
    let target = target(rng);
    let mark = if target.contains('?') { "&" } else { "?" };
    request(
        method(rng),
        &format!("{target}{mark}{long}"),
        one(rng, &["HTTP/1.1", "HTTP/1.0", ""]),
        &fields(rng, 2),
        b"",
    )
}

/// A header field longer than nginx's buffers, or as long as one.
pub fn long_header(rng: &mut SmallRng) -> Segments {
    let length = [900, 1024, 2000, 2038, 2048, 2100, 9000];
    let long = "b".repeat(length[rng.random_range(0..length.len())]);
    let name = one(rng, &["X-Long", "Cookie", "Authorization", "Host", "X-Key", "X-Class", "Content-Type", "Range"]);
    let mut all = fields(rng, 2);
    let at = rng.random_range(0..=all.len());
    all.insert(at, format!("{name}: {long}"));
    request(method(rng), &target(rng), "HTTP/1.1", &all, b"")
}

/// More header fields than a part of nginx's list holds.
pub fn many_headers(rng: &mut SmallRng) -> Segments {
    let mut all = fields(rng, 2);
    for index in 0..rng.random_range(15..90) {
        all.push(if once_in(rng, 10) { header(rng) } else { format!("X-Field-{index}: {index}") });
    }
    if once_in(rng, 2) {
        let at = rng.random_range(0..all.len());
        all.insert(at, "X-Pincer-Class: vip".to_owned());
    }
    request(method(rng), &target(rng), "HTTP/1.1", &all, b"")
}

/// Methods that few use.
pub fn odd_method(rng: &mut SmallRng) -> Segments {
    let methods = [
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "MKCOL",
        "COPY",
        "MOVE",
        "LOCK",
        "PURGE",
        "FOO",
        "G-T",
        "GET_",
        "PATCH",
        "OPTIONS",
        "A",
        "POST",
        "DELETE",
        "UNLOCK",
        "PROPPATCH",
    ];
    let mut all = fields(rng, 3);
    if once_in(rng, 3) {
        all.push("Destination: /dav/other".to_owned());
    }
    let target = if once_in(rng, 6) { "*".to_owned() } else { target(rng) };
    request(one(rng, &methods), &target, "HTTP/1.1", &all, b"")
}

/// Versions that are none.
pub fn odd_version(rng: &mut SmallRng) -> Segments {
    let versions = [
        "HTTP/3.0",
        "HTTP/2.0",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/0.9",
        "HTTP/1.",
        "HTTP",
        "http/1.1",
        "HTTP/1.1 ",
        "HTTP/9.9",
        "HTTP/1.1 x",
        "HTTP/01.1",
    ];
    request(method(rng), &target(rng), one(rng, &versions), &fields(rng, 2), b"")
}

/// URIs at the border of the syntax.
pub fn odd_uri(rng: &mut SmallRng) -> Segments {
    let odd = [
        "/../proxy/",
        "/proxy/../../x",
        "/proxy/%2e%2e/static/a.txt",
        "//proxy//l5",
        "/proxy/%00",
        "/proxy/%zz",
        "/proxy/#frag",
        "/proxy/?a?b",
        "/proxy/\u{e9}",
        "proxy/",
        "/proxy/l5/.",
        "/static/./a.txt",
        "/static/a.txt/",
        "/proxy/ l5",
        "/static",
        "/proxy",
        "/grpc",
        "/proxy/%2F",
        "/%70roxy/l5",
        "/proxy/;l5",
        "/proxy\\l5",
        "/static/.%2e/x",
        "/var/%0d%0aX: y",
        "/rewrite/%0d%0aX",
        "/try/%00",
        "/uri/%20%25",
        "?",
        "/?",
        "/internal/a.txt",
        "/mirrored",
        "/authorized",
    ];
    request(method(rng), one(rng, &odd), "HTTP/1.1", &fields(rng, 3), b"")
}

/// Header fields at the border of the syntax.
pub fn odd_header(rng: &mut SmallRng) -> Segments {
    let odd = [
        "Host: ",
        "Host: a\r\nHost: b",
        "Host: a b",
        "Host: ../x",
        "Host: [::1]",
        "Host: a:b:c",
        "NoColon",
        ": empty",
        "X Y: z",
        "X\0Y: z",
        "X: a\0b",
        "X:\tb",
        " X: folded",
        "X: a\r\n folded",
        "X_Y: underscore",
        "X-Pincer.Class: vip",
        "Transfer-Encoding:chunked",
        "Connection: close, keep-alive",
        "Connection: upgrade",
        "Authorization: a\r\nAuthorization: b",
        "X: a\rb",
        "\u{e9}: x",
        "X-Key: \u{e9}",
        "Range: bytes=0-",
        "X-Class: \0",
    ];
    let mut all = fields(rng, 3);
    if once_in(rng, 2) {
        all.remove(0);
    }
    let at = rng.random_range(0..=all.len());
    all.insert(at, one(rng, &odd).to_owned());
    request(method(rng), &target(rng), "HTTP/1.1", &all, b"")
}

/// Parts of what is asked for.
pub fn range(rng: &mut SmallRng) -> Segments {
    let ranges = [
        "bytes=0-0",
        "bytes=0-9",
        "bytes=-5",
        "bytes=5-",
        "bytes=0-1,3-4",
        "bytes=0-0,2-2,4-4,6-6",
        "bytes=9999999-",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0-99999999999999999999",
        "items=0-1",
        "bytes=",
    ];
    let path = if rng.random() {
        target(rng)
    } else {
        one(rng, &["/static/big.txt", "/static/a.txt", "/range/l900", "/slice/l900", "/cache/l900/keep", "/gzip/l900"])
            .to_owned()
    };
    let mut all = fields(rng, 2);
    all.push(format!("Range: {}", one(rng, &ranges)));
    request(one(rng, &["GET", "GET", "HEAD", "POST"]), &path, "HTTP/1.1", &all, b"")
}

/// Another protocol is asked for, and spoken.
pub fn upgrade(rng: &mut SmallRng) -> Segments {
    let mut all = fields(rng, 2);
    all.retain(|field| !field.starts_with("Connection"));
    all.push(
        one(
            rng,
            &[
                "Connection: Upgrade\r\nUpgrade: websocket",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
                "Upgrade: fuzz\r\nConnection: upgrade",
            ],
        )
        .to_owned(),
    );
    let path = if rng.random() { "/up/upgrade".to_owned() } else { target(rng) };
    let mut segments = request("GET", &path, "HTTP/1.1", &all, b"");
    segments.extend(split(rng, b"spoken after the upgrade".to_vec()));
    segments
}

/// The whole URI in the request line.
pub fn absolute(rng: &mut SmallRng) -> Segments {
    let begin = [
        "http://fuzz.test",
        "http://other:81",
        "https://fuzz.test",
        "http://",
        "http://a b",
        "HTTP://fuzz.test",
        "ftp://x",
        "http://[::1]",
        "http://fuzz.test?",
    ];
    request(method(rng), &format!("{}{}", one(rng, &begin), target(rng)), "HTTP/1.1", &fields(rng, 3), b"")
}

/// A location that returns a code, with a body or without.
pub fn error_code(rng: &mut SmallRng) -> Segments {
    let codes: Vec<&str> = crate::conf::CODES.split(' ').collect();
    let mut segments = if rng.random() { with_body(rng) } else { simple(rng) };
    let line = format!("{} /code/{} HTTP/1.1", one(rng, &["GET", "POST", "HEAD"]), one(rng, &codes));
    let head = String::from_utf8_lossy(&segments[0]).into_owned();
    segments[0] = format!("{line}\r\n{}", head.split_once("\r\n").map_or("", |(_, rest)| rest)).into_bytes();
    segments
}

/// One of the above with changed bytes.
pub fn mutated(rng: &mut SmallRng) -> Segments {
    let of: [super::Make; 9] = [simple, with_body, chunked, pipelined, expect, range, upgrade, http10, bad_length];
    let mut segments = of[rng.random_range(0..of.len())](rng);
    let which = rng.random_range(0..segments.len());
    mutate(rng, &mut segments[which]);
    segments
}
