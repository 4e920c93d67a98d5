//! Balancing: which peer a request goes to, the queue it may wait in, and what an attempt says of its peer.

pub(crate) mod address;
pub(crate) mod balancer;
pub(crate) mod declare;
pub(crate) mod fingerprint;
pub(crate) mod first_byte;
pub(crate) mod grpc;
pub(crate) mod placeholder;
pub(crate) mod queue;
pub(crate) mod queue_end;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod terms;
pub(crate) mod unavailable;
pub(crate) mod waiters;
