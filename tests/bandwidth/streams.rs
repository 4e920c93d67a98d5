//! Streams as they stand on the wire: an upstream that sends what it is told to, and what a client
//! sees of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::limit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that sends `pieces` as HTTP chunks, each after its pause, and nothing else.
pub async fn sender(pieces: Vec<(Duration, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address").to_string();
    let pieces = Arc::new(pieces);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let pieces = Arc::clone(&pieces);
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                for (pause, piece) in pieces.iter() {
                    if !pause.is_zero() {
                        tokio::time::sleep(*pause).await;
                    }
                    let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                    if stream.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"0\r\n\r\n").await;
            });
        }
    });
    address
}

/// An event of exactly so many bytes.
pub fn event(number: usize, bytes: usize) -> Vec<u8> {
    let head = format!("data: {number} ");
    let filler = "x".repeat(bytes - head.len() - 2);
    format!("{head}{filler}\n\n").into_bytes()
}

/// The chunks of an answer as they stand on the wire, and when each was complete.
pub async fn wire_chunks(address: &str, path: &str) -> Vec<(Duration, Vec<u8>)> {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
    let start = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let (mut bytes, mut chunks, mut head_read) = (Vec::new(), Vec::new(), false);
    let mut buffer = vec![0; 65_536];
    loop {
        let read = tokio::time::timeout(limit(20.0), stream.read(&mut buffer)).await.expect("in time").expect("read");
        if read == 0 {
            return chunks;
        }
        bytes.extend_from_slice(&buffer[..read]);
        if !head_read && let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            bytes.drain(..end + 4);
            head_read = true;
        }
        while head_read && let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("a size"), 16).expect("a size");
            if bytes.len() < end + 2 + size + 2 {
                break;
            }
            chunks.push((start.elapsed(), bytes[end + 2..end + 2 + size].to_vec()));
            bytes.drain(..end + 2 + size + 2);
        }
    }
}

/// What gzip makes of a compressed body; fails if it is not whole.
pub fn unzipped(body: &[u8]) -> Vec<u8> {
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, body).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let output = std::process::Command::new("gzip").arg("-dc").stdin(file).output().expect("gzip runs");
    assert!(output.status.success(), "{} bytes: {}", body.len(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}
