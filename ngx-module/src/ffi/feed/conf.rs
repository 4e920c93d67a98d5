//! What `pincer_control_plane` and its like say.

use super::part::Part;
use crate::conf::control::{Cidr, ControlPlaneArgs};
use crate::conf::{ConfError, Problem};
use crate::feed::TlsMaterial;
use crate::ffi::base::feature::Feature;
use crate::ffi::zone;
use nginx_sys::ngx_conf_t;
use pincer_core::zone::Zone;
use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;

/// Whose errors these are, but for those of a file.
const DIRECTIVE: &str = "pincer_control_plane";

/// The control plane.
pub(crate) struct FeedModule;

/// What `http {}` says of the control plane.
#[derive(Default)]
pub(crate) struct Main {
    pub(crate) control_plane: Option<ControlPlaneArgs>,
    /// Where `pincer_control_plane` stands.
    pub(super) place: String,
    pub(super) files: ControlPlaneFiles,
    pub(super) tls: OnceCell<TlsMaterial>,
    pub(super) allow_peers: Vec<Cidr>,
    /// The zone of the same configuration.
    pub(super) memory: OnceCell<&'static zone::conf::Main>,
    /// Of other features.
    pub(super) parts: RefCell<Vec<&'static dyn Part>>,
}

/// Paths of the certificates, as configured.
#[derive(Default)]
pub(crate) struct ControlPlaneFiles {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) certificate_key: Option<PathBuf>,
    pub(crate) trusted_certificate: Option<PathBuf>,
    pub(crate) name: Option<String>,
}

impl Main {
    /// The zone, once nginx has made it.
    pub(super) fn zone(&self) -> Option<&'static Zone<'static>> {
        self.memory.get()?.zone.get()
    }

    /// The number of this configuration in the zone.
    pub(super) fn generation(&self) -> u32 {
        self.memory.get().map_or(0, |memory| memory.generation.get())
    }
}

/// Has `part` take part in the talk with the control plane.
pub(crate) fn register(cf: *const ngx_conf_t, part: &'static dyn Part) {
    // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
    unsafe { FeedModule::main_read(cf) }.parts.borrow_mut().push(part);
}

/// Reads certificates and key now, in the master, which may; workers have dropped their rights.
pub(super) fn read_certificates(main: &Main) -> Result<(), ConfError> {
    let Some(control_plane) = &main.control_plane else {
        return Ok(());
    };
    if control_plane.plaintext {
        return Ok(());
    }
    let error = |problem| ConfError::at(DIRECTIVE, problem, &main.place);
    let read = |path: &Option<PathBuf>, directive| -> Result<Vec<u8>, ConfError> {
        let path = path.as_ref().ok_or_else(|| error(Problem::NoCertificate { directive }))?;
        let unusable = |problem| ConfError::at(directive, problem, &main.place);
        let pem = std::fs::read(path).map_err(|error| unusable(Problem::Unreadable { path: path.clone(), error }))?;
        let has_block = pem.windows(11).any(|window| window == b"-----BEGIN ");
        if has_block { Ok(pem) } else { Err(unusable(Problem::NoPem { path: path.clone() })) }
    };
    let tls = TlsMaterial {
        certificate_pem: read(&main.files.certificate, "pincer_control_plane_certificate")?,
        key_pem: read(&main.files.certificate_key, "pincer_control_plane_certificate_key")?,
        ca_pem: read(&main.files.trusted_certificate, "pincer_control_plane_trusted_certificate")?,
        server_name: main.files.name.clone(),
    };
    tls.check().map_err(|fault| error(fault.into()))?;
    let _ = main.tls.set(tls);
    Ok(())
}
