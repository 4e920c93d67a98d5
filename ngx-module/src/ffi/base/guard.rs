//! What every callback of nginx runs inside.

use super::log;
use super::statics::LoopStatic;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where this process counts its panics; none before it has joined a zone.
static FAULTS: LoopStatic<Cell<Option<&'static AtomicU64>>> = LoopStatic::new(Cell::new(None));

static IS_LOGGED: LoopStatic<Cell<bool>> = LoopStatic::new(Cell::new(false));

/// From now on panics of this process are counted in `counter`.
pub(crate) fn count_in(counter: &'static AtomicU64) {
    FAULTS.set(Some(counter));
}

/// Runs one callback; a panic inside becomes `fallback`, is counted in the zone and logged once for
/// each worker.
pub(crate) fn guard<T>(place: &'static str, fallback: T, callback: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(value) => value,
        Err(_) => {
            count_panic(place);
            fallback
        }
    }
}

/// Counts a panic at `place`, and logs the first of this process.
fn count_panic(place: &str) {
    if let Some(faults) = FAULTS.get() {
        faults.fetch_add(1, Relaxed);
    }
    if !IS_LOGGED.replace(true) {
        log::write_cycle(log::NGX_LOG_CRIT, &format!("internal error, request handled without pincer, place={place}"));
    }
}
