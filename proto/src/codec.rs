//! The codec of the services: prost's, with the bounds of `bounds` before a request is decoded.

use std::marker::PhantomData;

use prost::{Message, bytes::Buf as _};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::{bounds, google::rpc};

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

/// INVALID_ARGUMENT that names the field.
fn refused(fault: &bounds::Fault) -> Status {
    let violation = FieldViolation { field: fault.field().to_owned(), description: fault.to_string() };
    let detail = BadRequest { field_violations: vec![violation] };
    let detail = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.BadRequest".to_owned(),
        value: detail.encode_to_vec(),
    };
    let code = Code::InvalidArgument;
    let status = rpc::Status { code: code.into(), message: fault.to_string(), details: vec![detail] };
    Status::with_details(code, fault.to_string(), status.encode_to_vec().into())
}

/// Decodes `U`. INVALID_ARGUMENT for a request past a bound.
#[derive(Debug)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        bounds::check(std::any::type_name::<U>(), &bytes).map_err(|fault| refused(&fault))?;
        U::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
