//! Stub.

use std::sync::Arc;

use pincer_proto::v1;
use tonic::Status;

use crate::plane::Plane;

pub fn list(_: &Arc<Plane>, _: v1::ListKeysRequest) -> Result<v1::ListKeysResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub fn get(_: &Arc<Plane>, _: v1::GetKeyRequest) -> Result<v1::Key, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn create(_: &Arc<Plane>, _: v1::CreateKeyRequest) -> Result<v1::KeySecret, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn rotate(_: &Arc<Plane>, _: v1::RotateKeyRequest) -> Result<v1::KeySecret, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn revoke(_: &Arc<Plane>, _: v1::RevokeKeyRequest) -> Result<v1::Key, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn delete(_: &Arc<Plane>, _: v1::DeleteKeyRequest) -> Result<v1::DeleteKeyResponse, Status> {
    Err(Status::unimplemented("not yet"))
}
