//! The pages `pincer_status` (JSON) and `pincer_metrics` (Prometheus). GET and HEAD only; nothing
//! here is on the path of proxied requests.

use crate::ffi::base::phase::Handler;
use crate::ffi::base::{bits, clock, nginx};
use crate::ffi::feed::conf::{self as feed, FeedModule};
use crate::ffi::feed::running;
use crate::ffi::zone::conf::{self as zone, ZoneModule};
use nginx_sys::{
    NGX_HTTP_GET, NGX_HTTP_HEAD, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_NOT_ALLOWED, NGX_HTTP_OK, ngx_chain_t,
    ngx_http_request_t, ngx_int_t, ngx_str_t, ngx_uint_t, off_t,
};
use ngx::http::HttpModuleMainConf as _;
use pincer_core::zone::ZoneSnapshot;
use pincer_core::{metrics, status};

const SERVER_ERROR: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// A page's text, or `None` if it cannot be written.
type Render = fn(&ZoneSnapshot, &status::Context<'_>, accept: &[u8]) -> Option<Page>;

struct Page {
    text: String,
    content_type: &'static str,
}

/// `pincer_status`.
pub(super) struct StatusPage;

impl Handler for StatusPage {
    const PLACE: &'static str = "pincer_status";

    unsafe fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
        // SAFETY: as the caller vouches.
        unsafe { serve(r, status_page) }
    }

    unsafe fn fault(_: *const ngx_http_request_t) -> ngx_int_t {
        SERVER_ERROR
    }
}

/// `pincer_metrics`.
pub(super) struct MetricsPage;

impl Handler for MetricsPage {
    const PLACE: &'static str = "pincer_metrics";

    unsafe fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
        // SAFETY: as the caller vouches.
        unsafe { serve(r, metrics_page) }
    }

    unsafe fn fault(_: *const ngx_http_request_t) -> ngx_int_t {
        SERVER_ERROR
    }
}

fn status_page(snapshot: &ZoneSnapshot, context: &status::Context<'_>, _: &[u8]) -> Option<Page> {
    let mut text = String::new();
    status::write_json(snapshot, context, &mut text).ok()?;
    Some(Page { text, content_type: "application/json" })
}

fn metrics_page(snapshot: &ZoneSnapshot, context: &status::Context<'_>, accept: &[u8]) -> Option<Page> {
    let open =
        accept.windows(b"application/openmetrics-text".len()).any(|window| window == b"application/openmetrics-text");
    let format = if open { metrics::Format::OpenMetrics } else { metrics::Format::Prometheus };
    let mut text = String::new();
    metrics::write(snapshot, context, format, &mut text).ok()?;
    Some(Page { text, content_type: format.content_type() })
}

/// # Safety
/// `r` is live.
unsafe fn serve(r: *mut ngx_http_request_t, render: Render) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        if (*r).method & (NGX_HTTP_GET | NGX_HTTP_HEAD) as ngx_uint_t == 0 {
            return NGX_HTTP_NOT_ALLOWED as ngx_int_t;
        }
        let discarded = nginx_sys::ngx_http_discard_request_body(r);
        if discarded != nginx::OK {
            return discarded;
        }
        let (Some(main), Some(plane)) = (ZoneModule::main_conf(&*r), FeedModule::main_conf(&*r)) else {
            return SERVER_ERROR;
        };
        match page(main, plane, render, &nginx::header_in(r, b"accept", b", ")) {
            Some(page) => send(r, &page),
            None => SERVER_ERROR,
        }
    }
}

/// What `render` makes of the zone as it is now; `None` without a zone.
fn page(main: &zone::Main, plane: &feed::Main, render: Render, accept: &[u8]) -> Option<Page> {
    let zone = main.zone.get()?;
    let endpoints = plane.control_plane.iter().flat_map(|plane| &plane.endpoints);
    let addresses: Vec<String> = endpoints.map(ToString::to_string).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    running::refresh();
    let now = clock::now();
    let state_path = main.state_path.as_deref().map(std::path::Path::to_string_lossy);
    let context = status::Context {
        addresses: &addresses,
        generation: main.generation.get(),
        state_path: state_path.as_deref(),
        now,
    };
    render(&zone.snapshot(now), &context, accept)
}

/// # Safety
/// `r` is live and nothing was sent yet.
unsafe fn send(r: *mut ngx_http_request_t, page: &Page) -> ngx_int_t {
    // SAFETY: as the caller vouches; the text is copied into the request's pool, where the buffer
    // lives too.
    unsafe {
        let Some(body) = nginx::pool_copy((*r).pool, page.text.as_bytes()) else { return SERVER_ERROR };
        (*r).headers_out.status = NGX_HTTP_OK as ngx_uint_t;
        (*r).headers_out.content_length_n = body.len as off_t;
        (*r).headers_out.content_type =
            ngx_str_t { len: page.content_type.len(), data: page.content_type.as_ptr().cast_mut() };
        (*r).headers_out.content_type_len = page.content_type.len();
        let sent = nginx_sys::ngx_http_send_header(r);
        if sent != nginx::OK || bits::request::header_only(r) != 0 {
            return sent;
        }
        let buffer = nginx::memory_buffer((*r).pool, body);
        if buffer.is_null() {
            return SERVER_ERROR;
        }
        let mut chain = ngx_chain_t { buf: buffer, next: std::ptr::null_mut() };
        nginx_sys::ngx_http_output_filter(r, &raw mut chain)
    }
}
