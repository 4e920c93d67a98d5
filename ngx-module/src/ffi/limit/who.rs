//! The caller and the class of a request, for variables, logs and the upstream.

use super::api_key;
use super::caller::Caller;
use super::conf::LimitModule;
use super::record::{Record, Status, create, find};
use crate::ffi::base::log;
use crate::ffi::zone::conf::ZoneModule;
use crate::phase::refusal::Refusal;
use nginx_sys::ngx_http_request_t;
use ngx::http::{HttpModuleLocationConf as _, HttpModuleMainConf as _};
use pincer_core::zone::{ClassIdx, Zone};

/// The class of requests that name none, or one that is not known.
const DEFAULT_CLASS: &[u8] = b"default";

/// The class called `name`, else the default one, if there is one.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn class_called(r: *const ngx_http_request_t, zone: &Zone<'_>, name: &[u8]) -> Option<ClassIdx> {
    // SAFETY: as the caller vouches.
    let generation = unsafe { ZoneModule::main_conf(&*r)?.generation.get() };
    let found = if name.is_empty() { None } else { zone.class_find(name, generation) };
    found.or_else(|| zone.class_find(DEFAULT_CLASS, generation))
}

/// # Safety
/// `r` is live.
pub(super) unsafe fn class_of_caller(
    r: *const ngx_http_request_t,
    caller: &Caller,
    zone: &Zone<'_>,
) -> Option<ClassIdx> {
    let Caller::Known { class, .. } = caller else { return None };
    // SAFETY: as the caller vouches.
    unsafe { class_called(r, zone, class) }
}

/// The name of the class that `r` is in, for `$pincer_class`: the one applied, or before that the
/// API key's. Looks a key up if need be.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn class_text(r: *mut ngx_http_request_t) -> Option<String> {
    // SAFETY: as the caller vouches.
    unsafe {
        let record = identified((*r).main)?;
        let mut name = [0; pincer_core::zone::NAME_MAX];
        if let Some(class) = (*record).class.and_then(|class| (*record).zone.class(class)) {
            return Some(String::from_utf8_lossy(class.name(&mut name)).into_owned());
        }
        match &(*record).caller {
            Caller::Known { class, .. } => Some(String::from_utf8_lossy(class).into_owned()),
            _ => None,
        }
    }
}

/// The tenant of the request's API key, for `$pincer_tenant`.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn tenant_text(r: *mut ngx_http_request_t) -> Option<String> {
    // SAFETY: as the caller vouches.
    unsafe {
        match &(*identified((*r).main)?).caller {
            Caller::Known { tenant, .. } => Some(String::from_utf8_lossy(tenant).into_owned()),
            _ => None,
        }
    }
}

/// What became of the request at its limits, for `$pincer_limit_status`.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn status_text(r: *const ngx_http_request_t) -> Option<&'static str> {
    // SAFETY: as the caller vouches.
    unsafe { (*find((*r).main)?).status.map(Status::name) }
}

/// The record of a main request that looks at API keys or limits, with the caller known.
///
/// # Safety
/// `main` is a live main request.
unsafe fn identified(main: *mut ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches; no reference into the record is alive while nginx evaluates
    // the key's source.
    unsafe {
        let record = match find(main) {
            Some(record) => record,
            None => {
                LimitModule::location_conf(&*main)?.key.flatten()?;
                create(main)?
            }
        };
        api_key::identify(main, record);
        Some(record)
    }
}

/// Logs a refusal, without the key.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn log_refusal(r: *const ngx_http_request_t, refusal: Refusal, class: &str) {
    // SAFETY: as the caller vouches: a live request has a connection with a log.
    let log = unsafe { (*(*r).connection).log };
    log::write(log, log::NGX_LOG_INFO, &format!("request rejected, reason={refusal:?}, class={class}"));
}
