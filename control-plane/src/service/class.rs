//! Stub.

use std::sync::Arc;

use pincer_proto::v1;
use tonic::Status;

use crate::plane::Plane;

pub fn list(_: &Arc<Plane>, _: v1::ListClassesRequest) -> Result<v1::ListClassesResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub fn get(_: &Arc<Plane>, _: v1::GetClassRequest) -> Result<v1::Class, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn create(_: &Arc<Plane>, _: v1::CreateClassRequest) -> Result<v1::Class, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn update(_: &Arc<Plane>, _: v1::UpdateClassRequest) -> Result<v1::Class, Status> {
    Err(Status::unimplemented("not yet"))
}

pub async fn delete(_: &Arc<Plane>, _: v1::DeleteClassRequest) -> Result<v1::DeleteClassResponse, Status> {
    Err(Status::unimplemented("not yet"))
}
