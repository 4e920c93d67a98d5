//! The faults in the value of an argument. Always the fault of whoever typed it.

use pincer_proto::limits;

use crate::words;

/// The message follows the value and the argument's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is not 0 to {} or \"unset\"", limits::PEER_VALUE_MAX)]
    Number,
    #[error("is not active, draining, down or \"unset\"")]
    State,
    #[error("is not a time as 5s or 500ms")]
    Time,
    #[error("has another unit than ms, s, m, h")]
    TimeUnit,
    #[error("is more than a day")]
    TimeTooLong,
    #[error("{0} or \"unset\"")]
    ClassSetting(words::Fault),
}
