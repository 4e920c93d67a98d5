//! What every callback of nginx runs inside.

use crate::ffi::zone::worker;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one callback; a panic inside becomes `fallback`, is counted in the zone and logged once for each worker.
pub(crate) fn guard<T>(place: &'static str, fallback: T, callback: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(value) => value,
        Err(_) => {
            worker::count_panic(place);
            fallback
        }
    }
}
