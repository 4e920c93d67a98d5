//! The event loop's side of the control plane.

pub(crate) mod running;
