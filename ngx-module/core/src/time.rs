//! Monotonic time as a number. Decides nothing, reads no clock: callers pass `now` in, so the wall
//! clock can never matter.

/// A moment, in nanoseconds of the system's monotonic clock (the same for all processes of one
/// boot). Zero means "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct MonoNs(pub u64);

/// Nanoseconds in one second.
pub const SECOND_NS: u64 = 1_000_000_000;
/// Nanoseconds in one millisecond.
pub const MILLISECOND_NS: u64 = 1_000_000;

impl MonoNs {
    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` lies ahead (clocks of two CPUs may
    /// differ by a hair).
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ns` later; saturates at the end of time.
    #[must_use]
    pub const fn plus(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}
