//! Pincer's wire protocol: what `pincer/v1/*.proto` says, as Rust, and the bounds that both sides
//! hold it to.
//!
//! Decides nothing and knows neither nginx nor the control plane. Clients and servers are both
//! here; a crate that uses only the client needs no more of tonic than `channel` and `codegen`, and
//! the linker drops the rest.

mod bounds;
pub mod codec;
pub mod limits;
mod secret;

pub use pincer::v1;

/// Pincer's own packages.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod pincer {
    /// Package `pincer.v1`: `node_service_client`, `node_service_server`, `control_service_client`,
    /// `control_service_server` and their messages.
    pub mod v1 {
        tonic::include_proto!("pincer.v1");
    }
}

/// What `pincer.v1` borrows from Google's packages.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod google {
    /// Package `google.rpc`: `Status`.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// The encoded `google.protobuf.FileDescriptorSet` of everything here, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pincer.v1.bin"));
