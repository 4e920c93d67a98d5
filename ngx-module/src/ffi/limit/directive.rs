//! The setters of the feature's directives.

use super::conf::{ClassSource, Limit, LimitModule, Location, Main};
use crate::conf::{ConfError, Problem, class as class_args, limit as limit_args};
use crate::ffi::base::directive::{arguments, compile, once, place};
use crate::ffi::base::feature::Feature;
use crate::ffi::zone::conf::needed_by;
use nginx_sys::ngx_conf_t;
use pincer_core::zone::LIMITS_MAX;

pub(super) fn class(cf: *mut ngx_conf_t, main: &mut Main) -> Result<(), ConfError> {
    needed_by(cf, "pincer_class");
    let parsed = class_args::parse(&arguments(cf))?;
    if main.classes.iter().any(|class| class.name == parsed.name) {
        return Err(ConfError::new("pincer_class", Problem::DuplicateOf { argument: parsed.name }));
    }
    main.classes.push(parsed);
    main.classes_place = place(cf);
    Ok(())
}

pub(super) fn limit(cf: *mut ngx_conf_t, location: &mut Location) -> Result<(), ConfError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { LimitModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let parsed = limit_args::parse_limit(&arguments)?;
    let is_off = location.limits.as_ref().map(Vec::is_empty);
    if is_off.is_some_and(|is_off| is_off != parsed.is_none()) {
        return Err(ConfError::new("pincer_limit", Problem::BesideOff));
    }
    let Some(parsed) = parsed else {
        return once(&mut location.limits, Vec::new(), "pincer_limit");
    };
    let class = match parsed.literal_class() {
        Some(name) => {
            main.classes_named.push((name.to_owned(), place(cf)));
            ClassSource::Name(name.into())
        }
        None => ClassSource::Value(compile(cf, "pincer_limit", "class", &parsed.class)?),
    };
    let key = parsed.key.as_deref().map(|key| compile(cf, "pincer_limit", "key", key)).transpose()?;
    let limits = location.limits.get_or_insert_default();
    let limit = Limit { class, key, dry_run: parsed.dry_run };
    if limits.iter().any(|other| other.counts_the_same(&limit)) {
        let key = parsed.key.map(|key| format!(" key={key}")).unwrap_or_default();
        let argument = format!("class={}{key}", parsed.class);
        return Err(ConfError::new("pincer_limit", Problem::DuplicateOf { argument }));
    }
    limits.push(limit);
    main.in_use = true;
    needed_by(cf, "pincer_limit");
    if limits.len() <= LIMITS_MAX {
        return Ok(());
    }
    Err(ConfError::new("pincer_limit", Problem::TooMany { max: LIMITS_MAX }))
}

pub(super) fn limit_status(cf: *mut ngx_conf_t, location: &mut Location) -> Result<(), ConfError> {
    let arguments = arguments(cf);
    once(&mut location.limit_status, limit_args::parse_status(&arguments)?, "pincer_limit_status")
}

pub(super) fn key(cf: *mut ngx_conf_t, location: &mut Location) -> Result<(), ConfError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { LimitModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let source = limit_args::parse_key(&arguments)?;
    let source = source.map(|source| compile(cf, "pincer_key", "source", &source)).transpose()?;
    if source.is_some() {
        main.in_use = true;
        main.key_place.get_or_insert_with(|| place(cf));
        needed_by(cf, "pincer_key");
    }
    once(&mut location.key, source, "pincer_key")
}

pub(super) fn key_required(cf: *mut ngx_conf_t, location: &mut Location) -> Result<(), ConfError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { LimitModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let required = limit_args::parse_switch("pincer_key_required", &arguments)?;
    if required {
        main.in_use = true;
        main.key_required_place.get_or_insert_with(|| place(cf));
        needed_by(cf, "pincer_key_required");
    }
    once(&mut location.key_required, required.then(|| place(cf).into()), "pincer_key_required")
}
