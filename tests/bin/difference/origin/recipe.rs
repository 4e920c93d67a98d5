//! What the origin responds, read from the request's URI: words between `/`, `?`, `&`, `=` and `;`,
//! such as `s404`, `l5000`, `chunked`.
//!
//! The response depends on nothing else, so both sides get the same one. A word that is not known
//! means nothing: hostile URIs are the rule here.

use std::time::Duration;

/// Longest body, bytes.
const BODY_MAX: usize = 200_000;

/// How the body's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By Content-Length.
    Length,
    /// By chunks of HTTP/1.1.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// A response to be.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Status code.
    pub status: u16,
    /// Header fields besides those of the framing.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How its end is told.
    pub framing: Framing,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// Pieces of the body, each after a pause.
    pub pieces: usize,
    /// Trailer fields follow.
    pub trailers: bool,
    /// The response is sent before the request's body is read.
    pub early: bool,
    /// A fault instead of a response.
    pub fault: Option<Fault>,
}

/// What an origin may do instead of responding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Never responds.
    Hang,
    /// Closes the connection at once.
    Shut,
    /// Sends what is no header.
    Garbage,
    /// Sends a header that has no end.
    LongHeader,
    /// Sends a chunk whose size is no number.
    BadChunk,
    /// Two lengths that contradict each other.
    TwoLengths,
}

/// The pause before each of [`Recipe::pieces`].
pub const PAUSE: Duration = Duration::from_millis(8);

impl Recipe {
    /// The response to a request for `uri`.
    pub fn of(uri: &[u8]) -> Self {
        let mut recipe = Self {
            status: 200,
            headers: Vec::new(),
            body: text(64),
            framing: Framing::Length,
            cut: None,
            pieces: 1,
            trailers: false,
            early: false,
            fault: None,
        };
        for word in uri.split(|byte| b"/?&=;".contains(byte)) {
            if let Ok(word) = std::str::from_utf8(word) {
                recipe.apply_word(word);
            }
        }
        recipe
    }

    fn apply_word(&mut self, word: &str) {
        if !word.is_ascii() {
            return;
        }
        let number = |from: usize| word.get(from..).and_then(|digits| digits.parse::<usize>().ok());
        match word {
            "chunked" => self.framing = Framing::Chunked,
            "close" => self.framing = Framing::Close,
            "trailers" => (self.trailers, self.framing) = (true, Framing::Chunked),
            "early" => self.early = true,
            "hang" => self.fault = Some(Fault::Hang),
            "shut" => self.fault = Some(Fault::Shut),
            "garbage" => self.fault = Some(Fault::Garbage),
            "longheader" => self.fault = Some(Fault::LongHeader),
            "badchunk" => self.fault = Some(Fault::BadChunk),
            "twolengths" => self.fault = Some(Fault::TwoLengths),
            "include" => self.typed("text/html", b"<!--# include virtual=\"/static/a.txt\" -->"),
            "ssi" => self.typed("text/html", SSI),
            "json" => self.typed("application/json", b"{\"a\": [1, 2, 3]}"),
            "sse" => {
                self.typed("text/event-stream", &b"data: token\n\n".repeat(6));
                (self.pieces, self.framing) = (6, Framing::Chunked);
            }
            "keep" => self.headers.push(("Cache-Control", "max-age=60".into())),
            "vary" => self.headers.push(("Vary", "Accept-Encoding".into())),
            "etag" => self.headers.push(("ETag", "\"fuzz\"".into())),
            "cookie" => self.headers.push(("Set-Cookie", "a=b; path=/".into())),
            "redirect" => self.headers.push(("Location", "/static/a.txt".into())),
            "accel" => self.headers.push(("X-Accel-Redirect", "/internal/a.txt".into())),
            "accelproxy" => self.headers.push(("X-Accel-Redirect", "/proxy/l10".into())),
            "accelname" => self.headers.push(("X-Accel-Redirect", "@named".into())),
            "unbuffered" => self.headers.push(("X-Accel-Buffering", "no".into())),
            "limited" => self.headers.push(("X-Accel-Limit-Rate", "100000".into())),
            "retry" => self.headers.push(("Retry-After", "7".into())),
            "upgrade" => self.status = 101,
            _ => match (word.as_bytes().first(), number(1)) {
                (Some(b's'), Some(code @ 200..=599)) => self.status = u16::try_from(code).unwrap_or(200),
                (Some(b'l'), Some(length)) => self.body = text(length.min(BODY_MAX)),
                (Some(b'c'), Some(bytes)) => self.cut = Some(bytes.min(BODY_MAX)),
                (Some(b'p'), Some(pieces @ 1..=20)) => self.pieces = pieces,
                _ => {}
            },
        }
    }

    fn typed(&mut self, kind: &str, body: &[u8]) {
        self.headers.push(("Content-Type", kind.into()));
        self.body = body.to_vec();
    }

    /// Whether a response to `method` with this status has a body.
    pub fn has_body(&self, method: &[u8]) -> bool {
        method != b"HEAD" && self.status >= 200 && !matches!(self.status, 204 | 304)
    }

    /// The body in its pieces.
    pub fn parts(&self) -> Vec<&[u8]> {
        let whole = &self.body[..self.cut.unwrap_or(usize::MAX).min(self.body.len())];
        whole.chunks(whole.len().div_ceil(self.pieces).max(1)).collect()
    }
}

const SSI: &[u8] = b"<html>begin <!--# include virtual=\"/proxy/l20\" --> <!--# include virtual=\"/static/a.txt\" wait=\"yes\" -->\
 <!--# echo var=\"request_method\" --> <!--# if expr=\"$args\" -->with<!--# else -->without<!--# endif -->\
 <!--# include virtual=\"/grpc/l30\" --> <!--# include virtual=\"/fcgi/s404\" --> <!--# include virtual=\"/nowhere\" --> end</html>";

/// Text that compresses, different in every line.
fn text(length: usize) -> Vec<u8> {
    (0..).flat_map(|line| format!("line {line} of the origin's text\n").into_bytes()).take(length).collect()
}
