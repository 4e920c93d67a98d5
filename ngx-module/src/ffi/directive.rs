//! The directives' setters: hand the arguments to `crate::conf`, store what comes back, report what is wrong.

use crate::conf::{
    DirectiveError, balance as balance_args, body_hash as body_hash_args, class as class_args, control,
    limit as limit_args, zone as zone_args,
};
use crate::ffi::balance::declare;
use crate::ffi::base::guard::guard;
use crate::ffi::base::{log, nginx};
use crate::ffi::conf::{MainConf, UpstreamConf, main_conf_of};
use crate::ffi::limit::hold::LIMITS_MAX;
use crate::ffi::location::{self, ClassSource, Limit};
use crate::ffi::status::pages as status_page;
use nginx_sys::{ngx_command_t, ngx_conf_t, ngx_str_t};
use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::rc::Rc;

/// nginx's "the directive failed", `(char *) -1`.
const CONF_ERROR: *mut c_char = usize::MAX as *mut c_char;

/// Runs a setter's body; an error is reported with the place that nginx knows.
fn report(cf: *mut ngx_conf_t, body: impl FnOnce() -> Result<(), DirectiveError>) -> *mut c_char {
    let result = guard("directive", Err(DirectiveError("a fault in the module".to_owned())), body);
    match result {
        Ok(()) => std::ptr::null_mut(),
        Err(error) => {
            log::conf(cf, log::NGX_LOG_EMERG, &error.to_string());
            CONF_ERROR
        }
    }
}

/// The directive's arguments, without its name.
fn arguments<'a>(cf: *const ngx_conf_t) -> Vec<&'a [u8]> {
    // SAFETY: during a setter `args` holds the directive's words, which live in the configuration's pool.
    let words: &[ngx_str_t] = unsafe { nginx::elements((*cf).args) };
    // SAFETY: as above.
    words.iter().skip(1).map(|word| unsafe { nginx::bytes(*word) }).collect()
}

/// `in FILE:LINE`, for messages that come later.
pub(crate) fn place(cf: *const ngx_conf_t) -> String {
    // SAFETY: while a directive of a file is read, `conf_file` is that file.
    unsafe {
        let file = (*cf).conf_file;
        if file.is_null() {
            return String::new();
        }
        let name = nginx::bytes((*file).file.name);
        format!("in {}:{}", String::from_utf8_lossy(name), (*file).line)
    }
}

fn once<T>(slot: &mut Option<T>, value: T, directive: &str) -> Result<(), DirectiveError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DirectiveError(format!("\"{directive}\" is duplicate, one is needed"))),
    }
}

/// A copy of `text` as nginx's own words of a configuration are: with a NUL behind the end, which its parsers look at. `None` when memory is out.
fn text_of_conf(cf: *const ngx_conf_t, text: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: `cf` is live, and so is its pool.
    let copy = unsafe { nginx::pool_copy((*cf).pool, &[text, b"\0"].concat()) }?;
    Some(ngx_str_t { len: text.len(), ..copy })
}

/// A path relative to nginx's configuration (`conf_prefix`) or its prefix, made absolute.
fn full_path(cf: *mut ngx_conf_t, argument: &[u8], conf_prefix: bool) -> Result<PathBuf, DirectiveError> {
    use std::os::unix::ffi::OsStrExt;
    let out_of_memory = || DirectiveError("memory is out".to_owned());
    let mut name = text_of_conf(cf, argument).ok_or_else(out_of_memory)?;
    // SAFETY: `cf` and its cycle are live; the name has its NUL.
    let name = unsafe {
        if nginx_sys::ngx_conf_full_name((*cf).cycle, &raw mut name, nginx_sys::ngx_uint_t::from(conf_prefix))
            != nginx::OK
        {
            return Err(out_of_memory());
        }
        nginx::bytes(name)
    };
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// # Safety
/// `conf` is what `create_main_conf` made; nginx reads the configuration on one thread and holds no reference into it.
unsafe fn main<'a>(conf: *mut c_void) -> &'a mut MainConf {
    // SAFETY: as the caller vouches.
    unsafe { &mut *conf.cast::<MainConf>() }
}

/// # Safety
/// As [`main`], for `create_srv_conf`.
unsafe fn upstream<'a>(conf: *mut c_void) -> &'a mut UpstreamConf {
    // SAFETY: as the caller vouches.
    unsafe { &mut *conf.cast::<UpstreamConf>() }
}

pub(crate) unsafe extern "C" fn zone(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of `http {}`.
        let main = unsafe { main(conf) };
        let parsed = zone_args::parse(&arguments(cf))?;
        if let Some(state) = &parsed.state {
            main.state_path = Some(full_path(cf, state.as_bytes(), false)?);
        }
        main.zone_place = place(cf);
        once(&mut main.zone_args, parsed, "pincer_zone")
    })
}

pub(crate) unsafe extern "C" fn control_plane(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of `http {}`.
        let main = unsafe { main(conf) };
        main.needs_zone.get_or_insert_with(|| ("pincer_control_plane", place(cf)));
        main.control_plane_place = place(cf);
        once(&mut main.control_plane, control::parse_control_plane(&arguments(cf))?, "pincer_control_plane")
    })
}

pub(crate) unsafe extern "C" fn allow_peers(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of `http {}`.
        let main = unsafe { main(conf) };
        main.needs_zone.get_or_insert_with(|| ("pincer_allow_peers", place(cf)));
        main.allow_peers.extend(control::parse_allow_peers(&arguments(cf))?);
        Ok(())
    })
}

/// The setters of the certificates' paths, which differ in their name and field only.
macro_rules! file_setter {
    ($name:ident, $directive:literal, $field:ident) => {
        pub(crate) unsafe extern "C" fn $name(
            cf: *mut ngx_conf_t,
            _: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            report(cf, || {
                // SAFETY: a directive of `http {}`.
                let main = unsafe { main(conf) };
                let argument = arguments(cf);
                let path = full_path(cf, argument.first().copied().unwrap_or_default(), true)?;
                once(&mut main.files.$field, path, $directive)
            })
        }
    };
}

file_setter!(certificate, "pincer_control_plane_certificate", certificate);
file_setter!(certificate_key, "pincer_control_plane_certificate_key", certificate_key);
file_setter!(trusted_certificate, "pincer_control_plane_trusted_certificate", trusted_certificate);

pub(crate) unsafe extern "C" fn control_plane_name(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of `http {}`.
        let main = unsafe { main(conf) };
        let argument = arguments(cf);
        let name = crate::conf::args::text("pincer_control_plane_name", argument.first().copied().unwrap_or_default())?;
        once(&mut main.files.name, name.to_owned(), "pincer_control_plane_name")
    })
}

pub(crate) unsafe extern "C" fn balance(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of an `upstream {}`; `main_conf_of` is inside `http {}`, and the two are different values.
        let (upstream, main) = unsafe { (upstream(conf), main_conf_of(cf)) };
        main.needs_zone.get_or_insert_with(|| ("pincer_balance", place(cf)));
        let parsed = balance_args::parse_balance(&arguments(cf))?;
        if let Some(affinity) = &parsed.affinity {
            upstream.affinity.set(Some(compile(cf, "pincer_balance", "affinity", affinity)?));
        }
        upstream.place.replace(place(cf));
        once(&mut upstream.balance, parsed, "pincer_balance")?;
        declare::capture(cf)
    })
}

pub(crate) unsafe extern "C" fn queue(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of an `upstream {}`.
        let upstream = unsafe { upstream(conf) };
        if upstream.balance.is_none() {
            upstream.place.replace(place(cf));
        }
        once(&mut upstream.queue, balance_args::parse_queue(&arguments(cf))?, "pincer_queue")
    })
}

/// Notes that a directive cannot work without a zone.
fn need_zone(main: &mut MainConf, cf: *const ngx_conf_t, directive: &'static str) {
    main.needs_zone.get_or_insert_with(|| (directive, place(cf)));
}

/// The setter of a directive of `http {}`, a server or a location: `$body` gets the location's and the main configuration and the arguments.
macro_rules! location_setter {
    ($name:ident, |$cf:ident, $location:ident, $main:ident, $arguments:ident| $body:expr) => {
        pub(crate) unsafe extern "C" fn $name(
            $cf: *mut ngx_conf_t,
            _: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            report($cf, || {
                // SAFETY: a directive of a location, with what `location::create` made; the two are different values.
                let ($location, $main) = unsafe { (location::being_read(conf), main_conf_of($cf)) };
                let $arguments = arguments($cf);
                $body
            })
        }
    };
}

location_setter!(body_hash, |cf, location, main, arguments| {
    let parsed = body_hash_args::parse(&arguments)?;
    if parsed.is_some() {
        main.hashes_bodies = true;
        need_zone(main, cf, "pincer_body_hash");
    }
    once(&mut location.body_hash, parsed.map(Rc::new), "pincer_body_hash")
});

location_setter!(limit, |cf, location, main, arguments| {
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
});

location_setter!(limit_status, |_cf, location, _main, arguments| {
    once(&mut location.limit_status, limit_args::parse_status(&arguments)?, "pincer_limit_status")
});

location_setter!(key, |cf, location, main, arguments| {
    let source = limit_args::parse_key(&arguments)?;
    let source = source.map(|source| compile(cf, "pincer_key", "source", &source)).transpose()?;
    if source.is_some() {
        main.limits = true;
        main.key_place.get_or_insert_with(|| place(cf));
        need_zone(main, cf, "pincer_key");
    }
    once(&mut location.key, source, "pincer_key")
});

location_setter!(key_required, |cf, location, main, arguments| {
    let required = limit_args::parse_switch("pincer_key_required", &arguments)?;
    if required {
        main.limits = true;
        main.key_required_place.get_or_insert_with(|| place(cf));
        need_zone(main, cf, "pincer_key_required");
    }
    once(&mut location.key_required, required.then(|| place(cf).into()), "pincer_key_required")
});

pub(crate) unsafe extern "C" fn class(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of `http {}`.
        let main = unsafe { main(conf) };
        main.needs_zone.get_or_insert_with(|| ("pincer_class", place(cf)));
        let parsed = class_args::parse(&arguments(cf))?;
        if main.classes.iter().any(|class| class.name == parsed.name) {
            return Err(DirectiveError(format!("\"pincer_class\" \"{}\" is duplicate, one is needed", parsed.name)));
        }
        main.classes.push(parsed);
        main.classes_place = place(cf);
        Ok(())
    })
}

/// Compiles text with variables.
fn compile(
    cf: *mut ngx_conf_t,
    directive: &str,
    key: &str,
    source: &str,
) -> Result<&'static nginx_sys::ngx_http_complex_value_t, DirectiveError> {
    let out_of_memory = || DirectiveError("memory is out".to_owned());
    let mut value = text_of_conf(cf, source.as_bytes()).ok_or_else(out_of_memory)?;
    // SAFETY: `cf` is live; the value and the copied source live in the configuration's pool, as long as the configuration.
    unsafe {
        let compiled = nginx_sys::ngx_pcalloc((*cf).pool, size_of::<nginx_sys::ngx_http_complex_value_t>())
            .cast::<nginx_sys::ngx_http_complex_value_t>();
        if compiled.is_null() {
            return Err(out_of_memory());
        }
        let mut compile: nginx_sys::ngx_http_compile_complex_value_t = std::mem::zeroed();
        compile.cf = cf;
        compile.value = &raw mut value;
        compile.complex_value = compiled;
        if nginx_sys::ngx_http_compile_complex_value(&raw mut compile) != nginx::OK {
            return Err(DirectiveError::invalid(directive, key, source, "a known variable"));
        }
        Ok(&*compiled)
    }
}

pub(crate) unsafe extern "C" fn status(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    page(cf, conf, "pincer_status", status_page::status_handler)
}

pub(crate) unsafe extern "C" fn metrics(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    page(cf, conf, "pincer_metrics", status_page::metrics_handler)
}

fn page(
    cf: *mut ngx_conf_t,
    conf: *mut c_void,
    directive: &'static str,
    handler: unsafe extern "C" fn(*mut nginx_sys::ngx_http_request_t) -> nginx_sys::ngx_int_t,
) -> *mut c_char {
    report(cf, || {
        // SAFETY: a directive of a location, with what `location::create` made; the context's
        // `loc_conf` has a slot for the core module.
        unsafe {
            location::being_read(conf).is_page = true;
            main_conf_of(cf).needs_zone.get_or_insert_with(|| (directive, place(cf)));
            let context = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
            let index = nginx_sys::ngx_http_core_module.ctx_index;
            let location = (*(*context).loc_conf.add(index)).cast::<nginx_sys::ngx_http_core_loc_conf_t>();
            (*location).handler = Some(handler);
        }
        Ok(())
    })
}
