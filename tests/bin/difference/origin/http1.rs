//! HTTP/1 as nginx's proxy module speaks it: heads end with an empty line, bodies have a length or
//! chunks. What it cannot read ends the connection.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::recipe::{Fault, Framing, PAUSE, Recipe};
use super::seen::{CLIENT, Open, Seen};
use crate::text;

struct Head {
    method: Vec<u8>,
    uri: Vec<u8>,
    version: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    while let Some(head) = read_head(&mut read).await? {
        let recipe = Recipe::of(&head.uri);
        let client = head.value(CLIENT).map(|value| String::from_utf8_lossy(value).into_owned());
        let mut open = seen.open(&client.unwrap_or_default(), head.line());
        if recipe.early {
            respond(&mut write, &head, &recipe).await?;
        }
        let body = read_body(&mut read, &head, &mut open).await;
        open.complete = body.is_ok();
        body?;
        if recipe.fault == Some(Fault::Hang) {
            drop(open);
            // Until nginx gives up.
            let _ = read.read(&mut [0]).await;
            return Ok(());
        }
        drop(open);
        if !recipe.early {
            respond(&mut write, &head, &recipe).await?;
        }
        if recipe.status == 101 {
            return echo(&mut read, &mut write).await;
        }
        let stays = head.version == b"HTTP/1.1" && head.value("connection") != Some(b"close");
        if !stays || recipe.cut.is_some() || recipe.fault.is_some() || recipe.framing == Framing::Close {
            return Ok(());
        }
    }
    Ok(())
}

impl Head {
    fn value(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| &value[..])
    }

    /// What is compared.
    fn line(&self) -> String {
        let headers = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(CLIENT.as_bytes()));
        let headers = headers.map(|(name, value)| (&name[..], &value[..]));
        text::received("http", &self.method, &[&self.uri[..], b" ", &self.version].concat(), headers)
    }
}

async fn read_head(read: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Option<Head>> {
    let mut line = Vec::new();
    if read.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    let line = line.trim_ascii_end();
    let method_end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let version_from = line.iter().rposition(|byte| *byte == b' ').unwrap_or(line.len());
    let uri = line.get(method_end + 1..version_from).unwrap_or_default().to_vec();
    let version = line.get(version_from + 1..).unwrap_or_default().to_vec();
    let mut head = Head { method: line[..method_end].to_vec(), uri, version, headers: Vec::new() };
    loop {
        let mut line = Vec::new();
        read.read_until(b'\n', &mut line).await?;
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return Ok(Some(head));
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii_start();
        head.headers.push((line[..colon].to_vec(), value.to_vec()));
    }
}

async fn read_body(read: &mut BufReader<OwnedReadHalf>, head: &Head, open: &mut Open) -> std::io::Result<()> {
    let number = |bytes: &[u8], radix| {
        std::str::from_utf8(bytes).ok().and_then(|text| u64::from_str_radix(text.trim(), radix).ok())
    };
    if head.value("transfer-encoding").is_some() {
        loop {
            let mut line = Vec::new();
            read.read_until(b'\n', &mut line).await?;
            let size = number(&line, 16).ok_or(std::io::ErrorKind::InvalidData)?;
            take(read, size, &mut open.body).await?;
            let mut end = [0; 2];
            read.read_exact(&mut end).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let length = head.value("content-length").and_then(|value| number(value, 10)).unwrap_or(0);
    take(read, length, &mut open.body).await
}

async fn take(read: &mut BufReader<OwnedReadHalf>, count: u64, body: &mut Vec<u8>) -> std::io::Result<()> {
    let mut left = read.take(count);
    left.read_to_end(body).await?;
    if left.limit() > 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

async fn respond(write: &mut OwnedWriteHalf, head: &Head, recipe: &Recipe) -> std::io::Result<()> {
    match recipe.fault {
        Some(Fault::Hang | Fault::Shut) => return Ok(()),
        Some(Fault::Garbage) => return write.write_all(b"\x00\x01 what is this\r\n\r\n").await,
        Some(Fault::LongHeader) => {
            write.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ").await?;
            return write.write_all(&[b'a'; 20_000]).await;
        }
        _ => {}
    }
    let mut text = format!("HTTP/1.1 {} Fuzz\r\nX-Origin: yes\r\n", recipe.status).into_bytes();
    for (name, value) in &recipe.headers {
        text.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    let chunked = recipe.framing == Framing::Chunked && head.version == b"HTTP/1.1";
    match (recipe.status, chunked, recipe.framing) {
        (101, ..) => text.extend(b"Upgrade: fuzz\r\nConnection: upgrade\r\n"),
        (204 | 304, ..) => {}
        (_, true, _) => text.extend(b"Transfer-Encoding: chunked\r\n"),
        (_, _, Framing::Length) => {
            text.extend(format!("Content-Length: {}\r\n", recipe.body.len()).into_bytes());
            if recipe.fault == Some(Fault::TwoLengths) {
                text.extend(b"Content-Length: 7\r\n");
            }
        }
        _ => text.extend(b"Connection: close\r\n"),
    }
    text.extend(b"\r\n");
    // The header and the first piece in one packet, unless there are several pieces.
    if recipe.has_body(&head.method) {
        for part in recipe.parts() {
            if recipe.pieces > 1 {
                write.write_all(&text).await?;
                text.clear();
                tokio::time::sleep(PAUSE).await;
            }
            match chunked {
                true if recipe.fault == Some(Fault::BadChunk) => text.extend(b"xyz\r\n"),
                true => text.extend(format!("{:x}\r\n", part.len()).into_bytes()),
                false => {}
            }
            text.extend(part);
            text.extend(if chunked { &b"\r\n"[..] } else { b"" });
        }
        if chunked && recipe.cut.is_none() {
            text.extend(if recipe.trailers { &b"0\r\nX-Trailer: yes\r\n\r\n"[..] } else { b"0\r\n\r\n" });
        }
    }
    write.write_all(&text).await
}

/// After 101: what comes goes back.
async fn echo(read: &mut BufReader<OwnedReadHalf>, write: &mut OwnedWriteHalf) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = read.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        write.write_all(&buffer[..count]).await?;
    }
}
