//! Where nginx's module that passes a request on will send it, known from when that module's
//! handler has run.
//!
//! Where a variable names the place (`proxy_pass http://$backend`), the proxy module keeps what it
//! evaluated in a context of its own, whose layout only newer versions have in a header: it is
//! looked at where that or `base/wrapper.h` says, which is where it has been in every version since
//! 1.1.4, and believed only if what can be checked there is as it must be.

use super::conf::CacheModule;
use crate::ffi::base::nginx;
use crate::ffi::base::wrapper::ngx_http_proxy_ctx_t;
use nginx_sys::{ngx_http_request_t, ngx_http_upstream_resolved_t, ngx_http_upstream_t};
use ngx::http::HttpModuleMainConf as _;

/// Where a request goes. The default stands for nobody knows.
#[derive(Default)]
pub(crate) struct Passed<'a> {
    /// `http://`, `https://`, `fastcgi://` and the like.
    pub(crate) schema: &'a [u8],
    /// The upstream's name, or a host.
    pub(crate) host: &'a [u8],
    /// 0 where the name has none.
    pub(crate) port: u16,
    /// Path and arguments as a variable gave them; empty where it gave none, and where `proxy_pass`
    /// has no variable.
    pub(crate) uri: &'a [u8],
}

/// Where `r` goes from the location that it is in now; `None` if no module has said so yet, or one
/// that keeps it in another way than nginx's own.
///
/// # Safety
/// `r` is live; what is answered lives as long as it.
pub(crate) unsafe fn of<'a>(r: *const ngx_http_request_t) -> Option<Passed<'a>> {
    // SAFETY: as the caller vouches. nginx makes an upstream for a request whenever a handler
    // passes it on, and sets what is read here before it asks for a cache's key.
    let (upstream, conf) = unsafe {
        let upstream = (*r).upstream.as_ref()?;
        (upstream, upstream.conf.as_ref()?)
    };
    // After a redirect the upstream is still that of the location before. Each module's
    // configuration of a location begins with the upstream's.
    // SAFETY: as the caller vouches: `loc_conf` has a slot for every http module.
    let is_here = |place: usize| unsafe { *(*r).loc_conf.add(place) == upstream.conf.cast() };
    // SAFETY: as the caller vouches; the count is nginx's own.
    let (main, count) = unsafe { (CacheModule::main_conf(&*r)?, nginx_sys::ngx_http_max_module) };
    let proxy = main.proxy.get().0.filter(|place| is_here(*place));
    if proxy.is_none() && !(0..count).any(is_here) {
        return None;
    }
    // SAFETY: as above; names live as long as the configuration, texts as long as the request.
    unsafe {
        let schema = nginx::bytes(upstream.schema);
        let Some(resolved) = upstream.resolved.as_ref() else {
            let named = conf.upstream.as_ref()?;
            return Some(Passed { schema, host: nginx::bytes(named.host), port: named.port, uri: &[] });
        };
        let uri = match proxy {
            // `ctx` has a slot for every http module, too.
            Some(place) => {
                evaluated_uri((*(*r).ctx.add(place)).cast::<ngx_http_proxy_ctx_t>().as_ref()?, upstream, resolved)?
            }
            None => &[],
        };
        Some(Passed { schema, host: nginx::bytes(resolved.host), port: resolved.port, uri })
    }
}

/// The URI that the proxy module evaluated for this upstream; `None` if the context is not laid out
/// as we know it.
///
/// # Safety
/// All three are of one live request; what is answered lives as long as it.
unsafe fn evaluated_uri<'a>(
    context: &ngx_http_proxy_ctx_t,
    upstream: &ngx_http_upstream_t,
    resolved: &ngx_http_upstream_resolved_t,
) -> Option<&'a [u8]> {
    // `key_start` is schema, host and port.
    let (start, schema) = (context.vars.key_start, upstream.schema);
    let host = context.vars.host_header;
    // One text, `http://host:port/uri`, is cut into these; to a unix socket the host is the
    // constant "localhost".
    let begins = start.data == schema.data && start.len > schema.len;
    let has_host = host.data == resolved.host.data || host.len == b"localhost".len();
    if !begins || !has_host {
        return None;
    }
    // SAFETY: as the caller vouches, and the context is what it seems.
    let uri = unsafe { nginx::bytes(context.vars.uri) };
    (uri.is_empty() || uri.starts_with(b"/")).then_some(uri)
}
