//! Request bodies: hashed while they arrive.

pub(crate) mod filter;
pub(crate) mod give_way;
pub(crate) mod head;
