//! A chat request with `"stream": true`: when the header, the first token and every other one
//! arrived.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;

use super::{CallError, Client};

/// Longest wait between two pieces of a stream.
const GAP_MAX_S: f64 = 30.0;

/// A stream that was read to its end, or to where it broke off.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Status code.
    pub status: u16,
    /// `X-Replica`.
    pub replica: String,
    /// From sending to the header.
    pub header_time: Duration,
    /// From sending to each event but the last `[DONE]`.
    pub events: Vec<Duration>,
    /// From sending to the end.
    pub total_time: Duration,
    /// True when `data: [DONE]` came.
    pub done: bool,
}

impl Stream {
    /// Time to the first token; the whole time when there was none.
    #[must_use]
    pub fn ttft(&self) -> Duration {
        self.events.first().copied().unwrap_or(self.total_time)
    }
}

/// Asks for a streamed chat completion of `max_tokens` with `x-work`, and reads it all.
///
/// # Errors
/// Only when no answer began; a stream that breaks off is returned with `done` false.
pub async fn chat(client: &Client, path: &str, max_tokens: u32, work: f64) -> Result<Stream, CallError> {
    let body = format!(
        r#"{{"model":"test","stream":true,"max_tokens":{max_tokens},"messages":[{{"role":"user","content":"hi"}}]}}"#
    );
    let start = Instant::now();
    let call = client.call(Method::POST, path).header("content-type", "application/json").header("x-work", work);
    let response = call.body(body).begin().await?;
    let replica = response.headers().get("x-replica").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut stream = Stream {
        status: response.status().as_u16(),
        replica,
        header_time: start.elapsed(),
        events: Vec::new(),
        total_time: Duration::ZERO,
        done: false,
    };
    let mut body = response.into_body();
    let mut pending = String::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(crate::limit(GAP_MAX_S), body.frame()).await {
        let Some(data) = frame.data_ref() else { continue };
        pending.push_str(&String::from_utf8_lossy(data));
        while let Some((event, rest)) = pending.split_once("\n\n") {
            if event == "data: [DONE]" {
                stream.done = true;
            } else {
                stream.events.push(start.elapsed());
            }
            pending = rest.to_owned();
        }
    }
    stream.total_time = start.elapsed();
    Ok(stream)
}
