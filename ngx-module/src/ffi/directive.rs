//! The directives' setters: hand the arguments to `crate::conf`, store what comes back, report what is wrong.

use crate::conf::{
    DirectiveError, balance as balance_args, body_hash as body_hash_args, class as class_args, control,
    limit as limit_args, zone as zone_args,
};
use crate::ffi::balance::declare;
use crate::ffi::base::directive::{arguments, compile, full_path, once, place};
use crate::ffi::base::feature::Feature;
use crate::ffi::conf::{MainConf, PincerModule, UpstreamConf};
use crate::ffi::limit::hold::LIMITS_MAX;
use crate::ffi::location::{ClassSource, Limit, LocConf};
use crate::ffi::status::pages as status_page;
use nginx_sys::ngx_conf_t;
use std::rc::Rc;

pub(crate) fn zone(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), DirectiveError> {
    let parsed = zone_args::parse(&arguments(cf))?;
    if let Some(state) = &parsed.state {
        main.state_path = Some(full_path(cf, state.as_bytes(), false)?);
    }
    main.zone_place = place(cf);
    once(&mut main.zone_args, parsed, "pincer_zone")
}

pub(crate) fn control_plane(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), DirectiveError> {
    main.needs_zone.get_or_insert_with(|| ("pincer_control_plane", place(cf)));
    main.control_plane_place = place(cf);
    once(&mut main.control_plane, control::parse_control_plane(&arguments(cf))?, "pincer_control_plane")
}

pub(crate) fn allow_peers(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), DirectiveError> {
    main.needs_zone.get_or_insert_with(|| ("pincer_allow_peers", place(cf)));
    main.allow_peers.extend(control::parse_allow_peers(&arguments(cf))?);
    Ok(())
}

/// The setters of the certificates' paths, which differ in their name and field only.
macro_rules! file_setter {
    ($name:ident, $directive:literal, $field:ident) => {
        pub(crate) fn $name(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), DirectiveError> {
            let argument = arguments(cf);
            let path = full_path(cf, argument.first().copied().unwrap_or_default(), true)?;
            once(&mut main.files.$field, path, $directive)
        }
    };
}

file_setter!(certificate, "pincer_control_plane_certificate", certificate);
file_setter!(certificate_key, "pincer_control_plane_certificate_key", certificate_key);
file_setter!(trusted_certificate, "pincer_control_plane_trusted_certificate", trusted_certificate);

pub(crate) fn control_plane_name(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), DirectiveError> {
    let argument = arguments(cf);
    let name = crate::conf::args::text("pincer_control_plane_name", argument.first().copied().unwrap_or_default())?;
    once(&mut main.files.name, name.to_owned(), "pincer_control_plane_name")
}

pub(crate) fn balance(cf: *mut ngx_conf_t, upstream: &mut UpstreamConf) -> Result<(), DirectiveError> {
    // SAFETY: `cf` is inside `http {}`; the reference ends here.
    let main = unsafe { PincerModule::main_being_read(cf) };
    main.needs_zone.get_or_insert_with(|| ("pincer_balance", place(cf)));
    let parsed = balance_args::parse_balance(&arguments(cf))?;
    if let Some(affinity) = &parsed.affinity {
        upstream.affinity.set(Some(compile(cf, "pincer_balance", "affinity", affinity)?));
    }
    upstream.place.replace(place(cf));
    once(&mut upstream.balance, parsed, "pincer_balance")?;
    declare::capture(cf)
}

pub(crate) fn queue(cf: *mut ngx_conf_t, upstream: &mut UpstreamConf) -> Result<(), DirectiveError> {
    if upstream.balance.is_none() {
        upstream.place.replace(place(cf));
    }
    once(&mut upstream.queue, balance_args::parse_queue(&arguments(cf))?, "pincer_queue")
}

/// Notes that a directive cannot work without a zone.
fn need_zone(main: &mut MainConf, cf: *const ngx_conf_t, directive: &'static str) {
    main.needs_zone.get_or_insert_with(|| (directive, place(cf)));
}

pub(crate) fn body_hash(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { PincerModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let parsed = body_hash_args::parse(&arguments)?;
    if parsed.is_some() {
        main.hashes_bodies = true;
        need_zone(main, cf, "pincer_body_hash");
    }
    once(&mut location.body_hash, parsed.map(Rc::new), "pincer_body_hash")
}

pub(crate) fn limit(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { PincerModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let Some(parsed) = limit_args::parse_limit(&arguments)? else {
        return once(&mut location.limits, Vec::new(), "pincer_limit");
    };
    if location.limits.as_ref().is_some_and(Vec::is_empty) {
        return Err(DirectiveError(
            "\"pincer_limit\" stands beside \"pincer_limit off\", only one of them is allowed in one place".to_owned(),
        ));
    }
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
        return Err(DirectiveError(format!(
            "\"pincer_limit\" \"class={}{key}\" is duplicate, one of it is needed in one place",
            parsed.class
        )));
    }
    limits.push(limit);
    main.limits = true;
    need_zone(main, cf, "pincer_limit");
    if limits.len() <= LIMITS_MAX {
        return Ok(());
    }
    Err(DirectiveError(format!(
        "\"pincer_limit\" stands more than {LIMITS_MAX} times, as many are allowed in one place"
    )))
}

pub(crate) fn limit_status(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    let arguments = arguments(cf);
    once(&mut location.limit_status, limit_args::parse_status(&arguments)?, "pincer_limit_status")
}

pub(crate) fn key(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { PincerModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let source = limit_args::parse_key(&arguments)?;
    let source = source.map(|source| compile(cf, "pincer_key", "source", &source)).transpose()?;
    if source.is_some() {
        main.limits = true;
        main.key_place.get_or_insert_with(|| place(cf));
        need_zone(main, cf, "pincer_key");
    }
    once(&mut location.key, source, "pincer_key")
}

pub(crate) fn key_required(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    // SAFETY: `cf` is inside `http {}`; the two are different values.
    let main = unsafe { PincerModule::main_being_read(cf) };
    let arguments = arguments(cf);
    let required = limit_args::parse_switch("pincer_key_required", &arguments)?;
    if required {
        main.limits = true;
        main.key_required_place.get_or_insert_with(|| place(cf));
        need_zone(main, cf, "pincer_key_required");
    }
    once(&mut location.key_required, required.then(|| place(cf).into()), "pincer_key_required")
}

pub(crate) fn class(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), DirectiveError> {
    main.needs_zone.get_or_insert_with(|| ("pincer_class", place(cf)));
    let parsed = class_args::parse(&arguments(cf))?;
    if main.classes.iter().any(|class| class.name == parsed.name) {
        return Err(DirectiveError(format!("\"pincer_class\" \"{}\" is duplicate, one is needed", parsed.name)));
    }
    main.classes.push(parsed);
    main.classes_place = place(cf);
    Ok(())
}

pub(crate) fn status(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    page(cf, location, "pincer_status", status_page::status_handler)
}

pub(crate) fn metrics(cf: *mut ngx_conf_t, location: &mut LocConf) -> Result<(), DirectiveError> {
    page(cf, location, "pincer_metrics", status_page::metrics_handler)
}

fn page(
    cf: *mut ngx_conf_t,
    location: &mut LocConf,
    directive: &'static str,
    handler: unsafe extern "C" fn(*mut nginx_sys::ngx_http_request_t) -> nginx_sys::ngx_int_t,
) -> Result<(), DirectiveError> {
    location.is_page = true;
    // SAFETY: a directive of a location; the context's `loc_conf` has a slot for the core module.
    unsafe {
        PincerModule::main_being_read(cf).needs_zone.get_or_insert_with(|| (directive, place(cf)));
        let context = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        let index = nginx_sys::ngx_http_core_module.ctx_index;
        let location = (*(*context).loc_conf.add(index)).cast::<nginx_sys::ngx_http_core_loc_conf_t>();
        (*location).handler = Some(handler);
    }
    Ok(())
}
