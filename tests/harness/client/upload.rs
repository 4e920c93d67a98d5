//! A request with a body whose every write is chosen: framing, chunk sizes, where the bytes on the
//! wire are split, where they stop.
//!
//! Over HTTP/1.x the socket is written by hand, over HTTP/2 each piece is a DATA frame. Each
//! request has a connection of its own. What a server answers before it has read the whole body is
//! read too. Every request is bounded in time.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::limit;

/// Longest request, seconds.
const EXCHANGE_S: f64 = 120.0;

/// A request to be.
#[derive(Clone, Debug)]
pub struct Upload {
    method: String,
    path: String,
    version: &'static str,
    headers: Vec<(String, String)>,
    body: Bytes,
    chunked: bool,
    cuts: Vec<usize>,
    writes: Vec<usize>,
    sent_max: usize,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status code; 0 when the connection ended without an answer.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

/// A body of `len` bytes that differs with `seed`.
#[must_use]
pub fn noise(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| u8::try_from((at + seed) * 31 % 253).unwrap_or(0)).collect()
}

impl Upload {
    /// A request of this method with `body`, framed by its length and written at once.
    #[must_use]
    pub fn new(method: &str, path: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            version: "1.1",
            headers: Vec::new(),
            body: body.into(),
            chunked: false,
            cuts: Vec::new(),
            writes: Vec::new(),
            sent_max: usize::MAX,
        }
    }

    /// POST of `body`.
    #[must_use]
    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self::new("POST", path, body)
    }

    /// Adds a header field; an empty one only takes the place of one that would be sent. `Host` is
    /// `test` unless it is given.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// HTTP/1.0.
    #[must_use]
    pub fn old(mut self) -> Self {
        self.version = "1.0";
        self
    }

    /// Frames the body in chunks that end at these offsets (rising), and at its end. Without a
    /// length in HTTP/2 too.
    #[must_use]
    pub fn chunked(mut self, cuts: impl IntoIterator<Item = usize>) -> Self {
        self.chunked = true;
        self.cuts = cuts.into_iter().collect();
        self
    }

    /// Writes the body, as it is on the wire, in parts that end at these offsets (rising); the
    /// first goes with the head. In HTTP/2 each is a frame.
    #[must_use]
    pub fn written(mut self, writes: impl IntoIterator<Item = usize>) -> Self {
        self.writes = writes.into_iter().collect();
        self
    }

    /// Sends only so many bytes of the body, as it is on the wire, then ends the sending side.
    #[must_use]
    pub fn cut_off(mut self, sent_max: usize) -> Self {
        self.sent_max = sent_max;
        self
    }

    /// The request's head.
    #[must_use]
    pub fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/{}\r\n", self.method, self.path, self.version);
        for (name, value) in self.all_headers() {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    fn all_headers(&self) -> Vec<(String, String)> {
        let given = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut all = Vec::new();
        if !given("host") {
            all.push(("Host".to_owned(), "test".to_owned()));
        }
        if self.chunked {
            all.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
        } else if !given("content-length") && (self.method == "POST" || !self.body.is_empty()) {
            all.push(("Content-Length".to_owned(), self.body.len().to_string()));
        }
        all.extend(self.headers.iter().filter(|(_, value)| !value.is_empty()).cloned());
        all
    }

    /// The body as it is on the wire of HTTP/1.1.
    #[must_use]
    pub fn wire(&self) -> Bytes {
        if !self.chunked {
            return self.body.clone();
        }
        let mut wire = Vec::with_capacity(self.body.len() + 64);
        for piece in pieces(&self.body, &self.cuts) {
            wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(&piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        wire.into()
    }

    /// Sends it over HTTP/1.x to `address` and reads the answer.
    ///
    /// # Panics
    /// When connecting fails, or it takes over two minutes.
    pub async fn send(&self, address: &str) -> Answer {
        let exchange = async {
            let mut stream = self.begin(address).await;
            let mut received = Vec::new();
            // A server that refuses a body may reset the connection after its answer.
            let _ = stream.read_to_end(&mut received).await;
            Answer::parse(&received).map_or_else(Answer::default, |(answer, _)| answer)
        };
        tokio::time::timeout(limit(EXCHANGE_S), exchange).await.expect("an answer in time")
    }

    /// Sends it, with `Connection: close`, and returns the connection with the answer still to
    /// come; the sending side is closed if the body is cut off.
    ///
    /// # Panics
    /// When connecting fails.
    pub async fn begin(&self, address: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a socket");
        let wire = self.wire();
        let wire = wire.slice(..wire.len().min(self.sent_max));
        let mut next = self.clone().header("Connection", "close").head().into_bytes();
        for piece in pieces(&wire, &self.writes) {
            next.extend_from_slice(&piece);
            // An error here is an early answer, which is read.
            if stream.write_all(&next).await.is_err() {
                return stream;
            }
            next.clear();
            tokio::task::yield_now().await;
        }
        if !next.is_empty() {
            let _ = stream.write_all(&next).await;
        }
        if self.sent_max != usize::MAX {
            let _ = stream.shutdown().await;
        }
        stream
    }

    /// [`Upload::begin`] with only so many bytes of the body, and the sending side left open.
    ///
    /// # Panics
    /// When connecting or sending fails.
    pub async fn begin_only(&self, address: &str, bytes: usize) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.write_all(self.head().as_bytes()).await.expect("send the head");
        stream.write_all(&self.wire()[..bytes]).await.expect("send a part of the body");
        stream
    }

    /// Sends it over HTTP/2 with prior knowledge and reads the answer. A body that is cut off ends
    /// with the stream's end.
    ///
    /// # Panics
    /// When connecting fails, or it takes over two minutes.
    pub async fn send_h2(&self, address: &str) -> Answer {
        tokio::time::timeout(limit(EXCHANGE_S), self.exchange_h2(address)).await.expect("an answer in time")
    }

    async fn exchange_h2(&self, address: &str) -> Answer {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a socket");
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let headers = self.all_headers();
        let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map_or("test", |(_, host)| host);
        let uri = format!("http://{host}{}", self.path);
        let mut request = hyper::Request::builder().method(self.method.as_str()).uri(uri);
        for (name, value) in &headers {
            if !["host", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
                request = request.header(name, value);
            }
        }
        let body = self.body.slice(..self.body.len().min(self.sent_max));
        let frames = pieces(&body, &self.writes).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let request = request.body(StreamBody::new(stream::iter(frames.collect::<Vec<_>>()))).expect("a request");
        let mut answer = Answer::default();
        if let Ok(response) = sender.send_request(request).await {
            let (head, body) = response.into_parts();
            answer.status = head.status.as_u16();
            let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            answer.headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            answer.body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        }
        connection.abort();
        answer
    }
}

/// `whole` in parts that end at `cuts`, and at its end; never an empty part.
fn pieces(whole: &Bytes, cuts: &[usize]) -> impl Iterator<Item = Bytes> {
    let mut from = 0;
    let ends = cuts.iter().copied().filter(|&cut| cut < whole.len()).chain([whole.len()]);
    ends.filter_map(move |end| {
        let piece = whole.slice(from.min(end)..end);
        from = end;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}

impl Answer {
    /// A header field, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first answer in `received` and how many bytes it takes; `None` when its head is not
    /// whole. A body without a length goes to the end.
    #[must_use]
    pub fn parse(received: &[u8]) -> Option<(Self, usize)> {
        let head_end = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&received[..head_end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let headers = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let mut answer = Self { status, headers, body: Vec::new() };
        if (100..200).contains(&status) {
            return Self::parse(&received[head_end..]).map(|(next, taken)| (next, head_end + taken));
        }
        let rest = &received[head_end..];
        let taken = if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            dechunk(rest, &mut answer.body)
        } else {
            let length = answer.header("content-length").parse().unwrap_or(rest.len()).min(rest.len());
            answer.body.extend_from_slice(&rest[..length]);
            length
        };
        Some((answer, head_end + taken))
    }
}

/// Takes the chunks off; how many bytes they were. What is cut off is taken as far as it goes.
fn dechunk(wire: &[u8], body: &mut Vec<u8>) -> usize {
    let mut at = 0;
    while let Some(line) = wire[at..].windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&wire[at..at + line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(size) = size else { return at };
        let from = (at + line + 2).min(wire.len());
        let end = (from + size).min(wire.len());
        body.extend_from_slice(&wire[from..end]);
        at = (end + 2).min(wire.len());
        if size == 0 {
            return at;
        }
    }
    wire.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_writes_are_where_they_were_asked_for() {
        let upload = Upload::post("/", "abcdef").chunked([1, 3, 99]);
        assert_eq!(upload.wire(), "1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n");
        assert_eq!(pieces(&upload.wire(), &[2, 2]).map(|piece| piece.len()).collect::<Vec<_>>(), [2, 24]);
    }

    #[test]
    fn answers_are_parsed_one_after_the_other() {
        let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nxyz";
        let (first, taken) = Answer::parse(wire).expect("an answer");
        assert_eq!((first.status, first.text().as_str()), (200, "ab"));
        let (second, more) = Answer::parse(&wire[taken..]).expect("another");
        assert_eq!((second.status, second.text().as_str(), &wire[taken + more..]), (404, "x", b"yz".as_slice()));
    }
}
