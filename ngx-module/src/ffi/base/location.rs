//! What nginx knows of a location, and which of its own modules serve it.

use super::bits;
use super::cycle::module_named;
use super::request::core_location;
use super::text::bytes;
use super::wrapper::{ngx_http_rewrite_loc_conf_t, ngx_http_try_files_loc_conf_t};
use nginx_sys::{
    NGX_HTTP_POST, ngx_conf_t, ngx_cycle_t, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t, ngx_http_request_t,
    ngx_http_upstream_conf_t, ngx_uint_t,
};
use std::ffi::c_void;

/// nginx's modules that pass requests on and whose location configuration begins with an
/// `ngx_http_upstream_conf_t`, by name: each may be missing.
pub(crate) const PASSING: [&str; 4] =
    ["ngx_http_proxy_module", "ngx_http_fastcgi_module", "ngx_http_uwsgi_module", "ngx_http_scgi_module"];

/// A location that is being merged, as nginx's own modules see it.
pub(crate) struct Location {
    cycle: *const ngx_cycle_t,
    context: *const ngx_http_conf_ctx_t,
}

impl Location {
    /// # Safety
    /// `cf` is live, inside `http {}`, and its context that of the location; the value is not kept
    /// beyond the merge.
    pub(super) unsafe fn of(cf: *const ngx_conf_t) -> Self {
        // SAFETY: as the caller vouches.
        unsafe { Self { cycle: (*cf).cycle, context: (*cf).ctx.cast() } }
    }

    /// nginx's own configuration of it.
    fn core(&self) -> &ngx_http_core_loc_conf_t {
        // SAFETY: the core module has a configuration in every location, as long as the context.
        unsafe { &*(*(*self.context).loc_conf.add(nginx_sys::ngx_http_core_module.ctx_index)).cast() }
    }

    /// The location as written, e.g. `/v1/` or `@light`; empty for a server or `http {}` itself.
    pub(crate) fn name(&self) -> String {
        // SAFETY: nginx keeps the name as long as the configuration.
        let name = unsafe { bytes(self.core().name) };
        String::from_utf8_lossy(name).into_owned()
    }

    /// Whether a module answers its requests, so that it is not only a place to inherit from.
    pub(crate) fn is_served(&self) -> bool {
        self.core().handler.is_some()
    }

    /// Whether requests end here beyond doubt: not in a server outside of its locations, in a place
    /// that only has others in it, or where `return` or `rewrite` may answer.
    pub(crate) fn responds(&self) -> bool {
        let rewrites = self.conf_of("ngx_http_rewrite_module").cast::<ngx_http_rewrite_loc_conf_t>();
        // SAFETY: the module's configuration begins so in every version.
        let returns = unsafe { rewrites.as_ref() }.is_some_and(|conf| !conf.codes.is_null());
        // While it is merged, `locations` is null or the queue of those in it.
        let core = self.core();
        core.name.len > 0 && !returns && (core.handler.is_some() || core.locations.is_null())
    }

    /// The function that answers requests here, as a number to compare with others; `None` for a
    /// place to inherit from.
    pub(crate) fn handler(&self) -> Option<usize> {
        self.core().handler.map(|handler| handler as usize)
    }

    /// Whether it is what `if` or `limit_except` makes of the location around it.
    pub(crate) fn is_nameless(&self) -> bool {
        // SAFETY: a reference is to a live structure.
        unsafe { bits::location::noname(self.core()) != 0 }
    }

    /// As [`Location::passing`], each with its module's index in [`PASSING`].
    pub(crate) fn passing_by_module(&self) -> impl Iterator<Item = (usize, &ngx_http_upstream_conf_t)> {
        let confs = PASSING.iter().map(|name| self.conf_of(name).cast::<ngx_http_upstream_conf_t>());
        // SAFETY: as in `passing`.
        confs.enumerate().filter_map(|(module, conf)| unsafe { conf.as_ref() }.map(|conf| (module, conf)))
    }

    /// The configuration of the module called `name` here; null when nginx was built without it.
    fn conf_of(&self, name: &str) -> *mut c_void {
        // SAFETY: the cycle's modules are known while locations are merged; `loc_conf` has a slot
        // for every http module, empty ones null.
        unsafe {
            match module_named(self.cycle, name).as_ref() {
                Some(module) => *(*self.context).loc_conf.add(module.ctx_index),
                None => std::ptr::null_mut(),
            }
        }
    }

    /// Where requests of this location may go: one for each of nginx's modules that pass requests
    /// on.
    pub(crate) fn passing(&self) -> impl Iterator<Item = &ngx_http_upstream_conf_t> {
        let confs = PASSING.iter().map(|name| self.conf_of(name).cast::<ngx_http_upstream_conf_t>());
        // SAFETY: these modules' location configurations begin with this struct, in every version
        // so far, and live as long as the configuration.
        confs.filter_map(|conf| unsafe { conf.as_ref() })
    }

    /// Whether some module passes requests on from here to an upstream that is known by name, and
    /// reads their bodies in full before.
    pub(crate) fn buffers_requests(&self) -> bool {
        self.passing().any(|conf| !conf.upstream.is_null() && conf.request_buffering == 1)
    }

    /// Whether `try_files` looks at variables before the content phase.
    pub(crate) fn tries_files(&self) -> bool {
        let conf = self.conf_of("ngx_http_try_files_module").cast::<ngx_http_try_files_loc_conf_t>();
        // SAFETY: the module's configuration begins so in every version.
        unsafe { conf.as_ref() }.is_some_and(|conf| !conf.try_files.is_null())
    }

    /// Whether responses to POST are cached here.
    pub(crate) fn caches_responses_to_post(&self) -> bool {
        self.passing().any(|conf| caches(conf) && conf.cache_methods & NGX_HTTP_POST as ngx_uint_t != 0)
    }

    /// Whether responses are to be cached here, but nginx keeps none that it does not buffer.
    pub(crate) fn caches_unbuffered(&self) -> bool {
        self.passing().any(|conf| caches(conf) && conf.buffering == 0)
    }

    /// Whether responses are cached here, but not those to POST.
    pub(crate) fn caches_without_post(&self) -> bool {
        self.passing().any(|conf| caches(conf) && conf.cache_methods & NGX_HTTP_POST as ngx_uint_t == 0)
    }
}

/// Whether a cache is named for what `conf` passes on; not where it is left to an outer level or
/// off.
pub(crate) fn caches(conf: &ngx_http_upstream_conf_t) -> bool {
    // SAFETY: a reference is to a live structure.
    unsafe { bits::upstream_conf::cache(conf) == 1 }
}

/// The name of the named location that `r` is in, `@light`; empty in any other.
///
/// # Safety
/// `r` is live; the name lives as long as the configuration.
pub(crate) unsafe fn named<'a>(r: *const ngx_http_request_t) -> &'a [u8] {
    // SAFETY: as the caller vouches.
    let name = unsafe { bytes(core_location(r).name) };
    if name.starts_with(b"@") { name } else { &[] }
}
