//! The mutex of the zone's memory, under which its structure changes.

use nginx_sys::{ngx_shm_zone_t, ngx_slab_pool_t};

/// The memory that holds the zone; none before nginx was asked for it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Slab(Option<&'static ngx_shm_zone_t>);

impl Slab {
    pub(super) fn of(zone: &'static ngx_shm_zone_t) -> Self {
        Self(Some(zone))
    }

    /// Runs a structural change under the slab mutex, which nginx's master frees when its holder
    /// dies.
    pub(crate) fn locked<T>(self, change: impl FnOnce() -> T) -> T {
        let Some(shm_zone) = self.0 else { return change() };
        let pool = shm_zone.shm.addr.cast::<ngx_slab_pool_t>();
        // SAFETY: the zone's memory starts with its slab pool, whose mutex nginx has made.
        unsafe { nginx_sys::ngx_shmtx_lock(&raw mut (*pool).mutex) };
        // A panic in between must not keep the mutex: this process would go on and never give it
        // back.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        // SAFETY: locked above.
        unsafe { nginx_sys::ngx_shmtx_unlock(&raw mut (*pool).mutex) };
        match changed {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
