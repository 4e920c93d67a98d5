//! The event loop's side of the control plane.

pub(crate) mod conf;
mod hello;
pub(crate) mod part;
mod restore;
pub(crate) mod running;

use crate::conf::{ConfError, control};
use crate::ffi::base::directive::{arguments, full_path, once, place};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::module;
use crate::ffi::zone;
use crate::ffi::zone::conf::needed_by;
use crate::ffi::zone::part::WorkerPart;
use conf::{FeedModule, Main};
use nginx_sys::{NGX_CONF_1MORE, NGX_CONF_TAKE1, ngx_conf_t, ngx_cycle_t};
use ngx::core::{CoreModuleMainConf as _, NgxCoreModule};
use ngx::http::HttpModuleMainConf as _;
use pincer_core::zone::WorkerIdx;

module::module!(
    FeedModule,
    c"ngx_http_pincer_feed_module",
    (Main, (), ()),
    [
        in_http(c"pincer_control_plane", NGX_CONF_1MORE, control_plane),
        in_http(c"pincer_control_plane_certificate", NGX_CONF_TAKE1, certificate),
        in_http(c"pincer_control_plane_certificate_key", NGX_CONF_TAKE1, certificate_key),
        in_http(c"pincer_control_plane_trusted_certificate", NGX_CONF_TAKE1, trusted_certificate),
        in_http(c"pincer_control_plane_name", NGX_CONF_TAKE1, control_plane_name),
        in_http(c"pincer_allow_peers", NGX_CONF_1MORE, allow_peers),
    ]
);

impl Feature for FeedModule {
    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        let (main, memory) = unsafe { (FeedModule::main_read(cf), zone::conf::ZoneModule::main_read(cf)) };
        let _ = main.memory.set(memory);
        zone::conf::register_worker(cf, main);
        conf::read_certificates(main)
    }

    fn in_force(cycle: *mut ngx_cycle_t) {
        // SAFETY: nginx passes the new cycle, whose configuration has been read.
        let cycle = unsafe { &*cycle };
        let (main, core) = (FeedModule::main_conf(cycle), NgxCoreModule::main_conf(cycle));
        if let (Some(main), Some(core)) = (main, core) {
            restore::restore(main, (core.user, core.group));
        }
    }
}

impl WorkerPart for Main {
    fn joined(&'static self, _: WorkerIdx) {
        // SAFETY: set by nginx before `init_process`.
        if unsafe { nginx_sys::ngx_worker } == 0 {
            running::start(self);
        }
    }

    fn each_second(&'static self) {
        running::report();
    }

    fn leaving(&'static self) {
        running::stop();
    }
}

fn control_plane(cf: *mut ngx_conf_t, main: &mut Main) -> Result<(), ConfError> {
    needed_by(cf, "pincer_control_plane");
    main.place = place(cf);
    once(&mut main.control_plane, control::parse_control_plane(&arguments(cf))?, "pincer_control_plane")
}

fn allow_peers(cf: *mut ngx_conf_t, main: &mut Main) -> Result<(), ConfError> {
    needed_by(cf, "pincer_allow_peers");
    main.allow_peers.extend(control::parse_allow_peers(&arguments(cf))?);
    Ok(())
}

/// The setters of the certificates' paths, which differ in their name and field only.
macro_rules! file_setter {
    ($name:ident, $directive:literal, $field:ident) => {
        fn $name(cf: *mut ngx_conf_t, main: &mut Main) -> Result<(), ConfError> {
            let argument = arguments(cf);
            let path = full_path(cf, $directive, argument.first().copied().unwrap_or_default(), true)?;
            once(&mut main.files.$field, path, $directive)
        }
    };
}

file_setter!(certificate, "pincer_control_plane_certificate", certificate);
file_setter!(certificate_key, "pincer_control_plane_certificate_key", certificate_key);
file_setter!(trusted_certificate, "pincer_control_plane_trusted_certificate", trusted_certificate);

fn control_plane_name(cf: *mut ngx_conf_t, main: &mut Main) -> Result<(), ConfError> {
    let argument = arguments(cf);
    let name = crate::conf::args::text("pincer_control_plane_name", argument.first().copied().unwrap_or_default())?;
    once(&mut main.files.name, name.to_owned(), "pincer_control_plane_name")
}
