//! The shared memory, the life of a worker in it, and how workers wake each other.

pub(crate) mod memory;
pub(crate) mod wake;
pub(crate) mod worker;
