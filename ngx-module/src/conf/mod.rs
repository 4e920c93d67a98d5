//! What the directives mean: parses their arguments into plain values. Knows no nginx; the setters
//! in `ffi` call it at configuration time.
//!
//! Every mistake is a [`ConfError`], whose text names the value, what is needed and, added by
//! nginx, the file and line.

pub(crate) mod args;
pub(crate) mod balance;
pub(crate) mod body_hash;
pub(crate) mod class;
pub(crate) mod control;
pub(crate) mod error;
pub(crate) mod limit;
pub(crate) mod target;
pub(crate) mod zone;

pub(crate) use error::{ConfError, Problem};
