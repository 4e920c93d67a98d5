//! What the module knows of a location: its directives, merged from the levels above, and which of nginx's own modules serve it.
//!
//! Merging runs after that of nginx's own modules for the same location, since a dynamic module comes last; so what they decided is final here.

use crate::conf::body_hash::BodyHashArgs;
use crate::ffi::base::feature::{Feature, LocationConf};
use crate::ffi::base::location::Location;
use crate::ffi::base::{log, nginx};
use crate::ffi::cache::zones;
use crate::ffi::conf::PincerModule;
use nginx_sys::{ngx_conf_t, ngx_http_complex_value_t, ngx_http_request_t};
use pincer_core::digest::KeyContext;
use std::cell::{Cell, RefCell};
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

impl LocationConf for LocConf {
    fn merge(&mut self, cf: *mut ngx_conf_t, parent: &Self, location: &Location) -> Result<(), String> {
        if self.body_hash.is_none() {
            self.body_hash = parent.body_hash.clone();
        }
        // `if` and `limit_except` within a page of ours are still that page.
        let is_within = parent.is_page && location.is_nameless();
        self.is_page |= is_within && location.handler().is_none();
        if self.limits.is_none() {
            self.limits.clone_from(&parent.limits);
            self.inherits_limits = !is_within || parent.inherits_limits;
        }
        self.limit_status = self.limit_status.or(parent.limit_status);
        self.key = self.key.or(parent.key);
        if self.key_required.is_none() {
            self.key_required.clone_from(&parent.key_required);
        }
        zones::note(cf, location);
        self.tries_files = location.tries_files();
        self.reads_early = !location.buffers_requests() || self.tries_files;
        if let (Some(Some(place)), None) = (&self.key_required, self.key.flatten())
            && location.answers()
        {
            let message = format!(
                "\"pincer_key_required\" refuses every request of location \"{}\", where no \"pincer_key\" is in force, that or \
                 \"pincer_key_required off\" is needed there {place}",
                location.name()
            );
            return Err(message);
        }
        if self.hashing().is_some() && location.is_served() && location.keeps_answers_to_post() {
            // SAFETY: nginx merges locations inside `http {}`, one thread; the reference ends here.
            unsafe { PincerModule::main_being_read(cf) }.keeps_hashed.get_or_insert_with(|| location.name());
        }
        if self.hashing().is_some() && location.is_served() && location.caches_unbuffered() {
            log::conf(
                cf,
                log::NGX_LOG_WARN,
                &format!(
                    "\"pincer_body_hash\" is on in location \"{}\", whose cache keeps nothing while \"proxy_buffering\" is off, \"on\" is needed",
                    location.name()
                ),
            );
        }
        if self.hashing().is_some() && location.is_served() && location.caches_without_post() {
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
        Ok(())
    }
}

/// The configuration of the location that `r` is in now.
///
/// # Safety
/// `r` is live; the reference lasts as long as the worker runs this configuration.
pub(crate) unsafe fn of_request(r: *const ngx_http_request_t) -> Option<&'static LocConf> {
    // SAFETY: as the caller vouches: `loc_conf` has a slot for every http module.
    unsafe { PincerModule::location(r) }
}

/// Whether a module's handler is set to answer `r` where it is now, or `try_files` is to find a way.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn is_handled(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { nginx::core_location(r).handler.is_some() || of_request(r).is_some_and(|conf| conf.tries_files) }
}
