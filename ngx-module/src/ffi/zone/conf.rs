//! What `pincer_zone` says, and what has become of it.

use super::part::{Counts, Part, WorkerPart};
use super::slab::Slab;
use crate::conf::zone::ZoneArgs;
use crate::conf::{ConfError, Problem};
use crate::ffi::base::directive::place;
use crate::ffi::base::feature::Feature;
use nginx_sys::{ngx_conf_t, ngx_http_request_t};
use ngx::http::HttpModuleMainConf as _;
use pincer_core::zone::Zone;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;

/// The shared memory.
pub(crate) struct ZoneModule;

/// What `http {}` says of the zone.
#[derive(Default)]
pub(crate) struct Main {
    pub(crate) args: Option<ZoneArgs>,
    /// Where `pincer_zone` stands, for messages that come after it was read.
    pub(crate) place: String,
    pub(crate) state_path: Option<PathBuf>,
    /// A directive that cannot work without a zone, for the message when there is none.
    pub(super) needed_by: Option<(&'static str, String)>,
    pub(crate) slab: Cell<Slab>,
    /// Mapped once nginx has made the shared memory.
    pub(crate) zone: Cell<Option<&'static Zone<'static>>>,
    /// The zone's random name.
    pub(crate) instance_id: RefCell<String>,
    /// The number of this configuration in the zone.
    pub(crate) generation: Cell<u32>,
    /// Of other features.
    pub(super) parts: RefCell<Vec<&'static dyn Part>>,
    pub(super) worker_parts: RefCell<Vec<&'static dyn WorkerPart>>,
}

impl Main {
    /// What is wrong with `pincer_zone`.
    pub(super) fn conf_error(&self, problem: Problem) -> ConfError {
        ConfError::at("pincer_zone", problem, &self.place)
    }

    /// What `counts` says of all parts.
    pub(super) fn sum(&self, counts: impl Fn(&dyn Part) -> Counts) -> Counts {
        self.parts.borrow().iter().map(|part| counts(*part)).fold(Counts::default(), std::ops::Add::add)
    }
}

/// Notes that a directive cannot work without a zone.
pub(crate) fn needed_by(cf: *const ngx_conf_t, directive: &'static str) {
    // SAFETY: nginx calls with a live `ngx_conf_t` inside `http {}`; the reference ends here.
    let main = unsafe { ZoneModule::main_being_read(cf) };
    main.needed_by.get_or_insert_with(|| (directive, place(cf)));
}

/// Has the zone hold `part`.
pub(crate) fn register(cf: *const ngx_conf_t, part: &'static dyn Part) {
    // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
    unsafe { ZoneModule::main_read(cf) }.parts.borrow_mut().push(part);
}

/// Has `part` called in the life of each worker.
pub(crate) fn register_worker(cf: *const ngx_conf_t, part: &'static dyn WorkerPart) {
    // SAFETY: as above.
    unsafe { ZoneModule::main_read(cf) }.worker_parts.borrow_mut().push(part);
}

/// The zone of the configuration that `r` is served by.
///
/// # Safety
/// `r` is live; the reference lasts as long as the worker runs this configuration.
pub(crate) unsafe fn of_request(r: *const ngx_http_request_t) -> Option<&'static Zone<'static>> {
    // SAFETY: as the caller vouches.
    unsafe { ZoneModule::main_conf(&*r) }.and_then(|main| main.zone.get())
}
