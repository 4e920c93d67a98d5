//! What a flag may say of a setting.

/// A value, or the wish to have nginx.conf's again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting<T> {
    To(T),
    Unset,
}

impl<T> Setting<T> {
    /// The value; `None` for unset.
    pub fn value(self) -> Option<T> {
        match self {
            Self::To(value) => Some(value),
            Self::Unset => None,
        }
    }
}
