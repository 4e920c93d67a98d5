//! The atomics of what loom checks: the standard library's, or loom's under `--cfg loom`
//! (`tools/loom.sh`).
//!
//! Decides nothing. loom treats sequentially consistent accesses as acquire and release, so where
//! an algorithm needs their one total order it calls [`total_order`], which is nothing in a normal
//! build: there the accesses themselves are sequentially consistent. In the unit tests a process
//! may die before any store: see [`mortal`].

#[cfg(all(test, not(loom)))]
pub(crate) use self::mortal::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::Ordering;
#[cfg(all(not(test), not(loom)))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Between one's own store and the look at what others stored: a full fence for loom's eyes;
/// nothing in a normal build.
#[inline(always)]
pub(crate) fn total_order() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// Atomics before whose stores the process may die: the death is an unwinding that
/// [`mortal::dies_before`] catches.
#[cfg(all(test, not(loom)))]
pub(crate) mod mortal {
    use super::Ordering;
    use std::cell::Cell;
    use std::ops::Deref;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local! {
        /// Stores until death, plus one; 0 = immortal.
        static FUSE: Cell<u32> = const { Cell::new(0) };
    }

    struct Death;

    /// Runs `life`, which ends before its store number `store`, counted from 0; `None` if it did.
    pub(crate) fn dies_before<T>(store: u32, life: impl FnOnce() -> T) -> Option<T> {
        FUSE.set(store + 1);
        let lived = catch_unwind(AssertUnwindSafe(life));
        FUSE.set(0);
        match lived {
            Ok(value) => Some(value),
            Err(cause) if cause.is::<Death>() => None,
            Err(cause) => resume_unwind(cause),
        }
    }

    fn burn() {
        let left = FUSE.get();
        FUSE.set(left.saturating_sub(1));
        if left == 1 {
            resume_unwind(Box::new(Death));
        }
    }

    macro_rules! mortal {
        ($name:ident, $number:ty) => {
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub(crate) struct $name(core::sync::atomic::$name);

            #[allow(dead_code)]
            impl $name {
                pub(crate) const fn new(value: $number) -> Self {
                    Self(core::sync::atomic::$name::new(value))
                }

                pub(crate) fn store(&self, value: $number, order: Ordering) {
                    burn();
                    self.0.store(value, order);
                }

                pub(crate) fn swap(&self, value: $number, order: Ordering) -> $number {
                    burn();
                    self.0.swap(value, order)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    old: $number,
                    new: $number,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    burn();
                    self.0.compare_exchange(old, new, success, failure)
                }

                pub(crate) fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    next: impl FnMut($number) -> Option<$number>,
                ) -> Result<$number, $number> {
                    burn();
                    self.0.fetch_update(success, failure, next)
                }

                pub(crate) fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                    burn();
                    self.0.fetch_add(value, order)
                }

                pub(crate) fn fetch_sub(&self, value: $number, order: Ordering) -> $number {
                    burn();
                    self.0.fetch_sub(value, order)
                }

                pub(crate) fn fetch_or(&self, value: $number, order: Ordering) -> $number {
                    burn();
                    self.0.fetch_or(value, order)
                }

                pub(crate) fn fetch_and(&self, value: $number, order: Ordering) -> $number {
                    burn();
                    self.0.fetch_and(value, order)
                }
            }

            impl Deref for $name {
                type Target = core::sync::atomic::$name;

                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
        };
    }

    mortal!(AtomicU32, u32);
    mortal!(AtomicU64, u64);
}
