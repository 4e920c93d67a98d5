//! Who we are, and what nginx.conf declares, as the control plane hears of it.

use super::conf::Main;
use crate::conf::control::ControlPlaneArgs;
use crate::ffi::base::nginx;
use ngx::core::{CoreModuleMainConf as _, NgxCoreModule};
use pincer_proto::v1::{DeclaredUpstream, Hello};

/// Who we are, and what nginx.conf declares.
pub(super) fn hello(main: &Main, plane: &ControlPlaneArgs, instance_id: String) -> Hello {
    Hello {
        node: plane.node.clone().unwrap_or_else(host_name),
        instance_id,
        module_version: env!("CARGO_PKG_VERSION").to_owned(),
        nginx_version: text(nginx_sys::NGINX_VERSION.to_bytes()),
        worker_processes: worker_processes(),
        ..declared(main)
    }
}

/// The upstreams of nginx.conf, with their peers.
pub(super) fn upstreams(main: &Main) -> Vec<DeclaredUpstream> {
    declared(main).upstreams
}

fn declared(main: &Main) -> Hello {
    let mut hello = Hello::default();
    for part in main.parts.borrow().iter() {
        part.declare(&mut hello);
    }
    hello
}

/// What stands outside of every block of nginx.conf.
pub(super) fn core_conf() -> Option<&'static nginx_sys::ngx_core_conf_t> {
    // SAFETY: a worker's cycle is complete, and lives as long as the worker.
    NgxCoreModule::main_conf(unsafe { &*nginx_sys::ngx_cycle })
}

fn worker_processes() -> u32 {
    core_conf().and_then(|core| u32::try_from(core.worker_processes).ok()).unwrap_or(1)
}

fn host_name() -> String {
    // SAFETY: the cycle holds the host's name since its start.
    let name = unsafe { nginx::bytes((*nginx_sys::ngx_cycle).hostname) };
    text(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
