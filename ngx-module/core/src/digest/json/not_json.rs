//! The one way in which reading JSON ends early: the body is hashed as it came.

use super::super::memory::Refused;

/// The body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NotJson;

impl From<Refused> for NotJson {
    fn from(_: Refused) -> Self {
        Self
    }
}
