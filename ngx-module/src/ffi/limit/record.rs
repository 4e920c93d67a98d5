//! What a main request is to its limits: one record in its pool, found again through the pool's
//! cleanups, which gives back what the request holds.

use super::bandwidth::pacing;
use super::caller::Caller;
use crate::ffi::base::{clock, nginx, pool};
use crate::ffi::zone::conf::of_request as zone_of;
use crate::ffi::zone::worker;
use arrayvec::ArrayVec;
use nginx_sys::ngx_http_request_t;
use pincer_core::limit::{Flow, Quota};
use pincer_core::zone::{ClassIdx, Holds, LIMITS_MAX, WorkerIdx, Zone};

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
    pub(super) checked: bool,
    /// Refused for its key: what comes after that is an error page.
    pub(super) denied: bool,
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

/// The main request's record, if it has one.
///
/// # Safety
/// `main` is a live main request; the pointer is good as long as it, and only one reference is made
/// of it at a time.
pub(crate) unsafe fn find(main: *const ngx_http_request_t) -> Option<*mut Record> {
    // SAFETY: as the caller vouches; all records of this cleanup are `Record`.
    unsafe {
        let is_it = |record: *const Record| std::ptr::eq((*record).request, main);
        nginx::cleanup_find((*main).pool, is_it)
    }
}

/// # Safety
/// `main` is a live main request that has no record.
pub(super) unsafe fn create(main: *mut ngx_http_request_t) -> Option<*mut Record> {
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
        nginx::cleanup_add((*main).pool, record)
    }
}

impl pool::Record for Record {
    const PLACE: &'static str = "limits cleanup";

    /// The request's end: gives back what it holds.
    unsafe fn end(record: *mut Self) {
        // SAFETY: as the caller vouches.
        let mut record = unsafe {
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
    }
}

/// The class of `r` or of its main request, for the queue; `None` without one.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn class_of(r: *const ngx_http_request_t) -> Option<ClassIdx> {
    // SAFETY: as the caller vouches; a subrequest's main request lives as long as it.
    unsafe { find((*r).main).and_then(|record| (*record).class) }
}
