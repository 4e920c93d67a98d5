//! Cache keys, and purges of caches that nginx keeps.

pub(crate) mod key;
pub(crate) mod nodes;
pub(crate) mod passed;
pub(crate) mod purge;
pub(crate) mod store;
pub(crate) mod zones;
