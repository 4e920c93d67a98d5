//! An upstream that Pincer balances: what nginx.conf says of it, and what this worker keeps for it.

use super::address::Addresses;
use super::sessions::Sessions;
use super::waiters::LocalQueue;
use crate::conf::ConfError;
use crate::conf::balance::{BalanceArgs, QueueArgs};
use crate::ffi::base::feature::{Feature, Inherit};
use crate::ffi::base::location::Location as NginxLocation;
use crate::ffi::base::{clock, nginx};
use nginx_sys::{
    ngx_conf_t, ngx_http_complex_value_t, ngx_http_request_t, ngx_http_upstream_srv_conf_t, ngx_int_t,
    ngx_peer_connection_t, ngx_str_t,
};
use pincer_core::zone::{BalanceParams, PeerSpec, Plan, UpstreamIdx, Zone};
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::LazyLock;

/// Balancing.
pub(crate) struct BalanceModule;

#[derive(Default)]
pub(crate) struct Main {
    /// Every upstream with `pincer_balance`; they live as long as this does.
    pub(crate) upstreams: RefCell<Vec<&'static UpstreamConf>>,
}

/// What a location says of balancing.
#[derive(Default)]
pub(crate) struct Location {
    /// `pincer_slot`: whether requests take a slot of their peer, unless it is unset.
    pub(crate) slot: Option<bool>,
}

impl Inherit for Location {
    fn merge(&mut self, _: *mut ngx_conf_t, parent: &Self, _: &NginxLocation) -> Result<(), ConfError> {
        self.slot = self.slot.or(parent.slot);
        Ok(())
    }
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
    /// Takes back what a request, the pointer is to its record, still holds at its end.
    pub(crate) give_back: Cell<Option<unsafe fn(*mut c_void)>>,
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

/// The upstream's configuration of this module.
///
/// # Safety
/// `upstream` is a live `upstream {}`'s configuration. The reference lasts as long as that
/// configuration; callers keep it no longer.
pub(crate) unsafe fn of_upstream(upstream: *const ngx_http_upstream_srv_conf_t) -> &'static UpstreamConf {
    // SAFETY: as the caller vouches: `srv_conf` has a slot for every http module.
    unsafe { &*(*(*upstream).srv_conf.add(BalanceModule::index())).cast::<UpstreamConf>() }
}

/// No peer for the request: nginx shows the upstream's name instead, as it does for its own
/// balancers.
pub(crate) fn busy(pc: &mut ngx_peer_connection_t, conf: &UpstreamConf) -> ngx_int_t {
    if let Some(host) = conf.host.get() {
        pc.name = host.as_ptr();
    }
    nginx::BUSY
}

/// The hash of the affinity variable; 0 without one, or when it is empty.
///
/// # Safety
/// `r` is live.
pub(super) unsafe fn affinity(r: *mut ngx_http_request_t, conf: &UpstreamConf) -> u64 {
    let Some(compiled) = conf.affinity.get() else { return 0 };
    // SAFETY: `r` is live, `compiled` was compiled for this configuration.
    let value = unsafe { nginx::complex_value(r, compiled) }.unwrap_or_default();
    if value.is_empty() { 0 } else { xxhash_rust::xxh3::xxh3_64(value).max(1) }
}
