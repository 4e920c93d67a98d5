//! Who asks.

use pincer_core::zone::KeyName;

/// What a request's API key says.
#[derive(Debug)]
pub(crate) enum Caller {
    /// The location asks for none.
    NotAsked,
    /// There is none.
    Nobody,
    /// A valid one.
    Known { tenant: KeyName, class: KeyName },
    /// One that is not known, revoked or expired.
    Unknown,
    /// One that may not be used from the client's address.
    Forbidden,
}
