//! Which of nginx's caches belong to which location and upstream, for a purge.
//!
//! Locations are noted while the configuration is read, in the order nginx merges them; nginx's own
//! caches are found among the cycle's shared zones, by the module that owns them. A name leads to
//! whole caches: an entry does not say which upstream it came from. Never guesses: where a variable
//! decides, the answer is "cannot tell", unless every possible cache is meant anyway. Cost: one
//! record for each location that caches. Bound: nginx.conf.

use super::nodes::Cache;
use crate::ffi::base::location::{self, Location, PASSING};
use crate::ffi::base::nginx;
use nginx_sys::{ngx_http_file_cache_t, ngx_shm_zone_t};
use pincer_proto::v1::purge::Scope;

/// google.rpc.Code NOT_FOUND: nothing here has this name.
const NOT_FOUND: i32 = 5;
/// google.rpc.Code FAILED_PRECONDITION: the configuration does not say which.
const FAILED_PRECONDITION: i32 = 9;

/// A location that keeps responses of one of nginx's modules.
pub(crate) struct Place {
    location: String,
    /// Which module, as an index into [`PASSING`].
    module: usize,
    /// Its function that answers requests here; the same for all locations of one module.
    handler: usize,
    /// `None`: a variable decides, or another module answers here and this one's cache is only
    /// inherited.
    upstream: Option<Vec<u8>>,
    /// Null: a variable decides. Lives as long as the configuration.
    zone: *mut ngx_shm_zone_t,
}

/// Why a name leads to no caches.
pub(crate) struct Refusal {
    /// google.rpc.Code.
    pub(crate) code: i32,
    /// For operators.
    pub(crate) message: String,
}

fn unknown<T>(message: String) -> Result<T, Refusal> {
    Err(Refusal { code: NOT_FOUND, message })
}

fn cannot_tell<T>(message: String) -> Result<T, Refusal> {
    Err(Refusal { code: FAILED_PRECONDITION, message })
}

/// Notes the caches of a location that is being merged.
pub(super) fn note(places: &mut Vec<Place>, location: &Location) {
    let Some(handler) = location.handler() else { return };
    for (module, conf) in location.passing_by_module() {
        if !location::caches(conf) {
            continue;
        }
        // SAFETY: an upstream's configuration lives as long as that of the location that names it.
        let upstream = unsafe { conf.upstream.as_ref() };
        places.push(Place {
            location: location.name(),
            module,
            handler,
            // SAFETY: the name lies in the configuration's pool.
            upstream: upstream.map(|upstream| unsafe { nginx::bytes(upstream.host) }.to_vec()),
            zone: conf.cache_zone,
        });
    }
}

impl Place {
    /// Whether its module passes requests on from here, as far as can be told: a module has one
    /// handler, which is known from any location of which the upstream is known.
    fn may_pass(&self, places: &[Place]) -> bool {
        let mut known = places.iter().filter(|place| place.upstream.is_some());
        let own = |place: &&Place| place.module == self.module;
        let is_other = known.clone().any(|place| !own(&place) && place.handler == self.handler);
        self.upstream.is_some() || (!is_other && known.find(own).is_none_or(|place| place.handler == self.handler))
    }

    /// The caches it may use: one, or with a variable any of its module's.
    fn caches(&self, all: &[(usize, Cache)]) -> Vec<Cache> {
        // SAFETY: a zone of this configuration; null is `None`.
        match unsafe { self.zone.as_ref().and_then(|zone| cache_of(zone)) } {
            Some(cache) => vec![cache],
            None => all.iter().filter(|(module, _)| *module == self.module).map(|(_, cache)| *cache).collect(),
        }
    }
}

/// The cache whose keys a shared zone holds.
///
/// # Safety
/// `zone` is a live zone of a module of [`PASSING`], of a configuration in force.
unsafe fn cache_of(zone: &ngx_shm_zone_t) -> Option<Cache> {
    // SAFETY: these modules use shared zones for caches only, and set `data` when they read
    // `proxy_cache_path`.
    unsafe { Cache::new(zone.data.cast::<ngx_http_file_cache_t>(), nginx::bytes(zone.shm.name)) }
}

/// Every cache of the running configuration, with its module's index in [`PASSING`].
fn all_caches() -> Vec<(usize, Cache)> {
    let mut found = Vec::new();
    // SAFETY: a worker's cycle is complete and does not change; its list of zones is a chain of
    // parts with `nelts` elements each.
    unsafe {
        let cycle = nginx_sys::ngx_cycle.cast_const();
        let mut part = &raw const (*cycle).shared_memory.part;
        while !part.is_null() {
            for index in 0..(*part).nelts {
                let zone = &*(*part).elts.cast::<ngx_shm_zone_t>().add(index);
                // The tag of a module's zones is the module.
                let module = PASSING.iter().position(|name| zone.tag == nginx::module_named(cycle, name).cast());
                if let (Some(module), Some(cache)) = (module.filter(|_| !zone.tag.is_null()), cache_of_checked(zone)) {
                    found.push((module, cache));
                }
            }
            part = (*part).next;
        }
    }
    found
}

/// As [`cache_of`], for a zone whose module is not known yet: looks at nothing but whether there is
/// data.
///
/// # Safety
/// As [`cache_of`], or the result is dropped.
unsafe fn cache_of_checked(zone: &ngx_shm_zone_t) -> Option<Cache> {
    // SAFETY: as the caller vouches.
    if zone.data.is_null() { None } else { unsafe { cache_of(zone) } }
}

/// The caches that `scope` means, each once.
pub(crate) fn resolve(places: &[Place], scope: &Scope) -> Result<Vec<Cache>, Refusal> {
    let all = all_caches();
    let mut caches = match scope {
        Scope::EveryCache(()) if all.is_empty() => return unknown("nginx.conf has no cache".to_owned()),
        Scope::EveryCache(()) => all.iter().map(|(_, cache)| *cache).collect(),
        Scope::Cache(name) => {
            let named = all.iter().find(|(_, cache)| cache.name() == name.as_bytes());
            match named {
                Some((_, cache)) => vec![*cache],
                None => return unknown(format!("nginx.conf has no cache \"{name}\"")),
            }
        }
        Scope::Location(name) => of_location(places, &all, name)?,
        Scope::Upstream(name) => of_upstream(places, &all, name)?,
    };
    let mut seen = Vec::new();
    caches.retain(|cache| {
        let is_new = !seen.contains(&cache.id());
        seen.push(cache.id());
        is_new
    });
    Ok(caches)
}

fn of_location(places: &[Place], all: &[(usize, Cache)], name: &str) -> Result<Vec<Cache>, Refusal> {
    let named: Vec<&Place> = places.iter().filter(|place| place.location == name && place.may_pass(places)).collect();
    if named.is_empty() {
        return unknown(format!("nginx.conf has no location \"{name}\" that keeps responses in a cache"));
    }
    one_each(&named, all)
}

/// The caches of `places`, none of which a variable chooses among several.
fn one_each(places: &[&Place], all: &[(usize, Cache)]) -> Result<Vec<Cache>, Refusal> {
    let mut caches = Vec::new();
    for place in places {
        let possible = place.caches(all);
        if possible.len() > 1 {
            let location = &place.location;
            return cannot_tell(format!(
                "cannot tell which cache location \"{location}\" uses, a variable decides: name the cache"
            ));
        }
        caches.extend(possible);
    }
    Ok(caches)
}

fn of_upstream(places: &[Place], all: &[(usize, Cache)], name: &str) -> Result<Vec<Cache>, Refusal> {
    let asks = |place: &&Place| place.upstream.as_deref() == Some(name.as_bytes());
    let asking: Vec<&Place> = places.iter().filter(asks).collect();
    let caches = one_each(&asking, all)?;
    for place in places.iter().filter(|place| place.upstream.is_none() && place.may_pass(places)) {
        let is_meant = |cache: &Cache| caches.iter().any(|meant| meant.id() == cache.id());
        if !place.caches(all).iter().all(is_meant) {
            let location = &place.location;
            return cannot_tell(format!(
                "cannot tell whether location \"{location}\" asks upstream \"{name}\", a variable decides: name the cache"
            ));
        }
    }
    if asking.is_empty() {
        return unknown(format!("nginx.conf has no location that keeps responses of upstream \"{name}\" in a cache"));
    }
    Ok(caches)
}
