//! Holds requests to their classes before anything is done for them: API key, class, rates,
//! requests at once.
//!
//! Runs in the preaccess phase of main requests. The first location of a request where some limit
//! applies decides, as with nginx's `limit_req`: internal redirects do not count again. Until then
//! the caller is who the key of the present location says. What a request holds is given back when
//! its pool goes, whatever way it ended; one that has to wait for its rate sleeps ([`delay`]).
//! Without a worker slot nothing is limited; a key that is required is asked for at every location,
//! whatever fails. Cost: one record in the request's pool and
//! [`Zone::limit_take`](pincer_core::zone::Zone::limit_take). Bound: [`LIMITS_MAX`] limits for a
//! request.

use super::caller::Caller;
use super::conf::{ClassSource, Limit, LimitModule, Location};
use super::record::{Record, Status, create, find};
use super::who::{class_called, class_of_caller};
use super::{api_key, class_header, delay, response};
use crate::conf::ConfError;
use crate::ffi::base::phase::Handler;
use crate::ffi::base::{clock, filter, nginx};
use crate::ffi::zone::worker;
use crate::phase::refusal::Refusal;
use arrayvec::ArrayVec;
use nginx_sys::{
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_SERVICE_UNAVAILABLE, ngx_conf_t, ngx_http_phases_NGX_HTTP_POST_READ_PHASE,
    ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, ngx_http_request_t, ngx_int_t,
};
use ngx::http::HttpModuleLocationConf as _;
use pincer_core::limit::KeyHash;
use pincer_core::zone::{Check, LIMITS_MAX, Reason, Verdict};

const UNAVAILABLE: ngx_int_t = NGX_HTTP_SERVICE_UNAVAILABLE as ngx_int_t;
const SERVER_ERROR: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// Puts handlers and filters into their places.
pub(crate) fn install(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
    filter::install::<response::Told>();
    // Behind the realip module's: a key may be bound to the client's address, which that finds here
    // for `set_real_ip_from` of a location.
    nginx::add_phase_handler_behind::<Hold>(
        cf,
        ngx_http_phases_NGX_HTTP_PREACCESS_PHASE,
        ngx_http_phases_NGX_HTTP_POST_READ_PHASE,
        "pincer_limit",
    )
}

/// Holds requests in the preaccess phase.
struct Hold;

impl Handler for Hold {
    const PLACE: &'static str = "limits";

    unsafe fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
        // SAFETY: as the caller vouches.
        let location = unsafe { LimitModule::location_conf(&*r).filter(|_| std::ptr::eq((*r).main, r)) };
        let Some(location) = location else { return nginx::DECLINED };
        // SAFETY: as above.
        let record = match unsafe { record(r, location) } {
            Ok(record) => record,
            Err(result) => return result,
        };
        // SAFETY: as above.
        unsafe {
            if !(*record).checked && !(*record).denied {
                // Whoever asked before did so elsewhere, maybe for another key, and before the
                // client's address was known.
                (*record).caller = Caller::NotAsked;
            }
            if location.requires_key() && !(*record).denied {
                let refused = ask_for_key(r, record);
                if refused != nginx::DECLINED {
                    return refused;
                }
            }
            if (*record).checked { nginx::DECLINED } else { check(r, record, location) }
        }
    }

    /// A fault of ours costs no request, but neither does it let in one that has to show a key.
    unsafe fn fault(r: *const ngx_http_request_t) -> ngx_int_t {
        // SAFETY: as the caller vouches.
        let key_required = unsafe { LimitModule::location_conf(&*r) }.is_some_and(Location::requires_key);
        if key_required { UNAVAILABLE } else { nginx::DECLINED }
    }
}

/// The record of a request that concerns us here or did so elsewhere; else what nginx is to hear.
///
/// # Safety
/// `r` is a live main request in this location.
unsafe fn record(r: *mut ngx_http_request_t, location: &Location) -> Result<*mut Record, ngx_int_t> {
    let concerns_us = location.requires_key() || !location.limits().is_empty() || location.key.flatten().is_some();
    // SAFETY: as the caller vouches.
    unsafe {
        if let Some(record) = find(r) {
            return Ok(record);
        }
        if !concerns_us {
            // An upstream that is told classes elsewhere believes them from here, too.
            return Err(if class_header::replace(r, &[], &[]) { nginx::DECLINED } else { SERVER_ERROR });
        }
        create(r).ok_or_else(|| {
            worker::count_fail_open();
            Hold::fault(r)
        })
    }
}

/// Holds the request to the limits of its location.
///
/// # Safety
/// As [`hold`].
unsafe fn check(r: *mut ngx_http_request_t, record: *mut Record, location: &Location) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        api_key::identify(r, record);
        (*record).class = class_of_caller(r, &(*record).caller, (*record).zone);
        let checks = checks(r, record, location);
        if let Some(first) = checks.first() {
            (*record).checked = true;
            (*record).class = Some(first.class);
        }
        // Refused or not: an error page may come from an upstream.
        if !tell_upstream(r, record) {
            return SERVER_ERROR;
        }
        if checks.is_empty() { nginx::DECLINED } else { hold(r, record, location, &checks) }
    }
}

/// Lets a request go on whose key is good.
///
/// # Safety
/// As [`hold`].
unsafe fn ask_for_key(r: *mut ngx_http_request_t, record: *mut Record) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        api_key::identify(r, record);
        let (refusal, status) = match (*record).caller {
            Caller::Known { .. } => return nginx::DECLINED,
            Caller::Forbidden => (Refusal::Forbidden, 403),
            Caller::NotAsked | Caller::Nobody | Caller::Unknown => (Refusal::Unauthenticated, 401),
        };
        (*record).denied = true;
        if !tell_upstream(r, record) {
            return SERVER_ERROR;
        }
        response::refuse(r, refusal, status)
    }
}

/// Takes what `checks`, of which there is one at least, ask for: the request goes on, sleeps, or is
/// refused.
///
/// # Safety
/// `r` is a live main request in a phase's handler, `record` its record; no reference into the
/// record is alive while nginx evaluates variables.
unsafe fn hold(r: *mut ngx_http_request_t, record: *mut Record, location: &Location, checks: &[Check]) -> ngx_int_t {
    // SAFETY: as the caller vouches; the reference ends before nginx evaluates variables.
    let this = unsafe { &mut *record };
    let Some(worker) = this.worker else {
        worker::count_fail_open();
        return nginx::DECLINED;
    };
    let limited = this.zone.limit_take(worker, checks, clock::now());
    this.holds = limited.holds;
    this.quotas = limited.quotas;
    match limited.verdict {
        Verdict::Rejected { reason, retry_after_ns, .. } => {
            this.status = Some(Status::Rejected);
            this.retry_after_ns = retry_after_ns;
            let refusal = match reason {
                Reason::Rate => Refusal::Rate,
                Reason::Concurrency | Reason::NoRoom => Refusal::Concurrency,
            };
            // SAFETY: as the caller vouches.
            return unsafe { response::refuse(r, refusal, location.limit_status.unwrap_or(429)) };
        }
        Verdict::Passed => this.status = Some(Status::Passed),
        Verdict::Delayed(_) => this.status = Some(Status::Delayed),
    }
    if limited.dry_run.is_some() {
        this.status = Some(Status::RejectedDryRun);
    }
    match limited.verdict {
        // SAFETY: as the caller vouches.
        Verdict::Delayed(wait_ns) => unsafe { delay::delay(r, record, wait_ns) },
        _ => nginx::DECLINED,
    }
}

/// The limits of a location that hold this request, with class and key found.
///
/// # Safety
/// As [`hold`].
unsafe fn checks(
    r: *mut ngx_http_request_t,
    record: *const Record,
    location: &Location,
) -> ArrayVec<Check, LIMITS_MAX> {
    let mut checks = ArrayVec::new();
    for Limit { class, key, dry_run } in location.limits().iter().take(LIMITS_MAX) {
        // SAFETY: as the caller vouches; compiled values belong to this configuration.
        unsafe {
            let zone = (*record).zone;
            let name = match class {
                ClassSource::Name(name) => name.as_bytes(),
                ClassSource::Value(value) => nginx::complex_value(r, value).unwrap_or_default(),
            };
            let Some(class) = class_called(r, zone, name) else { continue };
            // Requests without a value share one limit: who leaves a header out gets no more than
            // others.
            let key = key.and_then(|key| nginx::complex_value(r, key)).unwrap_or_default();
            checks.push(Check { class, key: KeyHash::new(zone.header.secret(), key), cost: 1, dry_run: *dry_run });
        }
    }
    checks
}

/// Puts class and tenant into the request's headers, and takes away what the client says of them.
///
/// # Safety
/// `r` is a live main request, `record` its record.
unsafe fn tell_upstream(r: *mut ngx_http_request_t, record: *const Record) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut name = [0; pincer_core::zone::NAME_MAX];
        let class = (*record).class.and_then(|class| (*record).zone.class(class));
        let class = class.map_or(&[][..], |class| class.name(&mut name));
        let tenant = match &(*record).caller {
            Caller::Known { tenant, .. } => &tenant[..],
            _ => &[],
        };
        class_header::replace(r, class, tenant)
    }
}
