//! A FastCGI server that notes what it is given and answers every request with an empty page, one
//! after the other.
//!
//! Follows the FastCGI specification 1.0 as far as nginx uses it: one request a connection. Bound:
//! one request's parameters are kept.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::ports;

/// Type of the record that ends a request.
pub const END_REQUEST: u8 = 3;
/// Type of a record with parameters.
pub const PARAMS: u8 = 4;
/// Type of a record with a part of the request's body.
pub const STDIN: u8 = 5;
/// Type of a record with a part of the response.
pub const STDOUT: u8 = 6;

type Params = Arc<Mutex<Vec<(String, String)>>>;

/// A running server; dropping it closes its port.
pub struct FastCgi {
    address: SocketAddr,
    params: Params,
    task: JoinHandle<()>,
}

impl FastCgi {
    /// Starts one on a loopback port.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        let address = ports::refusing_addr();
        let listener = TcpListener::bind(address).await.expect("a port");
        let params = Params::default();
        let noted = Arc::clone(&params);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // nginx that leaves in the middle is no matter of ours.
                let _ = answer(stream, &noted).await;
            }
        });
        Self { address, params, task }
    }

    /// What to write behind `fastcgi_pass`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Names and values of the latest request's parameters, each as often as it came.
    ///
    /// # Panics
    /// When the server did.
    #[must_use]
    pub fn params(&self) -> Vec<(String, String)> {
        self.params.lock().expect("no holder panics").clone()
    }

    /// Forgets the latest request.
    ///
    /// # Panics
    /// When the server did.
    pub fn forget(&self) {
        self.params.lock().expect("no holder panics").clear();
    }
}

impl Drop for FastCgi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads records until the end of the standard input (FastCGI 1.0, 3.3), then answers.
async fn answer(mut stream: TcpStream, noted: &Params) -> std::io::Result<()> {
    let mut params = Vec::new();
    loop {
        let (kind, content) = record(&mut stream).await?;
        match kind {
            PARAMS => params.extend(content),
            STDIN if content.is_empty() => break,
            _ => {}
        }
    }
    *noted.lock().expect("no holder panics") = pairs(&params);
    let page = b"Content-Type: text/plain\r\n\r\n";
    stream.write_all(&[written(STDOUT, page), written(STDOUT, b""), written(END_REQUEST, &[0; 8])].concat()).await
}

/// Reads the next record: its type and content.
///
/// # Errors
/// When the connection ends or breaks.
pub async fn record(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let mut content = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]])) + usize::from(head[6])];
    stream.read_exact(&mut content).await?;
    content.truncate(content.len() - usize::from(head[6]));
    Ok((head[1], content))
}

/// A record as bytes.
///
/// # Panics
/// When the content has over 65,535 bytes.
#[must_use]
pub fn written(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a record's content").to_be_bytes();
    [&[1, kind, 0, 1, length[0], length[1], 0, 0], content].concat()
}

/// Names and values, each with its length before it: a byte, or four with the highest bit set.
///
/// # Panics
/// When a length goes beyond the end.
#[must_use]
pub fn pairs(mut bytes: &[u8]) -> Vec<(String, String)> {
    let take = |bytes: &mut &[u8], count: usize| {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken.to_vec()
    };
    let length = |bytes: &mut &[u8]| match take(bytes, 1)[0] {
        short @ 0..=127 => usize::from(short),
        long => take(bytes, 3).iter().fold(usize::from(long & 127), |length, byte| length << 8 | usize::from(*byte)),
    };
    let mut pairs = Vec::new();
    while !bytes.is_empty() {
        let (name, value) = (length(&mut bytes), length(&mut bytes));
        let [name, value] = [name, value].map(|count| String::from_utf8_lossy(&take(&mut bytes, count)).into_owned());
        pairs.push((name, value));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_lengths_are_read() {
        let long = [&[1, 0x80, 0, 0, 200, b'a'][..], &[b'x'; 200], &[1, 0, b'b']].concat();
        assert_eq!(pairs(&long), [("a".to_owned(), "x".repeat(200)), ("b".to_owned(), String::new())]);
    }
}
