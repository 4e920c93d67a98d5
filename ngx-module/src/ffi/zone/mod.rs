//! The shared memory, the life of a worker in it, and how workers wake each other.

pub(crate) mod conf;
mod memory;
pub(crate) mod part;
pub(crate) mod slab;
pub(crate) mod wake;
pub(crate) mod worker;

use crate::conf::{ConfError, Problem, zone as zone_args};
use crate::ffi::base::directive::{arguments, full_path, once, place};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::module;
use conf::{Main, ZoneModule};
use nginx_sys::{NGX_CONF_1MORE, ngx_conf_t, ngx_cycle_t};

module::module!(
    ZoneModule,
    c"ngx_http_pincer_zone_module",
    (Main, (), ()),
    [in_http(c"pincer_zone", NGX_CONF_1MORE, zone)]
);

impl Feature for ZoneModule {
    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        let main = unsafe { ZoneModule::main_read(cf) };
        match (&main.args, &main.needed_by) {
            (None, Some((directive, place))) => {
                let need = "a zone, \"pincer_zone NAME:SIZE\" in http is missing";
                return Err(ConfError::at(directive, Problem::Needs { need }, place));
            }
            (None, None) => return Ok(()),
            (Some(_), _) => memory::declare(cf, main)?,
        }
        if let Some(path) = main.state_path.as_ref().filter(|path| path.is_dir()) {
            return Err(main.conf_error(Problem::StateIsFolder { path: path.clone() }));
        }
        Ok(())
    }

    fn in_force(cycle: *mut ngx_cycle_t) {
        worker::in_force(cycle);
    }

    fn worker_begins(cycle: *mut ngx_cycle_t) {
        worker::worker_begins(cycle);
    }

    fn worker_ends() {
        worker::worker_ends();
    }
}

fn zone(cf: *mut ngx_conf_t, main: &mut Main) -> Result<(), ConfError> {
    let parsed = zone_args::parse(&arguments(cf))?;
    if let Some(state) = &parsed.state {
        main.state_path = Some(full_path(cf, "pincer_zone", state.as_bytes(), false)?);
    }
    main.place = place(cf);
    once(&mut main.args, parsed, "pincer_zone")
}
