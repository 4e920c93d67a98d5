//! What a client got by HTTP/1 as lines to compare: status lines, header fields, bodies without the
//! borders of chunks.
//!
//! The request's method is not known here: what follows a header and begins another response is no
//! body.

use crate::{documented, text};

/// The lines of everything that came over a connection.
pub fn lines(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = find(rest, b"\r\n\r\n").filter(|_| rest.starts_with(b"HTTP/1."));
        let Some(end) = end else {
            // HTTP/0.9, or what an origin passes off as a response; another response may follow.
            let next = find(&rest[1..], b"HTTP/1.").map_or(rest.len(), |at| at + 1);
            lines.push(format!("raw {}", text::summary(&text::neutral(&rest[..next]))));
            rest = &rest[next..];
            continue;
        };
        let head = &rest[..end + 2];
        rest = response(head, &rest[end + 4..], &mut lines);
    }
    lines
}

/// One response; what follows it.
fn response<'a>(head: &[u8], rest: &'a [u8], lines: &mut Vec<String>) -> &'a [u8] {
    let mut framing = Framing::Close;
    for (index, line) in head.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default().trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case(b"content-length") && framing != Framing::Chunked {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            framing = length.map_or(Framing::Close, Framing::Length);
        }
        if index == 0 || !documented::to_client(name) {
            lines.push(text::escaped(&text::neutral(line)));
        }
    }
    let code: u16 = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0);
    if code == 101 {
        lines.push(format!("tunnel {}", text::summary(rest)));
        return &[];
    }
    if (100..200).contains(&code) || matches!(code, 204 | 304) || rest.starts_with(b"HTTP/1.") {
        return rest;
    }
    match framing {
        Framing::Chunked => {
            let (body, rest, end) = chunks(rest);
            lines.push(format!("chunks {}{end}", text::summary(&text::neutral(&body))));
            rest
        }
        Framing::Length(length) => {
            let (body, after) = rest.split_at(length.min(rest.len()));
            let short = if body.len() < length { " (short)" } else { "" };
            lines.push(format!("body {}{short}", text::summary(&text::neutral(body))));
            after
        }
        Framing::Close => {
            lines.push(format!("to the end {}", text::summary(&text::neutral(rest))));
            &[]
        }
    }
}

#[derive(PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// The body in chunks, what follows it, and how it ended.
fn chunks(mut rest: &[u8]) -> (Vec<u8>, &[u8], String) {
    let mut body = Vec::new();
    let cut = || " (cut off)".to_owned();
    loop {
        let Some(end) = find(rest, b"\r\n") else { return (body, &[], cut()) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size else { return (body, rest, " (no chunk)".to_owned()) };
        rest = &rest[end + 2..];
        if size == 0 {
            // Trailers, if any, and an empty line.
            let end = if rest.starts_with(b"\r\n") { Some(0) } else { find(rest, b"\r\n\r\n").map(|end| end + 2) };
            let Some(end) = end else { return (body, &[], cut()) };
            let trailers = text::escaped(&rest[..end]);
            return (body, &rest[end + 2..], if end > 0 { format!(" trailers {trailers}") } else { String::new() });
        }
        body.extend(&rest[..size.min(rest.len())]);
        if rest.len() < size + 2 {
            return (body, &[], cut());
        }
        rest = &rest[size + 2..];
    }
}

/// Where `needle` begins.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
