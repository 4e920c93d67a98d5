//! The part of HTTP/1.1 that a load generator and a replica need: headers, lengths and chunks over
//! keepalive connections.
//!
//! It is cheap, since clients, proxies and replicas share the machine's cores: one buffer per
//! connection, no header map. It is not for the open network, because it trusts the proxies that
//! the benchmark started. Bound: a head of `HEAD_BYTES_MAX`.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A head larger than this is an error.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A connection and what was read from it but not consumed.
pub struct Connection {
    /// The socket, for writing.
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// How the body after a head ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body {
    /// So many bytes.
    Length(usize),
    /// Chunks until the empty one.
    Chunked,
}

/// The headers of a message, as far as the benchmark needs them.
#[derive(Debug)]
pub struct Head {
    text: String,
}

impl Connection {
    /// Wraps a fresh socket; small writes leave at once.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(1024) })
    }

    /// Reads to the end of a head. None: the other side closed before the first byte of it.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let text = String::from_utf8(head).context("a head that is not text")?;
                return Ok(Some(Head { text }));
            }
            ensure!(self.buffer.len() < HEAD_BYTES_MAX, "a head of over {HEAD_BYTES_MAX} bytes");
            if self.fill().await? == 0 {
                ensure!(self.buffer.is_empty(), "closed within a head");
                return Ok(None);
            }
        }
    }

    /// Reads a body to its end, and calls `first` once when its first byte arrives. For an empty
    /// body `first` is not called.
    pub async fn body(&mut self, body: Body, mut first: impl FnMut()) -> Result<()> {
        match body {
            Body::Length(0) => Ok(()),
            Body::Length(bytes) => {
                self.need(1).await?;
                first();
                self.skip(bytes).await
            }
            Body::Chunked => {
                let mut seen = false;
                loop {
                    let bytes = self.chunk_size().await?;
                    if bytes > 0 && !seen {
                        self.need(1).await?;
                        first();
                        seen = true;
                    }
                    self.skip(bytes + 2).await?;
                    if bytes == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn chunk_size(&mut self) -> Result<usize> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let line = std::str::from_utf8(&line)?.trim();
                return usize::from_str_radix(line, 16).with_context(|| format!("chunk size {line:?}"));
            }
            self.more().await?;
        }
    }

    async fn need(&mut self, bytes: usize) -> Result<()> {
        while self.buffer.len() < bytes {
            self.more().await?;
        }
        Ok(())
    }

    async fn skip(&mut self, mut bytes: usize) -> Result<()> {
        loop {
            let here = bytes.min(self.buffer.len());
            self.buffer.drain(..here);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<()> {
        if self.fill().await? == 0 {
            bail!("closed within a message");
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<usize> {
        Ok(self.stream.read_buf(&mut self.buffer).await?)
    }
}

impl Head {
    /// Value of the header `name` (lower case), if there.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.text.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Status of a response; an error for any other message.
    pub fn status(&self) -> Result<u16> {
        let status = self.text.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.with_context(|| format!("no status in {:?}", self.text.lines().next()))
    }

    /// How the body ends. A body that ends with the connection is an error: no contender needs it.
    pub fn body(&self) -> Result<Body> {
        if self.value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Body::Chunked);
        }
        let length = self.value("content-length").context("a response without a length")?;
        Ok(Body::Length(length.parse()?))
    }

    /// Whether the other side closes after this message.
    pub fn closes(&self) -> bool {
        self.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn find(buffer: &[u8], mark: &[u8]) -> Option<usize> {
    buffer.windows(mark.len()).position(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn connected(sent: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(sent).await.unwrap();
        Connection::new(server).unwrap()
    }

    #[tokio::test]
    async fn two_messages_on_one_connection_are_told_apart() {
        let mut connection =
            connected(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\nX-Replica: 3\r\n\r\n").await;
        let head = connection.head().await.unwrap().unwrap();
        assert_eq!((head.status().unwrap(), head.body().unwrap()), (200, Body::Length(2)));
        let mut first = 0;
        connection.body(Body::Length(2), || first += 1).await.unwrap();
        let head = connection.head().await.unwrap().unwrap();
        assert_eq!((head.status().unwrap(), head.value("x-replica"), first), (500, Some("3"), 1));
        assert!(connection.head().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn chunks_call_first_once_and_end_with_the_empty_one() {
        let mut connection = connected(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n").await;
        let mut first = 0;
        connection.body(Body::Chunked, || first += 1).await.unwrap();
        assert_eq!(first, 1);
        assert!(connection.head().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_body_cut_short_is_an_error() {
        let mut connection = connected(b"abc").await;
        assert!(connection.body(Body::Length(4), || ()).await.is_err());
    }
}
