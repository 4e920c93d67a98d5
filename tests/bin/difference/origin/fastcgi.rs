//! FastCGI 1.0 as nginx speaks it, one request a connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use harness::fastcgi::{self, END_REQUEST, PARAMS, STDIN, STDOUT};

use super::recipe::{Fault, PAUSE, Recipe};
use super::seen::Seen;
use crate::text;

/// The parameter that names the execution.
const CLIENT: &str = "HTTP_X_FUZZ_CLIENT";

/// Longest content of a record, bytes.
const RECORD_MAX: usize = 60_000;

/// Serves a connection's one request.
pub async fn serve(mut stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    let mut params = Vec::new();
    let mut body = Vec::new();
    let mut open = None;
    loop {
        let Some((kind, content)) = fastcgi::record(&mut stream).await.ok() else { return Ok(()) };
        match kind {
            PARAMS if !content.is_empty() => params.extend(content),
            PARAMS => open = Some(begin(&seen, &params)),
            STDIN if content.is_empty() => break,
            STDIN => body.extend(content),
            _ => {}
        }
        if let Some((open, _)) = &mut open {
            open.body.clone_from(&body);
        }
    }
    let Some((mut open, uri)) = open else { return Ok(()) };
    open.complete = true;
    drop(open);
    respond(&mut stream, &Recipe::of(uri.as_bytes())).await
}

fn begin(seen: &Seen, params: &[u8]) -> (super::seen::Open, String) {
    let mut pairs = fastcgi::pairs(params);
    let mut take = |name: &str| {
        let at = pairs.iter().position(|(key, _)| key == name);
        at.map(|at| pairs.remove(at).1).unwrap_or_default()
    };
    let (client, method, uri) = (take(CLIENT), take("REQUEST_METHOD"), take("REQUEST_URI"));
    let headers = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let line = text::received("fastcgi", method.as_bytes(), uri.as_bytes(), headers);
    (seen.open(&client, line), uri)
}

async fn respond(stream: &mut TcpStream, recipe: &Recipe) -> std::io::Result<()> {
    match recipe.fault {
        Some(Fault::Hang) => {
            let _ = stream.read(&mut [0]).await;
            return Ok(());
        }
        Some(Fault::Shut) => return Ok(()),
        Some(_) => return stream.write_all(b"\x09\x09 no record").await,
        None => {}
    }
    let mut head = format!("Status: {}\r\nX-Origin: yes\r\n", recipe.status);
    for (name, value) in &recipe.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let mut text = fastcgi::written(STDOUT, head.as_bytes());
    for part in recipe.parts() {
        if recipe.pieces > 1 {
            stream.write_all(&text).await?;
            text.clear();
            tokio::time::sleep(PAUSE).await;
        }
        for content in part.chunks(RECORD_MAX) {
            text.extend(fastcgi::written(STDOUT, content));
        }
    }
    if recipe.cut.is_none() {
        text.extend(fastcgi::written(STDOUT, b""));
        text.extend(fastcgi::written(END_REQUEST, &[0; 8]));
    }
    stream.write_all(&text).await
}
