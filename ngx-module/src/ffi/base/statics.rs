//! Statics that nginx's one thread uses.

use std::ops::Deref;

/// A static of the event loop: only the thread that runs nginx uses it, so plain cells do. Cheaper than a thread's own storage, which costs a call
/// for each use in a shared object.
pub(crate) struct LoopStatic<T>(T);

// SAFETY: everything in `ffi` runs on nginx's one thread; the feed's thread, the only other, never calls into `ffi`.
unsafe impl<T> Sync for LoopStatic<T> {}

impl<T> LoopStatic<T> {
    /// For a `static`.
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for LoopStatic<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
