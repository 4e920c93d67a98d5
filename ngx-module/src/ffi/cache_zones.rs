//! Which of nginx's caches belong to which location and upstream, for a purge.

use super::location::Location;
use nginx_sys::ngx_conf_t;

/// Notes the caches of a location that is being merged.
pub(crate) fn note(_cf: *mut ngx_conf_t, _location: &Location) {}
