//! Cache keys, and purges of caches that nginx keeps.

pub(crate) mod conf;
mod key;
mod nodes;
mod passed;
mod purge;
mod store;
mod zones;

use crate::conf::ConfError;
use crate::feed::PurgeCommand;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::variable::{Variable, fill_bytes};
use crate::ffi::base::{filter, module, nginx};
use crate::ffi::zone::part::WorkerPart;
use crate::ffi::{feed, zone};
use conf::{CacheModule, Location, Main};
use nginx_sys::ngx_conf_t;
use nginx_sys::ngx_http_request_t;
use nginx_sys::ngx_http_variable_value_t;
use nginx_sys::ngx_int_t;
use pincer_core::digest::key_text;
use pincer_core::zone::WorkerIdx;
use pincer_proto::v1::Purged;

module::module!(CacheModule, c"ngx_http_pincer_cache_module", (Main, (), Location), []);

impl Feature for CacheModule {
    const VARIABLES: &'static [Variable] = &[Variable::new("pincer_cache_key", cache_key)];

    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        let main = unsafe { CacheModule::main_read(cf) };
        conf::check_cache_keys(cf);
        // SAFETY: nginx passes a live `ngx_conf_t`; its cycle's modules are known once directives
        // are read.
        main.proxy.set(unsafe { conf::ProxyPlace::of((*cf).cycle) });
        // SAFETY: as above.
        let _ = main.memory.set(unsafe { zone::conf::ZoneModule::main_read(cf) });
        zone::conf::register_worker(cf, main);
        feed::conf::register(cf, main);
        if !main.places.is_empty() {
            filter::install::<store::Stored>();
        }
        Ok(())
    }
}

impl WorkerPart for Main {
    fn joined(&'static self, worker: WorkerIdx) {
        store::nothing_to_fence(worker);
    }

    fn each_second(&'static self) {
        store::apply_fences();
    }

    fn woken(&'static self) {
        store::apply_fences();
    }
}

impl feed::part::Part for Main {
    fn takes_purges(&self) -> bool {
        true
    }

    fn command(&'static self, command: PurgeCommand, answer: feed::part::Answer) -> Option<Purged> {
        purge::submit(self, command, answer)
    }

    fn abandon(&self) {
        purge::abandon();
    }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn cache_key(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        match key::of(r) {
            Some(key) => fill_bytes(r, value, &key_text(&key)),
            None => nginx::ERROR,
        }
    }
}
