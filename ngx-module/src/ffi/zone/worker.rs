//! A process's life: the master prepares, a worker joins the zone, keeps house once a second, and
//! leaves.

use super::conf::{Main, ZoneModule};
use super::part::WorkerPart;
use super::{memory, wake};
use crate::ffi::base::guard::{count_in, guard};
use crate::ffi::base::statics::LoopStatic;
use crate::ffi::base::{bits, clock, event, eventfd, log, nginx};
use nginx_sys::{ngx_cycle_t, ngx_event_t, ngx_msec_t};
use ngx::core::{CoreModuleMainConf as _, NgxCoreModule};
use ngx::http::HttpModuleMainConf as _;
use pincer_core::zone::{ProcessId, WorkerIdx, Zone};
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;

/// How often a worker looks for workers that died, in milliseconds; with the check at a respawned
/// worker's start, counts are exact again within about this time.
const HOUSEKEEPING_MS: ngx_msec_t = 1_000;

/// What this process is. Only its event loop's thread asks.
struct Process {
    main: Cell<Option<&'static Main>>,
    worker: Cell<Option<WorkerIdx>>,
    /// It found no slot at its start.
    refused: Cell<bool>,
    fail_open_logged: Cell<bool>,
    housekeeping: UnsafeCell<Option<Box<ngx_event_t>>>,
}

static PROCESS: LoopStatic<Process> = LoopStatic::new(Process {
    main: Cell::new(None),
    worker: Cell::new(None),
    refused: Cell::new(false),
    fail_open_logged: Cell::new(false),
    housekeeping: UnsafeCell::new(None),
});

/// This worker's slot in the zone; `None` outside workers and when the zone has no slot left.
pub(crate) fn worker() -> Option<WorkerIdx> {
    PROCESS.worker.get()
}

/// The configuration that this worker runs.
fn main() -> Option<&'static Main> {
    PROCESS.main.get()
}

/// The zone of the configuration that this worker runs.
pub(crate) fn zone() -> Option<&'static Zone<'static>> {
    main()?.zone.get()
}

/// Counts a request that is served without Pincer, and logs the first of this process.
pub(crate) fn count_fail_open() {
    if let Some(zone) = zone() {
        zone.header.counters.fail_open.fetch_add(1, Relaxed);
    }
    if !PROCESS.fail_open_logged.replace(true) {
        log::write_cycle(
            log::NGX_LOG_ERR,
            "serves by plain round robin, the zone has no slot for this worker or a fault occurred",
        );
    }
}

/// In the master, when a configuration comes into force.
pub(crate) fn in_force(cycle: *mut ngx_cycle_t) {
    // SAFETY: nginx passes the new cycle, whose configuration has been read.
    let main = unsafe { ZoneModule::main_conf(&*cycle) };
    let Some(main) = main.filter(|main| main.zone.get().is_some()) else { return };
    // SAFETY: as above.
    let core = NgxCoreModule::main_conf(unsafe { &*cycle });
    if let Err(error) = memory::configure(main) {
        // A running master must not die of it: the peers stay as they were.
        log::write_cycle(log::NGX_LOG_EMERG, &error.to_string());
    }
    wake::prepare(core.and_then(|core| usize::try_from(core.worker_processes).ok()).unwrap_or(1).max(1));
    // SAFETY: the cycle's pool is live; a failed registration leaks descriptors at the next unload,
    // nothing else.
    unsafe {
        let cleanup = nginx_sys::ngx_pool_cleanup_add((*cycle).pool, 0);
        if !cleanup.is_null() {
            (*cleanup).handler = Some(on_cycle_destroyed);
        }
    }
}

unsafe extern "C" fn on_cycle_destroyed(_: *mut c_void) {
    guard("cycle cleanup", (), wake::release);
}

/// In each worker.
pub(crate) fn worker_begins(cycle: *mut ngx_cycle_t) {
    clock::reseed();
    // SAFETY: the cycle this process runs for; its configuration lives as long as the process
    // serves it.
    let Some(main) = (unsafe { ZoneModule::main_conf(&*cycle) }) else { return };
    let Some(zone) = main.zone.get() else { return };
    PROCESS.main.set(Some(main));
    count_in(&zone.header.counters.faults);
    join(main, zone);
    start_housekeeping();
}

/// Takes a slot in the zone, and runs what the parts do then. Without a slot requests are served by
/// round robin; housekeeping tries again, since the workers of an older configuration give theirs
/// back one by one.
fn join(main: &'static Main, zone: &'static Zone<'static>) {
    reclaim();
    // Called again by housekeeping, until there is a slot.
    if worker().is_some() {
        return;
    }
    let joined = zone.worker_join(own_id(), main.generation.get());
    PROCESS.worker.set(joined);
    let Some(worker) = joined else {
        if !PROCESS.refused.replace(true) {
            zone.header.counters.workers_refused.fetch_add(1, Relaxed);
            log::write_cycle(
                log::NGX_LOG_ERR,
                "has no slot in the zone for this worker, old workers may still be draining",
            );
        }
        return;
    };
    if !wake::listen_slot(worker, event::handler::<Kick>) {
        log::write_cycle(
            log::NGX_LOG_WARN,
            "cannot listen for other workers, waiting requests will look for slots by timer",
        );
    }
    for_each_part(|part| part.joined(worker));
}

/// Joins late, unless this worker is about to leave.
fn join_again() {
    // SAFETY: a word that only this process's signal handling and event loop write.
    let leaving = unsafe { nginx_sys::ngx_exiting } != 0;
    if let (Some(main), Some(zone), None, false) = (main(), zone(), worker(), leaving) {
        join(main, zone);
    }
}

/// At a worker's end.
pub(crate) fn worker_ends() {
    for_each_part(WorkerPart::leaving);
    let Some(worker) = PROCESS.worker.take() else { return };
    if let Some(zone) = zone() {
        zone.worker_leave(worker);
        slots_changed();
    }
}

/// Another worker says that a slot may be free for a request that waits here.
struct Kick;

impl event::Handler for Kick {
    const PLACE: &'static str = "kick";

    unsafe fn run(event: *mut ngx_event_t) {
        // SAFETY: nginx calls with the read event of the connection made in `eventfd::listen`.
        unsafe { eventfd::drain((*(*event).data.cast::<nginx_sys::ngx_connection_t>()).fd) };
        let (Some(zone), Some(worker)) = (zone(), worker()) else { return };
        if let Some(slot) = zone.workers.get(usize::from(worker.0)) {
            slot.kick_answered();
        }
        for_each_part(WorkerPart::woken);
    }
}

/// Slots of peers may have come free from anywhere.
pub(crate) fn slots_changed() {
    if let Some(zone) = zone() {
        for_each_part(|part| part.slots_changed(zone));
    }
}

fn for_each_part(call: impl Fn(&'static dyn WorkerPart)) {
    let Some(main) = main() else { return };
    for &part in main.worker_parts.borrow().iter() {
        call(part);
    }
}

fn start_housekeeping() {
    // SAFETY: only this thread has the cell, and no reference into it is kept. The box never moves
    // its event.
    unsafe {
        let event = (*PROCESS.housekeeping.get()).get_or_insert_with(|| Box::new(std::mem::zeroed()));
        event.handler = Some(on_housekeeping);
        event.log = log::cycle_log();
        bits::event::set_cancelable(&raw mut **event, 1);
        event.data = std::ptr::from_mut::<ngx_event_t>(event).cast();
        nginx::arm(&raw mut **event, HOUSEKEEPING_MS);
    }
}

unsafe extern "C" fn on_housekeeping(event: *mut ngx_event_t) {
    guard("housekeeping", (), || {
        reclaim();
        join_again();
        for_each_part(WorkerPart::each_second);
    });
    // SAFETY: the event has just fired and lives as long as the process.
    unsafe { nginx::arm(event, HOUSEKEEPING_MS) };
}

/// Takes back what dead workers held, and lets the next requests in.
pub(crate) fn reclaim() {
    let Some(zone) = zone() else { return };
    let reclaimed = zone.reclaim_dead(own_id(), is_alive);
    if reclaimed.workers > 0 {
        let message = format!("reclaims dead workers, workers={}, requests={}", reclaimed.workers, reclaimed.requests);
        log::write_cycle(log::NGX_LOG_NOTICE, &message);
        slots_changed();
    }
}

/// This process.
pub(crate) fn own_id() -> ProcessId {
    thread_local! {
        static OWN: Cell<Option<ProcessId>> = const { Cell::new(None) };
    }
    let pid = std::process::id();
    // A fork inherits the master's answer, if it ever asked.
    OWN.get().filter(|own| own.pid == pid).unwrap_or_else(|| {
        let own = ProcessId { pid, start: start_time(pid).map_or(0, |(start, _)| start) };
        OWN.set(Some(own));
        own
    })
}

/// Whether a process lives: its pid exists, started when it says, and is no zombie. Without /proc
/// the pid alone counts.
fn is_alive(process: ProcessId) -> bool {
    let Ok(pid) = libc::pid_t::try_from(process.pid) else { return false };
    // SAFETY: signal 0 only asks whether the process exists.
    let exists =
        unsafe { libc::kill(pid, 0) } == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    exists
        && start_time(process.pid)
            .is_none_or(|(start, zombie)| !zombie && (process.start == 0 || start == process.start))
}

/// The start time of a process in clock ticks after boot (low 32 bits), and whether it is a zombie:
/// fields 22 and 3 of /proc/PID/stat.
fn start_time(pid: u32) -> Option<(u32, bool)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one does not.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X" | "x");
    let ticks: u64 = fields.nth(18)?.parse().ok()?;
    u32::try_from(ticks & u64::from(u32::MAX)).ok().map(|start| (start, zombie))
}
