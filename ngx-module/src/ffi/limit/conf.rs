//! What `pincer_class`, `pincer_limit` and `pincer_key` say.

use crate::conf::class::ClassArgs;
use crate::conf::{ConfError, Problem};
use crate::feed::declared::class as declared_class;
use crate::ffi::base::feature::{Feature, Inherit};
use crate::ffi::base::{clock, location as base_location, log, nginx};
use crate::ffi::feed;
use crate::ffi::feed::conf::FeedModule;
use crate::ffi::zone::part::{Counts, Part};
use crate::ffi::zone::slab::Slab;
use nginx_sys::{ngx_conf_t, ngx_http_complex_value_t};
use pincer_core::zone::{ClassIdx, ClassSpec, Zone, ZoneError, check_classes as zone_check_classes};
use pincer_proto::v1::Hello;
use std::cell::RefCell;
use std::rc::Rc;

/// Classes, rates and API keys.
pub(crate) struct LimitModule;

/// What `http {}` says of classes, and what was seen of limits in it.
#[derive(Default)]
pub(crate) struct Main {
    /// `pincer_class` lines.
    pub(crate) classes: Vec<ClassArgs>,
    /// Where the last of them stands.
    pub(crate) classes_place: String,
    /// Classes that `pincer_limit` lines name, and where.
    pub(crate) classes_named: Vec<(String, String)>,
    /// Some location limits requests or looks at API keys.
    pub(crate) in_use: bool,
    /// Where the first `pincer_key` that names a variable stands.
    pub(crate) key_place: Option<String>,
    /// Where the first `pincer_key_required on` stands.
    pub(crate) key_required_place: Option<String>,
    /// The classes' records, in their order.
    records: RefCell<Vec<ClassIdx>>,
}

/// What a location says; also `http {}` and `server {}`, from which locations inherit.
#[derive(Default)]
pub(crate) struct Location {
    /// `pincer_limit` lines: unset, in which case those above are in force, or these; none of them
    /// = off.
    pub(crate) limits: Option<Vec<Limit>>,
    /// [`Location::limits`] come from a level above.
    inherits_limits: bool,
    /// `pincer_status` or `pincer_metrics` answers here.
    is_page: bool,
    /// `pincer_limit_status`.
    pub(crate) limit_status: Option<u16>,
    /// `pincer_key`: unset, off, or where a request's API key stands.
    pub(crate) key: Option<Option<ComplexValue>>,
    /// `pincer_key_required`: unset, off, or where it stands.
    pub(crate) key_required: Option<Option<Rc<str>>>,
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
    /// Whether both are written with one class and one key: a request would be charged twice for
    /// one thing.
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

impl Location {
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
}

impl Inherit for Location {
    fn merge(
        &mut self,
        _cf: *mut ngx_conf_t,
        parent: &Self,
        location: &base_location::Location,
    ) -> Result<(), ConfError> {
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
        if let (Some(Some(place)), None) = (&self.key_required, self.key.flatten())
            && location.responds()
        {
            let problem = Problem::NoKeyHere { location: location.name() };
            return Err(ConfError::at("pincer_key_required", problem, place));
        }
        Ok(())
    }
}

/// The location that is being read is a page of ours: no limit of the levels above holds there.
pub(crate) fn exempt_page(cf: *const ngx_conf_t) {
    // SAFETY: nginx calls with a live `ngx_conf_t` inside a location; the reference ends here.
    unsafe { LimitModule::location_being_read(cf) }.is_page = true;
}

impl Part for Main {
    fn declared(&self) -> Counts {
        Counts { classes: self.classes.len(), ..Counts::default() }
    }

    fn missing(&self, zone: &Zone<'_>) -> Counts {
        let known = |name: &str| zone.class_find(name.as_bytes(), 0).is_some();
        let classes = self.classes.iter().filter(|class| !known(&class.name)).count();
        Counts { classes, ..Counts::default() }
    }

    fn reserve(&self, zone: &'static Zone<'static>, slab: Slab) -> Result<(), ConfError> {
        let reserve = |class: &ClassArgs| slab.locked(|| zone.class_reserve(class.name.as_bytes()));
        let records: Result<Vec<ClassIdx>, _> = self.classes.iter().map(reserve).collect();
        self.records.replace(records.map_err(|error| self.conf_error(error))?);
        Ok(())
    }

    fn configure(&self, zone: &'static Zone<'static>, slab: Slab) -> Result<(), ConfError> {
        for (index, class) in self.records.borrow().iter().zip(&self.classes) {
            slab.locked(|| zone.class_configure(*index, &class.settings, clock::now()))
                .map_err(|error| self.conf_error(error))?;
        }
        Ok(())
    }
}

impl feed::part::Part for Main {
    fn declare(&self, hello: &mut Hello) {
        hello.classes.extend(self.classes.iter().map(|class| declared_class(&class.name, &class.settings)));
    }
}

impl Main {
    fn conf_error(&self, error: ZoneError) -> ConfError {
        ConfError::at("pincer_class", Problem::Zone(error), &self.classes_place)
    }
}

/// Checks what only shows once all classes are read.
pub(super) fn check_classes(main: &Main) -> Result<(), ConfError> {
    for (name, place) in &main.classes_named {
        if main.classes.iter().all(|class| class.name != *name) {
            return Err(ConfError::at("pincer_limit", Problem::UnknownClass { class: name.clone() }, place));
        }
    }
    let specs: Vec<ClassSpec<'_>> =
        main.classes.iter().map(|class| ClassSpec { name: class.name.as_bytes(), settings: class.settings }).collect();
    zone_check_classes(&specs).map_err(|error| main.conf_error(error))
}

/// Checks that a key which is asked for can be shown and be known.
pub(super) fn check_keys(cf: *mut ngx_conf_t, main: &Main) -> Result<(), ConfError> {
    if let (Some(place), None) = (&main.key_required_place, &main.key_place) {
        return Err(ConfError::at("pincer_key_required", Problem::NoKey, place));
    }
    // SAFETY: nginx passes the configuration it has just read, inside `http {}`.
    let has_control_plane = unsafe { FeedModule::main_read(cf) }.control_plane.is_some();
    if let (Some(place), false) = (&main.key_place, has_control_plane) {
        let message = format!(
            "\"pincer_key\" knows no key without the control plane that holds them, \"pincer_control_plane\" is needed {place}"
        );
        // SAFETY: nginx passes a live `ngx_conf_t`, which has a log.
        log::write(unsafe { (*cf).log }, log::NGX_LOG_WARN, &message);
    }
    Ok(())
}
