//! An array of atomics with a default.

use core::ops::Deref;

/// An array whose default is the default of each element, whatever its length.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Array<T, const N: usize>([T; N]);

impl<T: Default, const N: usize> Default for Array<T, N> {
    fn default() -> Self {
        Self(core::array::from_fn(|_| T::default()))
    }
}

impl<T, const N: usize> Deref for Array<T, N> {
    type Target = [T; N];

    fn deref(&self) -> &[T; N] {
        &self.0
    }
}
