//! The two impure inputs of the core: monotonic time and random bits.

use super::statics::LoopStatic;
use pincer_core::time::MonoNs;
use std::cell::Cell;

/// Now, on the clock that no step of the wall clock moves; the same for all processes of one boot.
pub(crate) fn now() -> MonoNs {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec on this stack, written by the call; CLOCK_MONOTONIC exists
    // on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    MonoNs(seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds))
}

/// State of xorshift64* (Vigna 2016); 0 = not seeded yet.
static STATE: LoopStatic<Cell<u64>> = LoopStatic::new(Cell::new(0));

/// 64 random bits: good enough to break ties and spread trials, never for secrets.
pub(crate) fn random() -> u64 {
    let mut x = STATE.get();
    if x == 0 {
        x = entropy() | 1;
    }
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    STATE.set(x);
    x.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// Forgets the state, so that a forked worker does not repeat its master's or sibling's numbers.
pub(crate) fn reseed() {
    STATE.set(0);
}

/// 64 bits from the kernel.
pub(crate) fn entropy() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is 8 writable bytes on this stack, and the call writes at most the 8 it is
    // told.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 { u64::from_ne_bytes(bytes) } else { now().0.rotate_left(17) ^ u64::from(std::process::id()) }
}
