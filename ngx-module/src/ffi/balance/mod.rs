//! Balancing: which peer a request goes to, the queue it may wait in, and what an attempt says of
//! its peer.

mod address;
mod attempts;
mod balancer;
mod breaker_log;
mod declare;
mod fingerprint;
mod first_byte;
mod grpc;
mod kick;
mod parking;
mod placeholder;
mod queue;
mod queue_end;
mod request;
mod session;
mod sessions;
mod terms;
mod tried;
mod unavailable;
mod upstream;
mod waiters;

use crate::conf::limit::parse_switch;
use crate::conf::{ConfError, balance as balance_args};
use crate::ffi::base::directive::{arguments, compile, once, place};
use crate::ffi::base::feature::Feature;
use crate::ffi::base::variable::{Variable, fill};
use crate::ffi::base::{filter, module};
use crate::ffi::zone::conf::needed_by;
use crate::ffi::zone::part::WorkerPart;
use crate::ffi::{feed, zone};
use crate::phase::times;
use attempts::{Attempt, ShownTime};
use nginx_sys::ngx_http_request_t;
use nginx_sys::ngx_http_variable_value_t;
use nginx_sys::ngx_int_t;
use nginx_sys::{NGX_CONF_1MORE, NGX_CONF_ANY, NGX_CONF_TAKE1, ngx_conf_t};
use pincer_core::zone::Zone;
use upstream::{BalanceModule, Location, Main, UpstreamConf};

module::module!(
    BalanceModule,
    c"ngx_http_pincer_balance_module",
    (Main, UpstreamConf, Location),
    [
        in_upstream(c"pincer_balance", NGX_CONF_ANY, balance),
        in_upstream(c"pincer_queue", NGX_CONF_1MORE, queue_of),
        in_location(c"pincer_slot", NGX_CONF_TAKE1, slot),
    ]
);

impl Feature for BalanceModule {
    const VARIABLES: &'static [Variable] = &[
        Variable::new("pincer_ttft", ttft),
        Variable::new("pincer_queue_time", queue_time),
        Variable::new("pincer_pick_reason", pick_reason),
    ];

    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        // SAFETY: nginx calls with the configuration it has just read, inside `http {}`.
        let main = unsafe { BalanceModule::main_read(cf) };
        declare::collect_upstreams(cf, main)?;
        zone::conf::register(cf, main);
        zone::conf::register_worker(cf, main);
        feed::conf::register(cf, main);
        filter::install::<first_byte::FirstByte>();
        Ok(())
    }
}

impl WorkerPart for Main {
    fn woken(&'static self) {
        for &upstream in self.upstreams.borrow().iter() {
            queue::drain(upstream);
        }
    }

    /// Has every worker with waiting requests look again.
    fn slots_changed(&'static self, zone: &'static Zone<'static>) {
        for &upstream in self.upstreams.borrow().iter().filter(|upstream| upstream.queue.is_some()) {
            kick::kick(upstream, zone);
        }
    }
}

fn balance(cf: *mut ngx_conf_t, upstream: &mut UpstreamConf) -> Result<(), ConfError> {
    needed_by(cf, "pincer_balance");
    let parsed = balance_args::parse_balance(&arguments(cf))?;
    if let Some(affinity) = &parsed.affinity {
        upstream.affinity.set(Some(compile(cf, "pincer_balance", "affinity", affinity)?));
    }
    upstream.place.replace(place(cf));
    once(&mut upstream.balance, parsed, "pincer_balance")?;
    declare::capture(cf)
}

fn queue_of(cf: *mut ngx_conf_t, upstream: &mut UpstreamConf) -> Result<(), ConfError> {
    if upstream.balance.is_none() {
        upstream.place.replace(place(cf));
    }
    once(&mut upstream.queue, balance_args::parse_queue(&arguments(cf))?, "pincer_queue")
}

fn slot(cf: *mut ngx_conf_t, location: &mut Location) -> Result<(), ConfError> {
    needed_by(cf, "pincer_slot");
    once(&mut location.slot, parse_switch("pincer_slot", &arguments(cf))?, "pincer_slot")
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn ttft(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe { attempts(r, value, |attempt| attempt.first_byte) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn queue_time(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as above.
    unsafe { attempts(r, value, |attempt| attempt.queue) }
}

/// # Safety
/// As [`Getter`](crate::ffi::base::variable::Getter).
unsafe fn pick_reason(r: *mut ngx_http_request_t, value: *mut ngx_http_variable_value_t) -> ngx_int_t {
    // SAFETY: as above; a request's record is as long as it.
    unsafe {
        let text = request::find(r).map(|state| {
            let (zone, attempts) = ((*state).zone, &(*state).attempts);
            let entries = attempts.iter().map(|(attempt, full)| ((attempt.why(), full), attempt.is_redirected));
            times::joined(entries, |text, (why, full)| zone.pick_text(why, full, text))
        });
        fill(r, value, &text.unwrap_or_default())
    }
}

/// # Safety
/// `r` is live, `value` is writable.
unsafe fn attempts(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    time: fn(&Attempt) -> ShownTime,
) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    let text = unsafe {
        request::find(r).map(|state| {
            let attempts = (*state).attempts.iter();
            times::text(attempts.map(|(attempt, _)| (time(attempt).ms(), attempt.is_redirected)))
        })
    };
    // SAFETY: as the caller vouches.
    unsafe { fill(r, value, &text.unwrap_or_default()) }
}
