//! Statics that nginx's one thread uses.

use std::cell::UnsafeCell;
use std::ops::Deref;

/// A static of the event loop: only the thread that runs nginx uses it, so plain cells do. Cheaper
/// than a thread's own storage, which costs a call for each use in a shared object.
pub(crate) struct LoopStatic<T>(T);

// SAFETY: everything in `ffi` runs on nginx's one thread; the feed's thread, the only other, never
// calls into `ffi`.
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

/// A static that nginx writes while it is single-threaded (configuration) and everybody only reads
/// afterwards.
#[repr(transparent)]
pub(crate) struct NginxStatic<T>(UnsafeCell<T>);

// SAFETY: nginx writes these statics in the master, before workers are forked and before the feed
// thread exists; that thread never touches them.
unsafe impl<T> Sync for NginxStatic<T> {}

impl<T> NginxStatic<T> {
    /// For a `static`.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Where it is.
    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}
