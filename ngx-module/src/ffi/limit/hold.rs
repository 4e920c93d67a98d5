//! Holds requests to their classes before anything is done for them: API key, class, rates, requests at once.
//!
//! Runs in the preaccess phase of main requests. The first location of a request where some limit applies decides, as with nginx's `limit_req`: internal
//! redirects do not count again. Until then the caller is who the key of the present location says. What a request holds is given back when its pool goes,
//! whatever way it ended; one that has to wait for its rate sleeps ([`delay`]). Without a worker slot nothing is limited; a key that is required is asked
//! for at every location, whatever fails. Cost: one record in the request's pool and [`Zone::limit_take`]. Bound: [`LIMITS_MAX`] limits for a request.

use super::api_key::{self, Caller};
use super::bandwidth::pacing;
use super::conf::{ClassSource, Limit, LimitModule, Location};
use super::{answer, class_header, delay};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::guard::guard;
use crate::ffi::base::{clock, log, nginx};
use crate::ffi::zone::conf::{ZoneModule, of_request as zone_of};
use crate::ffi::zone::worker;
use crate::phase::refusal::Refusal;
use arrayvec::ArrayVec;
use nginx_sys::{
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_SERVICE_UNAVAILABLE, ngx_conf_t, ngx_http_phases_NGX_HTTP_POST_READ_PHASE,
    ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, ngx_http_request_t, ngx_int_t,
};
use pincer_core::limit::{Flow, KeyHash, Quota};
use pincer_core::zone::{Check, ClassIdx, Holds, Reason, Verdict, WorkerIdx, Zone};
use std::ffi::c_void;

pub(crate) use pincer_core::zone::LIMITS_MAX;

/// The class of requests that name none, or one that is not known.
const DEFAULT_CLASS: &[u8] = b"default";

const UNAVAILABLE: ngx_int_t = NGX_HTTP_SERVICE_UNAVAILABLE as ngx_int_t;
const SERVER_ERROR: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// What became of a request at its limits, in nginx's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Passed,
    Delayed,
    Rejected,
    RejectedDryRun,
}

impl Status {
    /// As `$limit_req_status` says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Delayed => "DELAYED",
            Self::Rejected => "REJECTED",
            Self::RejectedDryRun => "REJECTED_DRY_RUN",
        }
    }
}

/// What a main request is to its limits. In its pool, found again through the pool's cleanups.
pub(crate) struct Record {
    request: *mut ngx_http_request_t,
    pub(crate) zone: &'static Zone<'static>,
    /// `None` while this worker has no slot in the zone: keys are looked up, nothing is limited.
    pub(crate) worker: Option<WorkerIdx>,
    pub(crate) caller: Caller,
    /// The first limit's class, or else the API key's.
    pub(crate) class: Option<ClassIdx>,
    /// Limits have applied: the caller is settled, and no other location's count.
    checked: bool,
    /// Refused for its key: what comes after that is an error page.
    denied: bool,
    /// It waits for its rate, and has not gone on.
    pub(crate) delayed: bool,
    pub(crate) status: Option<Status>,
    pub(crate) quotas: ArrayVec<(ClassIdx, Quota), LIMITS_MAX>,
    /// When a refused request may come again.
    pub(crate) retry_after_ns: Option<u64>,
    pub(crate) holds: Holds,
    /// One for each of `holds`.
    pub(crate) flows: [Flow; LIMITS_MAX],
    pub(crate) pacing: pacing::Pacing,
}

/// Puts handlers and filters into their places.
pub(crate) fn install(cf: *mut ngx_conf_t) -> Result<(), String> {
    answer::install();
    // Behind the realip module's: a key may be bound to the client's address, which that finds here for `set_real_ip_from` of a location.
    nginx::add_phase_handler_behind(
        cf,
        ngx_http_phases_NGX_HTTP_PREACCESS_PHASE,
        ngx_http_phases_NGX_HTTP_POST_READ_PHASE,
        handler,
    )
}

/// The main request's record, if it has one.
///
/// # Safety
/// `main` is a live main request; the pointer is good as long as it, and only one reference is made of it at a time.
pub(crate) unsafe fn find(main: *const ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches; all records of this cleanup are `Record`.
    unsafe {
        let is_it = |record: *const Record| std::ptr::eq((*record).request, main);
        nginx::cleanup_find((*main).pool, on_pool_destroyed, is_it)
    }
}

/// # Safety
/// `main` is a live main request that has no record.
unsafe fn create(main: *mut ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches.
    unsafe {
        let zone = zone_of(main)?;
        let record = Record {
            request: main,
            zone,
            worker: worker::worker(),
            caller: Caller::NotAsked,
            class: None,
            checked: false,
            denied: false,
            delayed: false,
            status: None,
            quotas: ArrayVec::new(),
            retry_after_ns: None,
            holds: Holds::default(),
            flows: [Flow::default(); LIMITS_MAX],
            pacing: pacing::Pacing::default(),
        };
        nginx::cleanup_add((*main).pool, on_pool_destroyed, record)
    }
}

/// The request's end: gives back what it holds.
unsafe extern "C" fn on_pool_destroyed(data: *mut c_void) {
    guard("limits cleanup", (), || {
        // SAFETY: nginx calls a cleanup once, with the record that `create` stored, before the pool's memory goes.
        let mut record = unsafe {
            let record = data.cast::<Record>();
            pacing::stop(&raw mut (*record).pacing);
            record.read()
        };
        let now = clock::now();
        let zone = record.zone;
        // Without a slot it holds nothing.
        let Some(worker) = record.worker else { return };
        for (held, flow) in record.holds.iter().zip(&mut record.flows) {
            zone.bandwidth_end(held, flow, now);
        }
        if record.delayed {
            zone.limit_withdraw(worker, record.holds, now);
        } else {
            zone.limit_release(worker, record.holds);
        }
    });
}

/// The class of `r` or of its main request, for the queue; `None` without one.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn class_of(r: *const ngx_http_request_t) -> Option<ClassIdx> {
    // SAFETY: as the caller vouches; a subrequest's main request lives as long as it.
    unsafe { find((*r).main).and_then(|record| (*record).class) }
}

unsafe extern "C" fn handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a live request to a phase's handler.
    let location = unsafe { LimitModule::location(r).filter(|_| std::ptr::eq((*r).main, r)) };
    let Some(location) = location else { return nginx::DECLINED };
    // A fault of ours costs no request, but neither does it let in one that has to show a key.
    let key_required = location.requires_key();
    let fault = if key_required { UNAVAILABLE } else { nginx::DECLINED };
    guard("limits", fault, || {
        // SAFETY: as above.
        unsafe {
            let concerns_us = key_required || !location.limits().is_empty() || location.key.flatten().is_some();
            let record = match find(r) {
                Some(record) => record,
                None if concerns_us => match create(r) {
                    Some(record) => record,
                    None => {
                        worker::count_fail_open();
                        return fault;
                    }
                },
                // An upstream that is told classes elsewhere believes them from here, too.
                None => return if class_header::replace(r, &[], &[]) { nginx::DECLINED } else { SERVER_ERROR },
            };
            if !(*record).checked && !(*record).denied {
                // Whoever asked before did so elsewhere, maybe for another key, and before the client's address was known.
                (*record).caller = Caller::NotAsked;
            }
            if key_required && !(*record).denied {
                let refused = ask_for_key(r, record);
                if refused != nginx::DECLINED {
                    return refused;
                }
            }
            if (*record).checked {
                return nginx::DECLINED;
            }
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
    })
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
        answer::refuse(r, refusal, status)
    }
}

/// Takes what `checks`, of which there is one at least, ask for: the request goes on, sleeps, or is refused.
///
/// # Safety
/// `r` is a live main request in a phase's handler, `record` its record; no reference into the record is alive while nginx evaluates variables.
unsafe fn hold(r: *mut ngx_http_request_t, record: *mut Record, location: &Location, checks: &[Check]) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        let Some(worker) = (*record).worker else {
            worker::count_fail_open();
            return nginx::DECLINED;
        };
        let limited = (*record).zone.limit_take(worker, checks, clock::now());
        let this = &mut *record;
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
                return answer::refuse(r, refusal, location.limit_status.unwrap_or(429));
            }
            Verdict::Passed => this.status = Some(Status::Passed),
            Verdict::Delayed(_) => this.status = Some(Status::Delayed),
        }
        if limited.dry_run.is_some() {
            this.status = Some(Status::RejectedDryRun);
        }
        match limited.verdict {
            Verdict::Delayed(wait_ns) => delay::delay(r, record, wait_ns),
            _ => nginx::DECLINED,
        }
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
            // Requests without a value share one limit: who leaves a header out gets no more than others.
            let key = key.and_then(|key| nginx::complex_value(r, key)).unwrap_or_default();
            checks.push(Check { class, key: KeyHash::new(zone.header.secret(), key), cost: 1, dry_run: *dry_run });
        }
    }
    checks
}

/// The class called `name`, else the default one, if there is one.
///
/// # Safety
/// `r` is live.
unsafe fn class_called(r: *const ngx_http_request_t, zone: &Zone<'_>, name: &[u8]) -> Option<ClassIdx> {
    // SAFETY: as the caller vouches.
    let generation = unsafe { ZoneModule::main(r)?.generation.get() };
    let found = if name.is_empty() { None } else { zone.class_find(name, generation) };
    found.or_else(|| zone.class_find(DEFAULT_CLASS, generation))
}

/// # Safety
/// `r` is live.
unsafe fn class_of_caller(r: *const ngx_http_request_t, caller: &Caller, zone: &Zone<'_>) -> Option<ClassIdx> {
    let Caller::Known { class, .. } = caller else { return None };
    // SAFETY: as the caller vouches.
    unsafe { class_called(r, zone, class) }
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

/// The name of the class that `r` is in, for `$pincer_class`: the one applied, or before that the API key's. Looks a key up if need be.
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
    // SAFETY: as the caller vouches; no reference into the record is alive while nginx evaluates the key's source.
    unsafe {
        let record = match find(main) {
            Some(record) => record,
            None => {
                LimitModule::location(main)?.key.flatten()?;
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
    log::write(log, log::NGX_LOG_INFO, &format!("refuses a request, reason={refusal:?}, class={class}"));
}
