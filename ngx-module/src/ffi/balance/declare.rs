//! The balancer at configuration time: takes an upstream over, and copies its `server` lines and
//! the parameters of `pincer_balance`.
//!
//! Round robin is initialised below, because it checks the upstream and is what serves a request
//! when something of ours fails.

use super::balancer::{abandon, init_peer};
use super::queue;
use super::upstream::{DeclaredPeer, Main, UpstreamConf, of_upstream};
use crate::conf::{ConfError, Problem};
use crate::ffi::base::guard::guard;
use crate::ffi::base::{bits, clock, event, log, nginx};
use crate::ffi::feed;
use crate::ffi::zone::part::{Counts, Part};
use crate::ffi::zone::slab::Slab;
use nginx_sys::{
    NGX_HTTP_UPSTREAM_BACKUP, NGX_HTTP_UPSTREAM_CREATE, NGX_HTTP_UPSTREAM_DOWN, NGX_HTTP_UPSTREAM_FAIL_TIMEOUT,
    NGX_HTTP_UPSTREAM_MAX_CONNS, NGX_HTTP_UPSTREAM_MAX_FAILS, NGX_HTTP_UPSTREAM_WEIGHT, ngx_addr_t, ngx_conf_t,
    ngx_http_upstream_server_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_uint_t,
};
use ngx::http::{HttpModuleMainConf as _, NgxHttpUpstreamModule};
use pincer_core::estimate::HALF_LIFE_NS;
use pincer_core::pick::THETA;
use pincer_core::time::MILLISECOND_NS;
use pincer_core::zone::{BalanceParams, PeerSpec, Settings, Zone, check_declared};
use pincer_proto::v1;
use std::ffi::c_void;
use std::ptr::NonNull;

/// nginx's defaults of `max_fails` and `fail_timeout`: a `server` line that says neither leaves the
/// breaker its own rule.
const MAX_FAILS_DEFAULT: usize = 1;
const FAIL_TIMEOUT_S_DEFAULT: i64 = 10;

/// Whose errors these are.
const DIRECTIVE: &str = "pincer_balance";

/// Makes Pincer the balancer of the upstream that is being read.
pub(crate) fn capture(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
    // SAFETY: inside `upstream {}` the context's `srv_conf` has the upstream module's configuration
    // of it.
    let upstream = unsafe {
        let context = (*cf).ctx.cast::<nginx_sys::ngx_http_conf_ctx_t>();
        let index = nginx_sys::ngx_http_upstream_module.ctx_index;
        &mut *(*(*context).srv_conf.add(index)).cast::<ngx_http_upstream_srv_conf_t>()
    };
    if upstream.peer.init_upstream.is_some() {
        return Err(ConfError::new(DIRECTIVE, Problem::NotFirst));
    }
    upstream.peer.init_upstream = Some(init_upstream);
    let flags = NGX_HTTP_UPSTREAM_CREATE
        | NGX_HTTP_UPSTREAM_WEIGHT
        | NGX_HTTP_UPSTREAM_MAX_CONNS
        | NGX_HTTP_UPSTREAM_MAX_FAILS
        | NGX_HTTP_UPSTREAM_FAIL_TIMEOUT
        | NGX_HTTP_UPSTREAM_DOWN
        | NGX_HTTP_UPSTREAM_BACKUP;
    upstream.flags = flags as ngx_uint_t;
    Ok(())
}

/// Copies the `server` lines and the parameters.
unsafe extern "C" fn init_upstream(cf: *mut ngx_conf_t, upstream: *mut ngx_http_upstream_srv_conf_t) -> ngx_int_t {
    guard("init_upstream", nginx::ERROR, || {
        // SAFETY: nginx passes the configuration and the upstream it belongs to; round robin's own
        // initialisation comes first and replaces `peer.init`, which is set again below.
        unsafe {
            if nginx_sys::ngx_http_upstream_init_round_robin(cf, upstream) != nginx::OK {
                return nginx::ERROR;
            }
            let conf = of_upstream(upstream);
            conf.name.replace(nginx::bytes((*upstream).host).to_vec());
            conf.host.set(NonNull::new(&raw mut (*upstream).host));
            conf.peers.replace(declared_peers(upstream));
            let _ = conf.params.set(params(conf));
            conf.give_back.set(Some(give_back));
            conf.local.serve_by(
                std::ptr::from_ref(conf).cast_mut().cast(),
                event::handler::<queue::Drain>,
                event::handler::<queue::Tick>,
            );
            conf.initialised.set(true);
            (*upstream).peer.init = Some(init_peer);
        }
        nginx::OK
    })
}

/// # Safety
/// `state` is a live record.
unsafe fn give_back(state: *mut c_void) {
    // SAFETY: as the caller vouches.
    unsafe { abandon(state.cast()) };
}

/// # Safety
/// `upstream` is live, its addresses resolved.
unsafe fn declared_peers(upstream: *const ngx_http_upstream_srv_conf_t) -> Vec<DeclaredPeer> {
    let mut peers = Vec::new();
    // SAFETY: nginx's own array of `server` lines.
    let servers: &[ngx_http_upstream_server_t] = unsafe { nginx::elements((*upstream).servers) };
    for server in servers.iter().filter(|server| server.naddrs > 0) {
        // SAFETY: a line has `naddrs` addresses.
        let addresses = unsafe { std::slice::from_raw_parts(server.addrs, server.naddrs) };
        for address in addresses {
            // SAFETY: line and address are nginx's own, of a live upstream.
            add(&mut peers, unsafe { declared_peer(server, address) });
        }
    }
    peers
}

/// # Safety
/// `address` is one of the resolved addresses of `server`.
unsafe fn declared_peer(server: &ngx_http_upstream_server_t, address: &ngx_addr_t) -> DeclaredPeer {
    // SAFETY: as the caller vouches: the address's length is that of its bytes.
    let sockaddr = unsafe { std::slice::from_raw_parts(address.sockaddr.cast::<u8>(), address.socklen as usize) };
    // SAFETY: as the caller vouches.
    let (name, line) = unsafe { (nginx::bytes(address.name), nginx::bytes(server.name)) };
    DeclaredPeer {
        sockaddr: sockaddr.to_vec(),
        name: name.to_vec(),
        server: line.to_vec(),
        weight: clamp_u32(server.weight),
        max_conns: clamp_u32(server.max_conns),
        max_fails: clamp_u32(server.max_fails),
        fail_timeout_ms: u32::try_from(server.fail_timeout.saturating_mul(1_000)).unwrap_or(u32::MAX),
        max_fails_explicit: server.max_fails != MAX_FAILS_DEFAULT || server.fail_timeout != FAIL_TIMEOUT_S_DEFAULT,
        // SAFETY: a reference is to a live structure.
        backup: unsafe { bits::upstream_server::backup(server) != 0 },
        down: server.down != 0,
        lines: u32::from(server.down == 0),
    }
}

/// Adds an address. One that stands twice in an upstream is one peer: of the lines that are no
/// `backup`, or of those that are if all are, weights and slots are summed up, and it is `down` if
/// all of them are. A request may be sent to it once for each line, `backup` ones too.
fn add(peers: &mut Vec<DeclaredPeer>, peer: DeclaredPeer) {
    let Some(twin) = peers.iter_mut().find(|twin| twin.sockaddr == peer.sockaddr) else { return peers.push(peer) };
    let name = String::from_utf8_lossy(&peer.name).into_owned();
    log::write_cycle(
        log::NGX_LOG_WARN,
        &format!("takes an address that stands twice in an upstream as one peer, address={name}"),
    );
    let lines = twin.lines.saturating_add(peer.lines);
    match (twin.backup, peer.backup) {
        (false, true) => return twin.lines = lines,
        (true, false) => return *twin = DeclaredPeer { lines, ..peer },
        _ => {}
    }
    twin.lines = lines;
    twin.weight = twin.weight.saturating_add(peer.weight);
    let unlimited = twin.max_conns == 0 || peer.max_conns == 0;
    twin.max_conns = if unlimited { 0 } else { twin.max_conns.saturating_add(peer.max_conns) };
    twin.down &= peer.down;
}

fn clamp_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn params(conf: &UpstreamConf) -> BalanceParams {
    let balance = conf.balance.clone().unwrap_or_default();
    BalanceParams {
        signal: balance.signal.unwrap_or_default(),
        half_life_ns: balance.half_life_ms.map_or(HALF_LIFE_NS, |ms| ms.saturating_mul(MILLISECOND_NS)),
        slow_start_ns: balance.slow_start_ms.unwrap_or(0).saturating_mul(MILLISECOND_NS),
        theta: THETA,
    }
}

/// What only shows once the whole upstream is read.
pub(crate) fn check(conf: &UpstreamConf) -> Result<(), ConfError> {
    let peers = conf.peers.borrow();
    let specs: Vec<PeerSpec<'_>> = peers.iter().map(DeclaredPeer::spec).collect();
    check_declared(&conf.name.borrow(), &specs).map_err(|error| at_place(conf, Problem::Zone(error)))?;
    let has_odd_name = |name: &str| name.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control());
    if std::str::from_utf8(&conf.name.borrow()).is_ok_and(has_odd_name) {
        return Err(at_place(conf, Problem::UpstreamName));
    }
    let slots = peers.iter().any(|peer| peer.max_conns > 0);
    if conf.queue.is_some() && !slots {
        log::write_cycle(
            log::NGX_LOG_WARN,
            &format!("\"pincer_queue\" has no effect until a server has \"max_conns\", {}", conf.place.borrow()),
        );
    }
    Ok(())
}

/// Finds the upstreams that balance with Pincer, and those that only seem to.
pub(super) fn collect_upstreams(cf: *mut ngx_conf_t, main: &Main) -> Result<(), ConfError> {
    // SAFETY: nginx calls with a live `ngx_conf_t` inside `http {}`.
    let Some(all) = NgxHttpUpstreamModule::main_conf(unsafe { &*cf }) else { return Ok(()) };
    // SAFETY: the array holds pointers to live configurations.
    let upstreams: &[*mut ngx_http_upstream_srv_conf_t] = unsafe { nginx::elements(&raw const all.upstreams) };
    let mut found = main.upstreams.borrow_mut();
    for &upstream in upstreams {
        // SAFETY: elements of nginx's own array; `srv_conf` is null for the implicit upstreams of
        // `proxy_pass http://address`.
        if unsafe { (*upstream).srv_conf.is_null() } {
            continue;
        }
        // SAFETY: `srv_conf` is there.
        let conf = unsafe { of_upstream(upstream) };
        if conf.balance.is_none() {
            if conf.queue.is_some() {
                let need = "\"pincer_balance\" in the same upstream";
                return Err(ConfError::at("pincer_queue", Problem::Needs { need }, &conf.place.borrow()));
            }
            continue;
        }
        if !conf.initialised.get() {
            return Err(at_place(conf, Problem::Replaced));
        }
        check(conf)?;
        found.push(conf);
    }
    Ok(())
}

impl Part for Main {
    fn declared(&self) -> Counts {
        let upstreams = self.upstreams.borrow();
        let peers = upstreams.iter().map(|upstream| upstream.peers.borrow().len()).sum();
        Counts { upstreams: upstreams.len(), peers, ..Counts::default() }
    }

    fn missing(&self, zone: &Zone<'_>) -> Counts {
        let (mut upstreams, mut peers) = (0, 0);
        for &upstream in self.upstreams.borrow().iter() {
            let index = zone.upstream_find(&upstream.name.borrow());
            upstreams += usize::from(index.is_none());
            let declared = upstream.peers.borrow();
            let is_fresh =
                |peer: &&DeclaredPeer| index.is_none_or(|index| zone.peer_find(index, &peer.sockaddr).is_none());
            peers += declared.iter().filter(is_fresh).count();
        }
        Counts { upstreams, peers, ..Counts::default() }
    }

    fn reserve(&self, zone: &'static Zone<'static>, slab: Slab) -> Result<(), ConfError> {
        for &upstream in self.upstreams.borrow().iter() {
            let index = slab.locked(|| zone.upstream_reserve(&upstream.name.borrow()));
            upstream.index.set(Some(index.map_err(|error| at_place(upstream, Problem::Zone(error)))?));
            upstream.zone.set(Some(zone));
        }
        Ok(())
    }

    fn configure(&self, zone: &'static Zone<'static>, slab: Slab) -> Result<(), ConfError> {
        for &upstream in self.upstreams.borrow().iter() {
            let Some(index) = upstream.index.get() else { continue };
            let declared = upstream.peers.borrow();
            let specs: Vec<PeerSpec<'_>> = declared.iter().map(DeclaredPeer::spec).collect();
            let settings =
                Settings { queue_size: upstream.queue.map_or(0, |queue| queue.size), signal: upstream.params().signal };
            slab.locked(|| zone.upstream_configure(index, &settings, &specs, clock::now()))
                .map_err(|error| at_place(upstream, Problem::Zone(error)))?;
        }
        Ok(())
    }
}

fn at_place(upstream: &UpstreamConf, problem: Problem) -> ConfError {
    ConfError::at(DIRECTIVE, problem, &upstream.place.borrow())
}

impl feed::part::Part for Main {
    fn declare(&self, hello: &mut v1::Hello) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let peer = |peer: &DeclaredPeer| v1::DeclaredPeer {
            address: text(&peer.name),
            server: text(&peer.server),
            weight: peer.weight,
            max_conns: peer.max_conns,
            backup: peer.backup,
            down: peer.down,
        };
        let upstream = |upstream: &&UpstreamConf| v1::DeclaredUpstream {
            name: text(&upstream.name.borrow()),
            peers: upstream.peers.borrow().iter().map(peer).collect(),
        };
        hello.upstreams.extend(self.upstreams.borrow().iter().map(upstream));
    }
}
