//! The requests that make a revision, and the names in requests.

use pincer_proto::v1;

use super::failure::Failure;
use crate::names;

/// A change, ready to be sent.
pub enum Change {
    Update(v1::UpdatePeerRequest),
    Create(v1::CreatePeerRequest),
    Delete(v1::DeletePeerRequest),
    Apply(v1::ApplyUpstreamsRequest),
    UpdateClass(v1::UpdateClassRequest),
    DeleteClass(v1::DeleteClassRequest),
    CreateKey(v1::CreateKeyRequest),
    RotateKey(v1::RotateKeyRequest),
    RevokeKey(v1::RevokeKeyRequest),
    DeleteKey(v1::DeleteKeyRequest),
}

pub fn upstream_name(upstream: &str) -> Result<String, Failure> {
    names::check_upstream(upstream)?;
    Ok(names::upstream_name(upstream))
}

pub fn node_name(node: &str) -> Result<String, Failure> {
    names::check_node(node)?;
    Ok(names::node_name(node))
}
