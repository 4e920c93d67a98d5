//! The value of a flag that sets a field.

/// A value, or `unset`: the value of nginx.conf applies again.
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
