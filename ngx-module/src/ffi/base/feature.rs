//! What a feature is: an nginx module. The only place where nginx's module structures are filled.
//!
//! nginx calls a module while it reads its configuration, when a configuration comes into force,
//! and at the begin and end of a process. Each of these calls enters here, once for all features,
//! inside the guard; a feature says in [`Feature`] what is to be done.

use super::guard::guard;
use super::location::Location;
use super::log;
use super::pool::pool_box;
use super::statics::NginxStatic;
use super::status::{ERROR, OK};
use super::variable::{self, Variable};
use crate::conf::ConfError;
use nginx_sys::{
    NGX_HTTP_MODULE, NGX_PROCESS_SINGLE, NGX_PROCESS_WORKER, ngx_command_t, ngx_conf_t, ngx_cycle_t,
    ngx_http_conf_ctx_t, ngx_http_module_t, ngx_http_request_t, ngx_int_t, ngx_module_t, ngx_uint_t,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf, HttpModuleServerConf};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// A configuration of `http {}`, a server or a location, of which the inner ones inherit.
pub(crate) trait Inherit: Default + 'static {
    /// Takes over what `parent` says and this level leaves open. Runs after nginx's own modules
    /// have done the same for the place, since a dynamic module comes last; so what they decided is
    /// final.
    fn merge(&mut self, _cf: *mut ngx_conf_t, _parent: &Self, _location: &Location) -> Result<(), ConfError> {
        Ok(())
    }
}

impl Inherit for () {}

/// A feature of the module, with the types of its configurations in `http {}`, in an `upstream {}`
/// (nginx makes one for each server, too) and in a location. A configuration of no size is never
/// made: the accessors of `ngx` find none.
pub(crate) trait Feature:
    HttpModuleMainConf<MainConf: Default + 'static>
    + HttpModuleServerConf<ServerConf: Default + 'static>
    + HttpModuleLocationConf<LocationConf: Inherit>
    + Sized
    + 'static
{
    const VARIABLES: &'static [Variable] = &[];

    /// All of `http {}` has been read: checks it, and puts handlers and filters into their places.
    fn configured(_cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        Ok(())
    }

    /// In the master, when a configuration comes into force; never for `nginx -t`.
    fn in_force(_cycle: *mut ngx_cycle_t) {}

    /// In each worker that nginx forks; cache manager and loader stay out.
    fn worker_begins(_cycle: *mut ngx_cycle_t) {}

    /// At a process's end.
    fn worker_ends() {}

    /// The feature's index among the http modules: set when nginx reads `http {}`, and nothing asks
    /// earlier.
    fn index() -> usize {
        Self::module().ctx_index
    }

    /// The `http {}` configuration that is being read.
    ///
    /// # Safety
    /// `cf` is live and inside `http {}`; nobody else holds a reference into the configuration, as
    /// reading it is single-threaded and callers end the reference before they return to nginx.
    unsafe fn main_being_read<'a>(cf: *const ngx_conf_t) -> &'a mut Self::MainConf {
        // SAFETY: inside `http {}` the context is an `ngx_http_conf_ctx_t` with a slot for every
        // http module.
        unsafe {
            let context = (*cf).ctx.cast::<ngx_http_conf_ctx_t>();
            being_read(*(*context).main_conf.add(Self::index()))
        }
    }

    /// The `http {}` configuration that has just been read: nothing changes it from here on but
    /// through cells.
    ///
    /// # Safety
    /// As [`Feature::main_being_read`]; the reference lasts as long as the configuration.
    unsafe fn main_read(cf: *const ngx_conf_t) -> &'static Self::MainConf {
        // SAFETY: as the caller vouches.
        unsafe { Self::main_being_read(cf) }
    }

    /// The configuration of the location that is being read.
    ///
    /// # Safety
    /// As [`Feature::main_being_read`].
    unsafe fn location_being_read<'a>(cf: *const ngx_conf_t) -> &'a mut Self::LocationConf {
        // SAFETY: inside `http {}` the context is an `ngx_http_conf_ctx_t` with a slot for every
        // http module.
        unsafe {
            let context = (*cf).ctx.cast::<ngx_http_conf_ctx_t>();
            being_read(*(*context).loc_conf.add(Self::index()))
        }
    }

    /// The feature's context of `request`.
    ///
    /// # Safety
    /// `request` is live.
    unsafe fn request_ctx(request: *const ngx_http_request_t) -> *mut c_void {
        // SAFETY: `ctx` has a slot for every http module.
        unsafe { *(*request).ctx.add(Self::index()) }
    }

    /// Stores the feature's context of `request`.
    ///
    /// # Safety
    /// `request` is live.
    unsafe fn set_request_ctx(request: *mut ngx_http_request_t, ctx: *mut c_void) {
        // SAFETY: `ctx` has a slot for every http module.
        unsafe { *(*request).ctx.add(Self::index()) = ctx };
    }
}

/// What `create` made, while the configuration is read.
///
/// # Safety
/// `conf` is what `create::<T>` made, and nobody else has a reference to it.
pub(super) unsafe fn being_read<'a, T>(conf: *mut c_void) -> &'a mut T {
    // SAFETY: as the caller vouches; what has no size is nowhere.
    unsafe { if size_of::<T>() == 0 { NonNull::dangling().as_mut() } else { &mut *conf.cast::<T>() } }
}

/// The module's context among nginx's http modules.
pub(crate) const fn context<F: Feature>() -> ngx_http_module_t {
    ngx_http_module_t {
        preconfiguration: Some(variables::<F>),
        postconfiguration: Some(configured::<F>),
        create_main_conf: if size_of::<F::MainConf>() > 0 { Some(create::<F::MainConf>) } else { None },
        init_main_conf: None,
        create_srv_conf: if size_of::<F::ServerConf>() > 0 { Some(create::<F::ServerConf>) } else { None },
        merge_srv_conf: None,
        create_loc_conf: if size_of::<F::LocationConf>() > 0 { Some(create::<F::LocationConf>) } else { None },
        merge_loc_conf: if size_of::<F::LocationConf>() > 0 { Some(merge::<F::LocationConf>) } else { None },
    }
}

/// The module with its context and directives. nginx writes name and indexes when it loads it.
pub(crate) const fn module<F: Feature>(
    context: &'static NginxStatic<ngx_http_module_t>,
    directives: *mut ngx_command_t,
) -> ngx_module_t {
    ngx_module_t {
        ctx: context.get().cast(),
        commands: directives,
        type_: NGX_HTTP_MODULE as ngx_uint_t,
        init_module: Some(in_force::<F>),
        init_process: Some(worker_begins::<F>),
        exit_process: Some(worker_ends::<F>),
        ..ngx_module_t::default()
    }
}

unsafe extern "C" fn create<T: Default>(cf: *mut ngx_conf_t) -> *mut c_void {
    guard("creating a configuration", std::ptr::null_mut(), || {
        // SAFETY: nginx passes a live `ngx_conf_t`, whose pool lives as long as the configuration.
        unsafe { pool_box((*cf).pool, T::default()) }.cast()
    })
}

unsafe extern "C" fn merge<T: Inherit>(cf: *mut ngx_conf_t, parent: *mut c_void, child: *mut c_void) -> *mut c_char {
    guard("merging locations", NGX_CONF_ERROR, || {
        // SAFETY: nginx passes two values that `create` made, one thread reads the configuration,
        // and they are different values.
        let (parent, child) = unsafe { (&*parent.cast::<T>(), &mut *child.cast::<T>()) };
        // SAFETY: while nginx merges a location, the context is that location's.
        let location = unsafe { Location::of(cf) };
        match child.merge(cf, parent, &location) {
            Ok(()) => NGX_CONF_OK,
            Err(message) => {
                report(cf, &message);
                NGX_CONF_ERROR
            }
        }
    })
}

/// Registers the variables, before nginx reads `http {}`.
unsafe extern "C" fn variables<F: Feature>(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard("preconfiguration", ERROR, || {
        if F::VARIABLES.iter().all(|variable| variable::add(cf, variable)) { OK } else { ERROR }
    })
}

unsafe extern "C" fn configured<F: Feature>(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard("postconfiguration", ERROR, || match F::configured(cf) {
        Ok(()) => OK,
        Err(error) => {
            report(cf, &error);
            ERROR
        }
    })
}

/// An error that names its place: what nginx would add is where the file ends.
fn report(cf: *mut ngx_conf_t, error: &ConfError) {
    // SAFETY: nginx passes a live `ngx_conf_t`, which has a log.
    log::write(unsafe { (*cf).log }, log::NGX_LOG_EMERG, &error.to_string());
}

unsafe extern "C" fn in_force<F: Feature>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard("init_module", (), || {
        // SAFETY: nginx passes the new cycle, single-threaded; `ngx_test_config` is set once at
        // start.
        let (log, testing) = unsafe { ((*cycle).log, nginx_sys::ngx_test_config != 0) };
        if !testing {
            log::with_log(log, || F::in_force(cycle));
        }
    });
    OK
}

unsafe extern "C" fn worker_begins<F: Feature>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard("init_process", (), || {
        // SAFETY: nginx sets the process's kind before it calls.
        let kind = unsafe { nginx_sys::ngx_process };
        if kind == NGX_PROCESS_WORKER as ngx_uint_t || kind == NGX_PROCESS_SINGLE as ngx_uint_t {
            F::worker_begins(cycle);
        }
    });
    OK
}

unsafe extern "C" fn worker_ends<F: Feature>(_: *mut ngx_cycle_t) {
    guard("exit_process", (), F::worker_ends);
}
