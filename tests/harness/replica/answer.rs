//! Builds a replica's responses: headers, tokens, chunks, gRPC frames, and the cut in the middle
//! when that is the fault.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::Fault;
use super::listen::ConnectionId;
use super::routes::Admitted;

/// Bytes of one chunk of a chunked answer.
const CHUNK: usize = 4096;
/// Time in which a written piece has left for the socket.
const FLUSH: Duration = Duration::from_millis(10);

/// A response with the replica's name and connection in its header; ends the request when it is
/// built.
pub(super) struct Answer {
    admitted: Admitted,
    builder: axum::http::response::Builder,
}

impl Answer {
    pub(super) fn of(admitted: Admitted) -> Self {
        let mut builder = Response::builder().header("x-replica", &admitted.shared.name);
        if let Some(ConnectionId(id)) = admitted.head.extensions.get::<ConnectionId>() {
            builder = builder.header("x-connection", id.to_string());
        }
        Self { admitted, builder }
    }

    pub(super) fn text(self, text: String) -> axum::response::Response {
        self.whole("text/plain", text.into())
    }

    pub(super) fn json(self, value: &Value) -> axum::response::Response {
        self.whole("application/json", value.to_string().into())
    }

    fn whole(mut self, kind: &'static str, bytes: Bytes) -> axum::response::Response {
        self.builder = self.builder.header(CONTENT_TYPE, kind);
        if self.admitted.settings.fault == Fault::Cut {
            self.builder = self.builder.header(CONTENT_LENGTH, bytes.len());
            let half = bytes.slice(..bytes.len() / 2);
            return self.body(Body::from_stream(stream::iter([Ok(half)]).chain(stream::once(cut()))));
        }
        self.body(Body::from(bytes))
    }

    pub(super) fn body(self, body: Body) -> axum::response::Response {
        self.admitted.running.finish();
        self.builder.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

/// Breaks the body off, after what came before has left: hyper sends nothing more once a body
/// fails.
async fn cut() -> Result<Bytes, io::Error> {
    tokio::time::sleep(FLUSH).await;
    Err(io::Error::other("cut"))
}

/// An empty-handed answer of this status.
pub(super) fn status(name: &str, code: u16) -> axum::response::Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = if code == StatusCode::NO_CONTENT || code == StatusCode::NOT_MODIFIED { "" } else { "status\n" };
    let mut response = (code, text).into_response();
    if let Ok(name) = HeaderValue::from_str(name) {
        response.headers_mut().insert("x-replica", name);
    }
    if code == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The text of token number `index`.
pub(super) fn token(index: u32) -> String {
    format!("token{index} ")
}

/// A whole chat completion.
pub(super) fn completion(model: &str, content: &str, tokens: u32) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": tokens}
    })
}

fn event(model: &str, index: u32) -> Bytes {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": model,
        "choices": [{"index": 0, "delta": {"content": token(index)}, "finish_reason": null}]
    });
    format!("data: {chunk}\n\n").into()
}

/// The header now, each token in its time, `data: [DONE]` at the end. A cut comes after half of the
/// tokens.
pub(super) fn chat_stream(mut admitted: Admitted, tokens: u32) -> axum::response::Response {
    let (running, permit) = (admitted.running, admitted.permit.take());
    let (settings, work, name) = (admitted.settings, admitted.work, admitted.shared.name.clone());
    let model = name.clone();
    let events = stream::unfold((0, Some((running, permit))), move |(index, mut held)| {
        let (settings, model) = (settings.clone(), model.clone());
        async move {
            held.as_ref()?;
            if index == tokens {
                let (running, _permit) = held.take()?;
                running.finish();
                return Some((Ok(Bytes::from_static(b"data: [DONE]\n\n")), (index, None)));
            }
            if settings.fault == Fault::Cut && index >= tokens / 2 {
                return Some((cut().await, (index, None)));
            }
            let pause = if index == 0 { settings.ttft_ms } else { settings.token_interval_ms };
            tokio::time::sleep(settings.time(pause, work)).await;
            Some((Ok(event(&model, index)), (index + 1, held)))
        }
    });
    streaming(&name, "text/event-stream", events)
}

/// `count` bytes in chunks, after `pause`; the header at once.
pub(super) fn chunked(mut admitted: Admitted, count: usize, pause: Duration) -> axum::response::Response {
    let held = Some((admitted.running, admitted.permit.take()));
    let broken = admitted.settings.fault == Fault::Cut;
    let chunks = stream::unfold((count, held), move |(left, mut held)| async move {
        held.as_ref()?;
        if left == count {
            tokio::time::sleep(pause).await;
        }
        if broken && left <= count / 2 {
            return Some((cut().await, (left, None)));
        }
        let size = left.min(CHUNK);
        if left == size {
            held.take()?.0.finish();
        }
        Some((Ok(Bytes::from(vec![b'x'; size])), (left - size, held)))
    });
    streaming(&admitted.shared.name.clone(), "text/plain", chunks)
}

fn streaming(
    name: &str,
    kind: &'static str,
    chunks: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
) -> axum::response::Response {
    Response::builder()
        .header("x-replica", name)
        .header(CONTENT_TYPE, kind)
        .header(CACHE_CONTROL, "no-cache")
        .body(Body::from_stream(chunks))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// True for any gRPC call.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The header at once; after the service time one gRPC message, the replica's name; then the
/// trailers.
pub(super) fn grpc(mut admitted: Admitted) -> axum::response::Response {
    let pause = admitted.settings.time(admitted.settings.service_ms, admitted.work);
    let name = admitted.shared.name.clone();
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(name.len()).unwrap_or(0));
    message.put_slice(name.as_bytes());
    let held = (admitted.running, admitted.permit.take());
    let frames = stream::unfold((Some(message.freeze()), Some(held)), move |(mut message, mut held)| async move {
        if let Some(message) = message.take() {
            tokio::time::sleep(pause).await;
            return Some((Ok::<_, Infallible>(Frame::data(message)), (None, held)));
        }
        held.take()?.0.finish();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some((Ok(Frame::trailers(trailers)), (None, None)))
    });
    Response::builder()
        .header("x-replica", &name)
        .header(CONTENT_TYPE, "application/grpc")
        .body(Body::new(StreamBody::new(frames)))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A gRPC call that fails with this status: in trailers behind the header, or in the header.
pub(super) fn grpc_failure(name: &str, status: u16, has_trailers: bool) -> axum::response::Response {
    let builder = Response::builder().header("x-replica", name).header(CONTENT_TYPE, "application/grpc");
    let response = if has_trailers {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        let frames = stream::iter([Ok::<_, Infallible>(Frame::<Bytes>::trailers(trailers))]);
        builder.body(Body::new(StreamBody::new(frames)))
    } else {
        builder.header("grpc-status", status).body(Body::empty())
    };
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
