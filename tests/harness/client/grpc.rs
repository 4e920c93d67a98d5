//! A unary gRPC call in plain HTTP/2 frames: enough to see `grpc_pass` work, without generated
//! code.

use bytes::{BufMut, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;

use super::{CallError, Client};

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub http_status: u16,
    /// `grpc-status` of the trailers or the header, -1 when there is none.
    pub grpc_status: i32,
    /// The first message.
    pub message: Vec<u8>,
}

/// Calls `path` (`/package.Service/Method`) with one message. `client` must speak HTTP/2.
///
/// # Errors
/// When no answer began or it was cut.
pub async fn call(client: &Client, path: &str, message: &[u8]) -> Result<Answer, CallError> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put_slice(message);
    let call = client.call(Method::POST, path).header("content-type", "application/grpc").header("te", "trailers");
    let response = call.body(body.freeze()).begin().await?;
    let http_status = response.status().as_u16();
    let early = grpc_status(response.headers());
    let whole = response.into_body().collect().await.map_err(|_| CallError::Cut(0))?;
    let late = whole.trailers().and_then(grpc_status);
    let bytes = whole.to_bytes();
    Ok(Answer {
        http_status,
        grpc_status: late.or(early).unwrap_or(-1),
        message: bytes.get(5..).unwrap_or_default().to_vec(),
    })
}

fn grpc_status(fields: &hyper::HeaderMap) -> Option<i32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}
