//! What `pincer_body_hash` says.

use crate::conf::ConfError;
use crate::conf::body_hash::{self as body_hash_args, BodyHashArgs};
use crate::ffi::base::directive::{arguments, once};
use crate::ffi::base::feature::{Feature, Inherit};
use crate::ffi::base::{location as base_location, log, nginx};
use crate::ffi::zone::conf::needed_by;
use nginx_sys::{ngx_conf_t, ngx_http_request_t};
use ngx::http::HttpModuleLocationConf as _;
use std::cell::Cell;
use std::rc::Rc;

/// Request bodies.
pub(crate) struct BodyModule;

/// What was seen in `http {}`.
#[derive(Default)]
pub(crate) struct Main {
    /// Some location hashes request bodies.
    pub(crate) in_use: bool,
    /// The first location that hashes bodies and keeps responses to POST.
    pub(crate) keeps_hashed: Option<String>,
}

/// What a location says; also `http {}` and `server {}`, from which locations inherit.
#[derive(Default)]
pub(crate) struct Location {
    /// `pincer_body_hash`: unset, off, or what to hash and how.
    body_hash: Option<Option<Rc<BodyHashArgs>>>,
    /// A body is read before the content phase: whoever serves the location would ask for its
    /// digest before it is complete.
    pub(super) reads_early: bool,
    /// `try_files` stands here.
    tries_files: bool,
    /// This worker has warned of a cache here whose key knows nothing of bodies.
    pub(super) has_warned: Cell<bool>,
}

impl Location {
    /// How bodies are hashed here; `None` = not at all.
    pub(crate) fn hashing(&self) -> Option<&BodyHashArgs> {
        self.body_hash.as_ref()?.as_deref()
    }
}

impl Inherit for Location {
    fn merge(
        &mut self,
        cf: *mut ngx_conf_t,
        parent: &Self,
        location: &base_location::Location,
    ) -> Result<(), ConfError> {
        if self.body_hash.is_none() {
            self.body_hash = parent.body_hash.clone();
        }
        self.tries_files = location.tries_files();
        self.reads_early = !location.buffers_requests() || self.tries_files;
        if self.hashing().is_some() && location.is_served() && location.caches_responses_to_post() {
            // SAFETY: nginx merges locations inside `http {}`, one thread; the reference ends here.
            unsafe { BodyModule::main_being_read(cf) }.keeps_hashed.get_or_insert_with(|| location.name());
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
                    "\"pincer_body_hash\" is on in location \"{}\", whose cache does not keep responses to POST: requests with a body are not \
                     cached, \"proxy_cache_methods GET HEAD POST\" is needed",
                    location.name()
                ),
            );
        }
        Ok(())
    }
}

pub(super) fn body_hash(cf: *mut ngx_conf_t, location: &mut Location) -> Result<(), ConfError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { BodyModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let parsed = body_hash_args::parse(&arguments)?;
    if parsed.is_some() {
        main.in_use = true;
        needed_by(cf, "pincer_body_hash");
    }
    once(&mut location.body_hash, parsed.map(Rc::new), "pincer_body_hash")
}

/// Whether a module's handler is set to answer `r` where it is now, or `try_files` is to find a
/// way.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn is_handled(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        nginx::core_location(r).handler.is_some() || BodyModule::location_conf(&*r).is_some_and(|conf| conf.tries_files)
    }
}
