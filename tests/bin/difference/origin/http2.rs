//! HTTP/2 without TLS for `grpc_pass`: any method and path, so that nginx's gRPC module meets what
//! the fuzzer asks for.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::recipe::{Fault, PAUSE, Recipe};
use super::seen::{CLIENT, Seen};
use crate::text;

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>;

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    let service = service_fn(move |request| respond(request, seen.clone()));
    // A connection that breaks off is the fuzzer's daily bread.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    Ok(())
}

async fn respond(request: Request<Incoming>, seen: Seen) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let client = head.headers.get(CLIENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fields = head.headers.iter().filter(|(name, _)| name.as_str() != CLIENT);
    let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let uri = head.uri.path_and_query().map_or("", |path| path.as_str());
    let line = text::received("grpc", head.method.as_str().as_bytes(), uri.as_bytes(), fields);
    let mut open = seen.open(client, line);
    let recipe = Recipe::of(uri.as_bytes());
    open.complete = true;
    while !recipe.early
        && let Some(frame) = body.frame().await
    {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => open.body.extend(data),
            Ok(Err(_)) => {}
            Err(_) => {
                open.complete = false;
                break;
            }
        }
    }
    drop(open);
    if recipe.fault == Some(Fault::Hang) {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(recipe.status.max(200)).header("x-origin", "yes");
    for (name, value) in &recipe.headers {
        response = response.header(*name, value);
    }
    let body = StreamBody::new(frames(&recipe, head.method.as_str().as_bytes()));
    Ok(response.body(body).unwrap_or_else(|_| Response::new(StreamBody::new(Box::pin(stream::empty())))))
}

fn frames(recipe: &Recipe, method: &[u8]) -> Frames {
    if !recipe.has_body(method) {
        return Box::pin(stream::empty());
    }
    let mut frames: Vec<_> =
        recipe.parts().into_iter().map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    if recipe.cut.is_some() || recipe.fault.is_some() {
        frames.push(Err(std::io::ErrorKind::BrokenPipe.into()));
    } else {
        let trailers = [("grpc-status", "0"), ("x-trailer", "yes")];
        let trailers = trailers
            .into_iter()
            .map(|(name, value)| (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        frames.push(Ok(Frame::trailers(trailers.collect::<HeaderMap>())));
    }
    let pause = recipe.pieces > 1;
    Box::pin(stream::unfold(frames.into_iter(), move |mut frames| async move {
        let frame = frames.next()?;
        if pause {
            tokio::time::sleep(PAUSE).await;
        }
        Some((frame, frames))
    }))
}
