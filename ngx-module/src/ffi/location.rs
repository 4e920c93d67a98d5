//! What the module knows of a location: its directives, merged from the levels above, and which of nginx's own modules serve it.
//!
//! Merging runs after that of nginx's own modules for the same location, since a dynamic module comes last; so what they decided is final here.

use crate::conf::body_hash::BodyHashArgs;
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, log, nginx};
use crate::ffi::cache::zones;
use crate::ffi::{conf, module};
use nginx_sys::{
    NGX_HTTP_POST, ngx_conf_t, ngx_cycle_t, ngx_http_complex_value_t, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t,
    ngx_http_request_t, ngx_http_upstream_conf_t, ngx_uint_t,
};
use pincer_core::digest::KeyContext;
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_void};
use std::rc::Rc;

/// A location's configuration; also that of `http {}` and `server {}`, from which locations inherit.
#[derive(Default)]
pub(crate) struct LocConf {
    /// `pincer_body_hash`: unset, off, or what to hash and how.
    pub(crate) body_hash: Option<Option<Rc<BodyHashArgs>>>,
    /// `pincer_limit` lines: unset, in which case those above are in force, or these; none of them = off.
    pub(crate) limits: Option<Vec<Limit>>,
    /// [`LocConf::limits`] come from a level above.
    pub(crate) inherits_limits: bool,
    /// `pincer_status` or `pincer_metrics` answers here.
    pub(crate) is_page: bool,
    /// `pincer_limit_status`.
    pub(crate) limit_status: Option<u16>,
    /// `pincer_key`: unset, off, or where a request's API key stands.
    pub(crate) key: Option<Option<ComplexValue>>,
    /// `pincer_key_required`: unset, off, or where it stands.
    pub(crate) key_required: Option<Option<Rc<str>>>,
    /// A body is read before the content phase: whoever serves the location would ask for its digest before it is complete.
    pub(crate) reads_early: bool,
    /// `try_files` stands here.
    pub(crate) tries_files: bool,
    /// Of the last `$pincer_cache_key` that was asked for here, in this worker.
    pub(crate) key_context: RefCell<KeyContext>,
    /// This worker has warned of a cache here whose key knows nothing of bodies.
    pub(crate) has_warned: Cell<bool>,
}

/// Text with variables, compiled; it lives as long as the configuration.
pub(crate) type ComplexValue = &'static ngx_http_complex_value_t;

/// A `pincer_limit`.
#[derive(Clone)]
pub(crate) struct Limit {
    pub(crate) class: ClassSource,
    /// Requests of one value share the limit; `None` = all of the class.
    pub(crate) key: Option<ComplexValue>,
    pub(crate) dry_run: bool,
}

impl Limit {
    /// Whether both are written with one class and one key: a request would be charged twice for one thing.
    pub(crate) fn counts_the_same(&self, other: &Self) -> bool {
        self.class.text() == other.class.text() && self.key.map(text) == other.key.map(text)
    }
}

/// As it stands in the configuration.
fn text(value: ComplexValue) -> &'static [u8] {
    // SAFETY: nginx keeps the configuration's text as long as what it compiled of it.
    unsafe { nginx::bytes(value.value) }
}

/// Where the class' name comes from.
#[derive(Clone)]
pub(crate) enum ClassSource {
    Name(Rc<str>),
    Value(ComplexValue),
}

impl ClassSource {
    fn text(&self) -> &[u8] {
        match self {
            Self::Name(name) => name.as_bytes(),
            Self::Value(value) => text(value),
        }
    }
}

impl LocConf {
    /// Whether only requests with a valid API key go on from here.
    pub(crate) fn requires_key(&self) -> bool {
        matches!(self.key_required, Some(Some(_)))
    }

    /// The limits in force here. A page of ours is held only by limits of its own: an operator
    /// wants to read it in a flood. The levels above hold what is nested in it all the same, so the
    /// page keeps them for its children.
    pub(crate) fn limits(&self) -> &[Limit] {
        if self.is_page && self.inherits_limits {
            return &[];
        }
        self.limits.as_deref().unwrap_or_default()
    }

    /// How bodies are hashed here; `None` = not at all.
    pub(crate) fn hashing(&self) -> Option<&BodyHashArgs> {
        self.body_hash.as_ref()?.as_deref()
    }
}

pub(crate) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: nginx passes a live `ngx_conf_t`, whose pool lives as long as the configuration.
    unsafe { nginx::pool_box((*cf).pool, LocConf::default()) }.cast()
}

pub(crate) unsafe extern "C" fn merge(cf: *mut ngx_conf_t, parent: *mut c_void, child: *mut c_void) -> *mut c_char {
    guard("merging locations", usize::MAX as *mut c_char, || {
        // SAFETY: nginx passes two values that `create` made, one thread reads the configuration, and they are different values.
        let (parent, child) = unsafe { (&*parent.cast::<LocConf>(), &mut *child.cast::<LocConf>()) };
        if child.body_hash.is_none() {
            child.body_hash = parent.body_hash.clone();
        }
        // SAFETY: while nginx merges a location, the context is that location's.
        let location = unsafe { Location::of(cf) };
        // `if` and `limit_except` within a page of ours are still that page.
        let is_within = parent.is_page && location.is_nameless();
        child.is_page |= is_within && location.handler().is_none();
        if child.limits.is_none() {
            child.limits.clone_from(&parent.limits);
            child.inherits_limits = !is_within || parent.inherits_limits;
        }
        child.limit_status = child.limit_status.or(parent.limit_status);
        child.key = child.key.or(parent.key);
        if child.key_required.is_none() {
            child.key_required.clone_from(&parent.key_required);
        }
        zones::note(cf, &location);
        child.tries_files = location.tries_files();
        child.reads_early = !location.buffers_requests() || child.tries_files;
        if let (Some(Some(place)), None) = (&child.key_required, child.key.flatten())
            && location.answers()
        {
            let message = format!(
                "\"pincer_key_required\" refuses every request of location \"{}\", where no \"pincer_key\" is in force, that or \
                 \"pincer_key_required off\" is needed there {place}",
                location.name()
            );
            // SAFETY: nginx passes a live `ngx_conf_t`, which has a log.
            log::write(unsafe { (*cf).log }, log::NGX_LOG_EMERG, &message);
            return usize::MAX as *mut c_char;
        }
        if child.hashing().is_some() && location.is_served() && location.keeps_answers_to_post() {
            // SAFETY: nginx merges locations inside `http {}`, one thread; the reference ends here.
            unsafe { conf::main_conf_of(cf) }.keeps_hashed.get_or_insert_with(|| location.name());
        }
        if child.hashing().is_some() && location.is_served() && location.caches_unbuffered() {
            log::conf(
                cf,
                log::NGX_LOG_WARN,
                &format!(
                    "\"pincer_body_hash\" is on in location \"{}\", whose cache keeps nothing while \"proxy_buffering\" is off, \"on\" is needed",
                    location.name()
                ),
            );
        }
        if child.hashing().is_some() && location.is_served() && location.caches_without_post() {
            log::conf(
                cf,
                log::NGX_LOG_WARN,
                &format!(
                    "\"pincer_body_hash\" is on in location \"{}\", whose cache does not keep answers to POST: requests with a body are not \
                     cached, \"proxy_cache_methods GET HEAD POST\" is needed",
                    location.name()
                ),
            );
        }
        std::ptr::null_mut()
    })
}

/// The configuration of the location that `r` is in now.
///
/// # Safety
/// `r` is live; the reference lasts as long as the worker runs this configuration.
pub(crate) unsafe fn of_request(r: *const ngx_http_request_t) -> Option<&'static LocConf> {
    // SAFETY: as the caller vouches: `loc_conf` has a slot for every http module.
    unsafe { (*(*r).loc_conf.add(module::context_index())).cast::<LocConf>().as_ref() }
}

/// nginx's modules that pass requests on and whose location configuration begins with an `ngx_http_upstream_conf_t`, by name: each may be missing.
pub(crate) const PASSING: [&str; 4] =
    ["ngx_http_proxy_module", "ngx_http_fastcgi_module", "ngx_http_uwsgi_module", "ngx_http_scgi_module"];

/// A location that is being merged, as nginx's own modules see it.
pub(crate) struct Location {
    cycle: *const ngx_cycle_t,
    context: *const ngx_http_conf_ctx_t,
}

impl Location {
    /// # Safety
    /// `cf` is live, inside `http {}`, and its context that of the location; the value is not kept beyond the merge.
    unsafe fn of(cf: *const ngx_conf_t) -> Self {
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
        let name = unsafe { nginx::bytes(self.core().name) };
        String::from_utf8_lossy(name).into_owned()
    }

    /// Whether a module answers its requests, so that it is not only a place to inherit from.
    fn is_served(&self) -> bool {
        self.core().handler.is_some()
    }

    /// Whether requests end here beyond doubt: not in a server outside of its locations, in a place that only has others in it, or where `return` or `rewrite` may answer.
    fn answers(&self) -> bool {
        let rewrites = self.conf_of("ngx_http_rewrite_module").cast::<*const c_void>();
        // SAFETY: the rewrite module's configuration begins with a pointer, null without directives.
        let returns = unsafe { !rewrites.is_null() && !(*rewrites).is_null() };
        // While it is merged, `locations` is null or the queue of those in it.
        let core = self.core();
        core.name.len > 0 && !returns && (core.handler.is_some() || core.locations.is_null())
    }

    /// The function that answers requests here, as a number to compare with others; `None` for a place to inherit from.
    pub(crate) fn handler(&self) -> Option<usize> {
        self.core().handler.map(|handler| handler as usize)
    }

    /// Whether it is what `if` or `limit_except` makes of the location around it.
    fn is_nameless(&self) -> bool {
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
        // SAFETY: the cycle's modules are known while locations are merged; `loc_conf` has a slot for every http module, empty ones null.
        unsafe {
            match nginx::module_named(self.cycle, name).as_ref() {
                Some(module) => *(*self.context).loc_conf.add(module.ctx_index),
                None => std::ptr::null_mut(),
            }
        }
    }

    /// Where requests of this location may go: one for each of nginx's modules that pass requests on.
    pub(crate) fn passing(&self) -> impl Iterator<Item = &ngx_http_upstream_conf_t> {
        let confs = PASSING.iter().map(|name| self.conf_of(name).cast::<ngx_http_upstream_conf_t>());
        // SAFETY: these modules' location configurations begin with this struct, in every version so far, and live as long as the configuration.
        confs.filter_map(|conf| unsafe { conf.as_ref() })
    }

    /// Whether some module passes requests on from here to an upstream that is known by name, and reads their bodies in full before.
    fn buffers_requests(&self) -> bool {
        self.passing().any(|conf| !conf.upstream.is_null() && conf.request_buffering == 1)
    }

    /// Whether `try_files` looks at variables before the content phase.
    fn tries_files(&self) -> bool {
        let conf = self.conf_of("ngx_http_try_files_module").cast::<*const c_void>();
        // SAFETY: the module's configuration is one pointer, null without the directive.
        unsafe { !conf.is_null() && !(*conf).is_null() }
    }

    /// Whether answers to POST are cached here.
    fn keeps_answers_to_post(&self) -> bool {
        self.passing().any(|conf| caches(conf) && conf.cache_methods & NGX_HTTP_POST as ngx_uint_t != 0)
    }

    /// Whether answers are to be cached here, but nginx keeps none that it does not buffer.
    fn caches_unbuffered(&self) -> bool {
        self.passing().any(|conf| caches(conf) && conf.buffering == 0)
    }

    /// Whether answers are cached here, but not those to POST.
    fn caches_without_post(&self) -> bool {
        self.passing().any(|conf| caches(conf) && conf.cache_methods & NGX_HTTP_POST as ngx_uint_t == 0)
    }
}

/// Whether a cache is named for what `conf` passes on; not where it is left to an outer level or
/// off.
pub(crate) fn caches(conf: &ngx_http_upstream_conf_t) -> bool {
    // SAFETY: a reference is to a live structure.
    unsafe { bits::upstream_conf::cache(conf) == 1 }
}

/// The location's configuration that is being read.
///
/// # Safety
/// `conf` is what [`create`] made; one thread reads the configuration, and callers end the reference before they return to nginx.
pub(crate) unsafe fn being_read<'a>(conf: *mut c_void) -> &'a mut LocConf {
    // SAFETY: as the caller vouches.
    unsafe { &mut *conf.cast::<LocConf>() }
}

/// Whether a module's handler is set to answer `r` where it is now, or `try_files` is to find a way.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn is_handled(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { nginx::core_location(r).handler.is_some() || of_request(r).is_some_and(|conf| conf.tries_files) }
}

/// The name of the named location that `r` is in, `@light`; empty in any other.
///
/// # Safety
/// `r` is live; the name lives as long as the configuration.
pub(crate) unsafe fn named<'a>(r: *const ngx_http_request_t) -> &'a [u8] {
    // SAFETY: as the caller vouches.
    let name = unsafe { nginx::bytes(nginx::core_location(r).name) };
    if name.starts_with(b"@") { name } else { &[] }
}
