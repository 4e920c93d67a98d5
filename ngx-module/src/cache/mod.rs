//! What nginx's cache looks like on disk. Knows no nginx: the border tells where fields lie.

pub(crate) mod file;
pub(crate) mod walk;

/// A cache key as nginx names its entries: an MD5.
pub(crate) type Digest = [u8; 16];
