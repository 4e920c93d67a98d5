//! A request over a socket of its own, for clients that misbehave: give up while waiting, close in
//! the middle, never read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::limit;

/// A request that was sent and whose answer is not read yet. Dropping it closes the socket: the
/// client gave up.
pub struct Sent {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Sends `GET path` with `Connection: close` and these header fields to `address` (`host:port`).
///
/// # Panics
/// When connecting or sending fails.
pub async fn send(address: &str, path: &str, headers: &[(&str, &str)]) -> Sent {
    let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    send_bytes(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{fields}\r\n")).await
}

/// Sends exactly these bytes.
///
/// # Panics
/// When connecting or sending fails.
pub async fn send_bytes(address: &str, bytes: &(impl AsRef<[u8]> + ?Sized)) -> Sent {
    let address = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("connect to {address}: {e}"));
    stream.write_all(bytes.as_ref()).await.expect("send request");
    Sent { stream, received: Vec::new() }
}

impl Sent {
    /// Gives up: closes the socket.
    pub fn give_up(self) {}

    /// Gives up with a reset instead of a regular close.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Whether the server has neither answered nor closed, as far as is known within 5 ms.
    pub async fn is_open(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(5), self.stream.peek(&mut [0])).await.is_err()
    }

    /// Reads until at least one more byte is there, or `within` is over; true when something came.
    pub async fn something(&mut self, within: Duration) -> bool {
        let mut buffer = [0; 4096];
        match tokio::time::timeout(within, self.stream.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            _ => false,
        }
    }

    /// Reads until the server closes: everything it said.
    ///
    /// # Panics
    /// When it has not closed within 30 s.
    pub async fn read_all(mut self) -> String {
        let reading = self.stream.read_to_end(&mut self.received);
        let _ = tokio::time::timeout(limit(30.0), reading).await.expect("the server closes within 30 s");
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// The status code of a raw answer, 0 when there is none.
#[must_use]
pub fn status(answer: &str) -> u16 {
    answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
