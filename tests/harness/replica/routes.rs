//! What a replica answers to. Everything takes a slot and its time of service, except `/_control`.
//!
//! - `POST /v1/chat/completions`: OpenAI-style JSON; with `"stream":true` the header at once, the
//!   first token after `ttft`, `data: [DONE]` last.
//! - `POST /predict`: JSON with a label.
//! - `GET /ws`: WebSocket echo, the first message is the name.
//! - `GET /status/CODE`: that status. `/bytes/N`: N bytes with a length. `/chunked/N`: N bytes in
//!   chunks. `/late/N`: the header at once, N bytes after the service time.
//! - `POST /echo` and any gRPC: the body again.
//! - Anything else: `replica NAME`.
//! - `GET /_control`: settings and counts. `POST /_control`: changes the settings that the JSON
//!   names.
//!
//! From the request: `x-work` multiplies every time, `x-id` is kept in the order of arrival.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, body};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{self, Answer};
use super::seen::Running;
use super::{Fault, Settings, Shared};

/// Longest request body read.
const BODY_MAX: usize = 128 << 20;

/// A request that has a slot.
pub(super) struct Admitted {
    pub(super) running: Running,
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) settings: Settings,
    pub(super) work: f64,
    pub(super) body: Bytes,
    pub(super) head: axum::http::request::Parts,
    pub(super) shared: Arc<Shared>,
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/_control", get(control_show).post(control_change))
        .route("/v1/chat/completions", post(chat))
        .route("/predict", post(predict))
        .route("/ws", any(websocket))
        .route("/status/{code}", any(status))
        .route("/bytes/{count}", any(sized))
        .route("/chunked/{count}", any(chunked))
        .route("/late/{count}", any(late))
        .route("/echo", any(echo))
        .fallback(plain)
        .with_state(shared)
}

type Refused = Response;

/// Counts the request, shows the fault if there is one, reads the body and waits for a slot.
async fn admit(shared: Arc<Shared>, request: Request) -> Result<Admitted, Refused> {
    let running = Running::begin(&shared, request.headers());
    let (head, body) = request.into_parts();
    let body = body::to_bytes(body, BODY_MAX).await.map_err(|_| StatusCode::BAD_REQUEST.into_response())?;
    running.received();
    let mut settings = shared.settings.subscribe();
    let fault = settings.borrow().fault;
    match fault {
        Fault::Status(code) => {
            running.finish();
            return Err(answer::status(&shared.name, code));
        }
        Fault::Hang => {
            let _ = settings.wait_for(|now| now.fault != Fault::Hang).await;
        }
        Fault::Grpc(status) | Fault::GrpcBare(status) => {
            running.finish();
            return Err(answer::grpc_failure(&shared.name, status, matches!(fault, Fault::Grpc(_))));
        }
        Fault::None | Fault::Refuse | Fault::Cut => {}
    }
    let permit = shared.slots.take().await;
    let work = head.headers.get("x-work").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).unwrap_or(1.0);
    let settings = settings.borrow().clone();
    Ok(Admitted { running, permit, settings, work, body, head, shared })
}

impl Admitted {
    /// Takes the service time, then hands over.
    async fn serve(self) -> Self {
        let time = self.settings.time(self.settings.service_ms, self.work);
        tokio::time::sleep(time).await;
        self
    }
}

async fn plain(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?;
    if answer::is_grpc(&admitted.head.headers) {
        return Ok(answer::grpc(admitted));
    }
    let admitted = admitted.serve().await;
    let text = format!("replica {}\n", admitted.shared.name);
    Ok(Answer::of(admitted).text(text))
}

async fn predict(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?.serve().await;
    let label =
        json!({"label": "tabby cat", "score": 0.93, "replica": admitted.shared.name, "bytes": admitted.body.len()});
    Ok(Answer::of(admitted).json(&label))
}

async fn chat(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?;
    let asked: Value = serde_json::from_slice(&admitted.body).unwrap_or_default();
    let tokens = asked["max_tokens"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(admitted.settings.tokens);
    if asked["stream"] == true {
        return Ok(answer::chat_stream(admitted, tokens));
    }
    let time = admitted.settings.ttft_ms + f64::from(tokens.saturating_sub(1)) * admitted.settings.token_interval_ms;
    tokio::time::sleep(admitted.settings.time(time, admitted.work)).await;
    let content: String = (0..tokens).map(answer::token).collect();
    let completion = answer::completion(&admitted.shared.name, &content, tokens);
    Ok(Answer::of(admitted).json(&completion))
}

async fn status(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<u16>,
    request: Request,
) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?.serve().await;
    let response = answer::status(&admitted.shared.name, code);
    admitted.running.finish();
    Ok(response)
}

async fn sized(
    State(shared): State<Arc<Shared>>,
    Path(count): Path<usize>,
    request: Request,
) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?.serve().await;
    Ok(Answer::of(admitted).text("x".repeat(count)))
}

async fn chunked(
    State(shared): State<Arc<Shared>>,
    Path(count): Path<usize>,
    request: Request,
) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?.serve().await;
    Ok(answer::chunked(admitted, count, std::time::Duration::ZERO))
}

async fn late(
    State(shared): State<Arc<Shared>>,
    Path(count): Path<usize>,
    request: Request,
) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?;
    let pause = admitted.settings.time(admitted.settings.service_ms, admitted.work);
    Ok(answer::chunked(admitted, count, pause))
}

async fn echo(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refused> {
    let admitted = admit(shared, request).await?.serve().await;
    let body = admitted.body.clone();
    Ok(Answer::of(admitted).body(Body::from(body)))
}

async fn websocket(State(shared): State<Arc<Shared>>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| converse(shared, headers, socket))
}

async fn converse(shared: Arc<Shared>, headers: HeaderMap, mut socket: WebSocket) {
    let running = Running::begin(&shared, &headers);
    let _permit = shared.slots.take().await;
    let service = { shared.settings.borrow().time(shared.settings.borrow().service_ms, 1.0) };
    tokio::time::sleep(service).await;
    if socket.send(Message::Text(shared.name.as_str().into())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Text(_) | Message::Binary(_) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Message::Close(_) => {
                running.finish();
                return;
            }
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

async fn control_show(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let settings = shared.settings.borrow().clone();
    Json(json!({"name": shared.name, "settings": settings, "seen": shared.counters.snapshot()}))
}

async fn control_change(State(shared): State<Arc<Shared>>, Json(change): Json<Value>) -> Result<Json<Value>, Response> {
    let mut merged = serde_json::to_value(shared.settings.borrow().clone()).unwrap_or_default();
    if let (Some(now), Some(fields)) = (merged.as_object_mut(), change.as_object()) {
        now.extend(fields.clone());
    }
    let settings: Settings =
        serde_json::from_value(merged).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()).into_response())?;
    shared.change(|now| *now = settings);
    Ok(control_show(State(shared)).await)
}
