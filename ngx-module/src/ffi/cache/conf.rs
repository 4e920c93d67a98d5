//! What the feature keeps of the configuration.

use super::zones::{self, Place};
use crate::conf::ConfError;
use crate::ffi::base::feature::{Feature, Inherit};
use crate::ffi::base::{location as base_location, log, nginx};
use crate::ffi::body::conf::BodyModule;
use crate::ffi::zone;
use nginx_sys::{ngx_conf_t, ngx_cycle_t};
use pincer_core::digest::KeyContext;
use std::cell::{Cell, OnceCell, RefCell};

/// Cache keys and purges.
pub(crate) struct CacheModule;

/// Whose requests may have a URI of their own.
const PROXY: &str = "ngx_http_proxy_module";

/// Where the proxy module keeps its locations' configurations and its requests' contexts; `None` in
/// an nginx without it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProxyPlace(pub(super) Option<usize>);

impl ProxyPlace {
    /// # Safety
    /// `cycle` is live and its modules are known.
    pub(crate) unsafe fn of(cycle: *const ngx_cycle_t) -> Self {
        // SAFETY: as the caller vouches.
        Self(unsafe { nginx::module_named(cycle, PROXY).as_ref() }.map(|module| module.ctx_index))
    }
}

#[derive(Default)]
pub(crate) struct Main {
    /// Locations that keep responses in one of nginx's caches.
    pub(super) places: Vec<Place>,
    /// Where nginx's proxy module keeps what it knows of a request.
    pub(super) proxy: Cell<ProxyPlace>,
    /// The zone of the same configuration.
    pub(super) memory: OnceCell<&'static zone::conf::Main>,
}

#[derive(Default)]
pub(crate) struct Location {
    /// Of the last `$pincer_cache_key` that was asked for here, in this worker.
    pub(super) key_context: RefCell<KeyContext>,
}

impl Inherit for Location {
    fn merge(
        &mut self,
        cf: *mut ngx_conf_t,
        _parent: &Self,
        location: &base_location::Location,
    ) -> Result<(), ConfError> {
        // SAFETY: nginx merges locations inside `http {}`, one thread; the reference ends here.
        zones::note(&mut unsafe { CacheModule::main_being_read(cf) }.places, location);
        Ok(())
    }
}

/// Warns where responses to different bodies would share a key, or no two requests any.
pub(super) fn check_cache_keys(cf: *mut ngx_conf_t) {
    // SAFETY: nginx passes the configuration it has just read, inside `http {}`.
    let main = unsafe { BodyModule::main_read(cf) };
    let used = ["pincer_cache_key", "pincer_body_hash"].into_iter().find(|name| nginx::uses_variable(cf, name));
    let message = match (&main.keeps_hashed, used) {
        (Some(location), None) => format!(
            "\"pincer_body_hash\" is on in location \"{location}\", which keeps responses to POST, and nothing in the configuration uses \
             $pincer_cache_key: different bodies get one response, \"proxy_cache_key $pincer_cache_key\" is needed"
        ),
        (_, Some(name)) if !main.in_use => format!(
            "${name} is used and \"pincer_body_hash\" is on nowhere: no two requests have the same, \"pincer_body_hash blake3\" is needed"
        ),
        _ => return,
    };
    // SAFETY: nginx passes a live `ngx_conf_t`, which has a log.
    log::write(unsafe { (*cf).log }, log::NGX_LOG_WARN, &message);
}
