//! The mutex of the zone's memory, under which its structure changes.

use nginx_sys::ngx_shm_zone_t;
use ngx::core::SlabPool;

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
        // SAFETY: nginx has mapped the memory, which starts with its slab pool, and unmaps it with
        // the configuration.
        let pool = self.0.and_then(|zone| unsafe { SlabPool::from_shm_zone(zone) });
        // Given back at the end, and by a panic too: this process would go on and never do it.
        let _locked = pool.as_ref().map(SlabPool::lock);
        change()
    }
}
