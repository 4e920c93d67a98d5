//! The module's configurations: one for `http {}`, one for each `upstream {}`. Both are Rust values that nginx's pools own.

use crate::conf::balance::{BalanceArgs, QueueArgs};
use crate::conf::class::ClassArgs;
use crate::conf::control::{Cidr, ControlPlaneArgs};
use crate::conf::zone::ZoneArgs;
use crate::feed::TlsMaterial;
use crate::ffi::balance::address::Addresses;
use crate::ffi::balance::session::Sessions;
use crate::ffi::balance::waiters::LocalQueue;
use crate::ffi::balance::{declare, first_byte};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::{clock, log, nginx};
use crate::ffi::body::filter;
use crate::ffi::cache::{passed, store, zones};
use crate::ffi::limit::hold;
use crate::ffi::zone::memory;
use nginx_sys::{
    ngx_conf_t, ngx_http_complex_value_t, ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_shm_zone_t, ngx_str_t,
};
use pincer_core::zone::{
    BalanceParams, ClassSpec, PeerSpec, Plan, UpstreamIdx, Zone, check_classes as zone_check_classes,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::LazyLock;

/// All of the module that is no feature of its own.
pub(crate) struct PincerModule;

/// What `http {}` says.
#[derive(Default)]
pub(crate) struct MainConf {
    pub(crate) zone_args: Option<ZoneArgs>,
    /// Where `pincer_zone` stands, for messages that come after it was read.
    pub(crate) zone_place: String,
    pub(crate) shm_zone: Cell<Option<&'static ngx_shm_zone_t>>,
    /// Mapped once nginx has made the shared memory.
    pub(crate) zone: Cell<Option<&'static Zone<'static>>>,
    /// The zone's random name.
    pub(crate) instance_id: RefCell<String>,
    /// The number of this configuration in the zone.
    pub(crate) generation: Cell<u32>,
    pub(crate) control_plane: Option<ControlPlaneArgs>,
    pub(crate) files: ControlPlaneFiles,
    pub(crate) tls: Option<TlsMaterial>,
    pub(crate) allow_peers: Vec<Cidr>,
    pub(crate) state_path: Option<PathBuf>,
    /// Every upstream with `pincer_balance`; they live as long as this does.
    pub(crate) upstreams: RefCell<Vec<&'static UpstreamConf>>,
    /// Locations that keep answers in one of nginx's caches.
    pub(crate) cache_places: Vec<zones::Place>,
    /// A directive that cannot work without a zone, for the message when there is none.
    pub(crate) needs_zone: Option<(&'static str, String)>,
    /// Where `pincer_control_plane` stands.
    pub(crate) control_plane_place: String,
    /// `pincer_class` lines.
    pub(crate) classes: Vec<ClassArgs>,
    /// Where the last of them stands.
    pub(crate) classes_place: String,
    /// Classes that `pincer_limit` lines name, and where.
    pub(crate) classes_named: Vec<(String, String)>,
    /// Some location limits requests or looks at API keys.
    pub(crate) limits: bool,
    /// Where the first `pincer_key` that names a variable stands.
    pub(crate) key_place: Option<String>,
    /// Where the first `pincer_key_required on` stands.
    pub(crate) key_required_place: Option<String>,
    /// Some location hashes request bodies.
    pub(crate) hashes_bodies: bool,
    /// The first location that hashes bodies and keeps answers to POST.
    pub(crate) keeps_hashed: Option<String>,
    /// Where nginx's proxy module keeps what it knows of a request.
    pub(crate) proxy: passed::ProxyPlace,
}

/// Paths of the certificates, as configured.
#[derive(Default)]
pub(crate) struct ControlPlaneFiles {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) certificate_key: Option<PathBuf>,
    pub(crate) trusted_certificate: Option<PathBuf>,
    pub(crate) name: Option<String>,
}

/// A `server` line's address.
pub(crate) struct DeclaredPeer {
    pub(crate) sockaddr: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) server: Vec<u8>,
    pub(crate) weight: u32,
    pub(crate) max_conns: u32,
    pub(crate) max_fails: u32,
    pub(crate) max_fails_explicit: bool,
    pub(crate) fail_timeout_ms: u32,
    pub(crate) backup: bool,
    pub(crate) down: bool,
    /// `server` lines that name it, without those that say `down`.
    pub(crate) lines: u32,
}

impl DeclaredPeer {
    /// As the core wants it.
    pub(crate) fn spec(&self) -> PeerSpec<'_> {
        PeerSpec {
            sockaddr: &self.sockaddr,
            name: &self.name,
            server: &self.server,
            weight: self.weight,
            max_conns: self.max_conns,
            max_fails: self.max_fails,
            max_fails_explicit: self.max_fails_explicit,
            fail_timeout_ms: self.fail_timeout_ms,
            backup: self.backup,
            down: self.down,
            lines: self.lines,
        }
    }
}

/// What an `upstream {}` says, and what this worker keeps for it.
#[derive(Default)]
pub(crate) struct UpstreamConf {
    pub(crate) balance: Option<BalanceArgs>,
    pub(crate) affinity: Cell<Option<&'static ngx_http_complex_value_t>>,
    pub(crate) queue: Option<QueueArgs>,
    pub(crate) name: RefCell<Vec<u8>>,
    /// The name as nginx keeps it: what it shows of a request that has no peer.
    pub(crate) host: Cell<Option<NonNull<ngx_str_t>>>,
    pub(crate) peers: RefCell<Vec<DeclaredPeer>>,
    pub(crate) params: OnceCell<BalanceParams>,
    pub(crate) index: Cell<Option<UpstreamIdx>>,
    /// Where the directive stands, for messages that come after it was read.
    pub(crate) place: RefCell<String>,
    pub(crate) zone: Cell<Option<&'static Zone<'static>>>,
    pub(crate) initialised: Cell<bool>,
    pub(crate) addresses: RefCell<Addresses>,
    /// Requests that came to this worker, from a random start: every hundredth may explore.
    pub(crate) requests: Cell<u64>,
    pub(crate) plan: RefCell<Plan<'static>>,
    pub(crate) local: LocalQueue,
    pub(crate) sessions: RefCell<Sessions>,
}

/// Before the upstream is initialised.
static UNSET: LazyLock<BalanceParams> = LazyLock::new(BalanceParams::default);

impl UpstreamConf {
    /// The balancer's parameters.
    pub(crate) fn params(&self) -> &BalanceParams {
        self.params.get().unwrap_or_else(|| &UNSET)
    }

    /// The next request's number.
    pub(crate) fn number(&self) -> u64 {
        let number = self.requests.get();
        let number = if number == 0 { clock::random() >> 1 } else { number + 1 };
        self.requests.set(number);
        number
    }
}

/// The `http {}` configuration of a request.
///
/// # Safety
/// `r` is live; the reference lasts as long as the worker runs this configuration.
pub(crate) unsafe fn of_request(r: *const ngx_http_request_t) -> Option<&'static MainConf> {
    // SAFETY: as the caller vouches: `main_conf` has a slot for every http module.
    unsafe { PincerModule::main(r) }
}

/// The upstream's configuration of this module.
///
/// # Safety
/// `upstream` is a live `upstream {}`'s configuration. The reference lasts as long as that configuration; callers keep it no longer.
pub(crate) unsafe fn of_upstream(upstream: *const ngx_http_upstream_srv_conf_t) -> &'static UpstreamConf {
    // SAFETY: `srv_conf` has a slot for every http module, filled by `create_srv_conf`.
    unsafe { &*(*(*upstream).srv_conf.add(PincerModule::index())).cast::<UpstreamConf>() }
}

/// Checks what can only be checked once all of `http {}` is read, and installs the header filters.
pub(crate) fn configured(cf: *mut ngx_conf_t) -> Result<(), String> {
    // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
    let main = unsafe { PincerModule::main_being_read(cf) };
    check(cf, main)?;
    first_byte::install();
    if !main.cache_places.is_empty() {
        store::install();
    }
    Ok(())
}

fn check(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), String> {
    collect_upstreams(cf, main)?;
    check_cache_keys(cf, main);
    match (&main.zone_args, &main.needs_zone) {
        (None, Some((directive, place))) => {
            return Err(format!("\"{directive}\" needs a zone, \"pincer_zone NAME:SIZE\" in http is missing {place}"));
        }
        (None, None) => return Ok(()),
        (Some(_), _) => memory::declare(cf, main).map_err(|message| format!("{message} {}", main.zone_place))?,
    }
    if let Some(path) = main.state_path.as_ref().filter(|path| path.is_dir()) {
        let need = "a file's path is needed";
        return Err(format!("\"pincer_zone\" state \"{}\" is a folder, {need} {}", path.display(), main.zone_place));
    }
    check_classes(main)?;
    check_keys(cf, main)?;
    if main.limits {
        hold::install(cf)?;
    }
    if main.hashes_bodies {
        filter::install(cf)?;
    }
    // SAFETY: nginx passes a live `ngx_conf_t`; its cycle's modules are known once directives are read.
    main.proxy = unsafe { passed::ProxyPlace::of((*cf).cycle) };
    read_certificates(main).map_err(|message| format!("{message} {}", main.control_plane_place))
}

/// Checks what only shows once all classes are read.
fn check_classes(main: &MainConf) -> Result<(), String> {
    for (name, place) in &main.classes_named {
        if main.classes.iter().all(|class| class.name != *name) {
            return Err(format!(
                "\"pincer_limit\" names the unknown class \"{name}\", \"pincer_class {name} …\" in http is needed {place}"
            ));
        }
    }
    let specs: Vec<ClassSpec<'_>> =
        main.classes.iter().map(|class| ClassSpec { name: class.name.as_bytes(), settings: class.settings }).collect();
    zone_check_classes(&specs).map_err(|error| format!("\"pincer_class\": {error} {}", main.classes_place))
}

/// Checks that a key which is asked for can be shown and be known.
fn check_keys(cf: *mut ngx_conf_t, main: &MainConf) -> Result<(), String> {
    if let (Some(place), None) = (&main.key_required_place, &main.key_place) {
        return Err(format!(
            "\"pincer_key_required\" is on and no \"pincer_key\" says where a key stands, \"pincer_key $http_authorization\" or the \
             like is needed {place}"
        ));
    }
    if let (Some(place), None) = (&main.key_place, &main.control_plane) {
        let message = format!(
            "\"pincer_key\" knows no key without the control plane that holds them, \"pincer_control_plane\" is needed {place}"
        );
        // SAFETY: nginx passes a live `ngx_conf_t`, which has a log.
        log::write(unsafe { (*cf).log }, log::NGX_LOG_WARN, &message);
    }
    Ok(())
}

/// Warns where answers to different bodies would share a key, or no two requests any.
fn check_cache_keys(cf: *mut ngx_conf_t, main: &MainConf) {
    let used = ["pincer_cache_key", "pincer_body_hash"].into_iter().find(|name| nginx::uses_variable(cf, name));
    let message = match (&main.keeps_hashed, used) {
        (Some(location), None) => format!(
            "\"pincer_body_hash\" is on in location \"{location}\", which keeps answers to POST, and nothing in the configuration uses \
             $pincer_cache_key: different bodies get one answer, \"proxy_cache_key $pincer_cache_key\" is needed"
        ),
        (_, Some(name)) if !main.hashes_bodies => format!(
            "${name} is used and \"pincer_body_hash\" is on nowhere: no two requests have the same, \"pincer_body_hash blake3\" is needed"
        ),
        _ => return,
    };
    // SAFETY: nginx passes a live `ngx_conf_t`, which has a log.
    log::write(unsafe { (*cf).log }, log::NGX_LOG_WARN, &message);
}

/// Finds the upstreams that balance with Pincer, and those that only seem to.
fn collect_upstreams(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), String> {
    // SAFETY: the upstream module's main configuration exists in every `http {}`, its array holds pointers to live configurations.
    let upstreams: &[*mut ngx_http_upstream_srv_conf_t] = unsafe {
        let context = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        let index = nginx_sys::ngx_http_upstream_module.ctx_index;
        let upstream_main = (*(*context).main_conf.add(index)).cast::<nginx_sys::ngx_http_upstream_main_conf_t>();
        nginx::elements(&raw const (*upstream_main).upstreams)
    };
    let mut found = main.upstreams.borrow_mut();
    for &upstream in upstreams {
        // SAFETY: elements of nginx's own array; `srv_conf` is null for the implicit upstreams of `proxy_pass http://address`.
        if unsafe { (*upstream).srv_conf.is_null() } {
            continue;
        }
        // SAFETY: `srv_conf` is there.
        let conf = unsafe { of_upstream(upstream) };
        if conf.balance.is_none() {
            if conf.queue.is_some() {
                return Err(format!(
                    "\"pincer_queue\" needs \"pincer_balance\" in the same upstream {}",
                    conf.place.borrow()
                ));
            }
            continue;
        }
        if !conf.initialised.get() {
            return Err(format!(
                "\"pincer_balance\" was replaced by another balancing method that stands after it, only one is allowed {}",
                conf.place.borrow()
            ));
        }
        declare::check(conf)?;
        found.push(conf);
    }
    Ok(())
}

/// Reads certificates and key now, in the master, which may; workers have dropped their rights.
fn read_certificates(main: &mut MainConf) -> Result<(), String> {
    let Some(control_plane) = &main.control_plane else {
        return Ok(());
    };
    if control_plane.plaintext {
        return Ok(());
    }
    let read = |path: &Option<PathBuf>, directive: &str| -> Result<Vec<u8>, String> {
        let path = path.as_ref().ok_or_else(|| {
            format!(
                "\"pincer_control_plane\" needs \"{directive}\" for its mutual TLS, or \"plaintext\" to a local address"
            )
        })?;
        let pem = std::fs::read(path)
            .map_err(|error| format!("\"{directive}\" file \"{}\" cannot be read: {error}", path.display()))?;
        if pem.windows(11).any(|window| window == b"-----BEGIN ") {
            Ok(pem)
        } else {
            Err(format!("\"{directive}\" file \"{}\" holds no PEM block, \"-----BEGIN …\" is needed", path.display()))
        }
    };
    let tls = TlsMaterial {
        certificate_pem: read(&main.files.certificate, "pincer_control_plane_certificate")?,
        key_pem: read(&main.files.certificate_key, "pincer_control_plane_certificate_key")?,
        ca_pem: read(&main.files.trusted_certificate, "pincer_control_plane_trusted_certificate")?,
        server_name: main.files.name.clone(),
    };
    tls.check().map_err(|reason| format!("\"pincer_control_plane\" {reason}"))?;
    main.tls = Some(tls);
    Ok(())
}
