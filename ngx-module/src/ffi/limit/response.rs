//! What clients hear of their limits: the headers `RateLimit-Policy`, `RateLimit`,
//! `x-ratelimit-…-requests` on every answer that a rate was applied to, `Retry-After` on a refusal,
//! and the refusal itself. They replace those of the same name that an upstream sent: a client
//! hears of one limit. Where `error_page` names the status nginx answers in its own way, with our
//! headers.

use super::record::{self, Record, Status};
use super::who;
use crate::ffi::base::filter::{HeaderFilter, Next};
use crate::ffi::base::headers::remove_header_out;
use crate::ffi::base::{bits, nginx};
use crate::phase::refusal::{self, Refusal};
use nginx_sys::{ngx_chain_t, ngx_http_err_page_t, ngx_http_request_t, ngx_int_t, ngx_str_t, ngx_uint_t, off_t};
use ngx::ngx_string;
use pincer_core::limit::{self, Quota};
use pincer_core::zone::NAME_MAX;

static NEXT: Next = Next::new();

/// Statuses at which nginx closes the connection without a response.
const CLOSES: [u16; 2] = [444, 499];

/// Tells clients of their limits.
pub(crate) struct Told;

impl HeaderFilter for Told {
    const PLACE: &'static str = "limits' header filter";

    fn next() -> &'static Next {
        &NEXT
    }

    unsafe fn see(r: *mut ngx_http_request_t) {
        // SAFETY: as the caller vouches.
        unsafe {
            if std::ptr::eq((*r).main, r)
                && let Some(record) = record::find(r)
            {
                add_headers(r, &*record);
            }
        }
    }
}

/// Without memory a header is missing, not the response.
///
/// # Safety
/// `r` is live and its header not sent, `record` its record.
unsafe fn add_headers(r: *mut ngx_http_request_t, record: &Record) {
    let refused = record.status == Some(Status::Rejected);
    let names: Vec<(Vec<u8>, Quota)> = record
        .quotas
        .iter()
        .filter_map(|(class, quota)| Some((record.zone.class(*class)?.name(&mut [0; NAME_MAX]).to_vec(), *quota)))
        .collect();
    let quotas: Vec<(&[u8], Quota)> = names.iter().map(|(name, quota)| (&name[..], *quota)).collect();
    let mut text = String::new();
    let mut add = |name: ngx_str_t, write: &dyn Fn(&mut String) -> std::fmt::Result| {
        text.clear();
        if write(&mut text).is_ok() && !text.is_empty() {
            // SAFETY: as the caller vouches.
            unsafe {
                remove_header_out(r, name);
                nginx::add_header_out(r, name, &text);
            }
        }
    };
    add(ngx_string!("RateLimit-Policy"), &|out| limit::write_policy(out, &quotas));
    add(ngx_string!("RateLimit"), &|out| limit::write_state(out, &quotas));
    // OpenAI's clients know one limit: the one with the least left.
    if let Some((_, quota)) = quotas.iter().min_by_key(|(_, quota)| quota.remaining) {
        use std::fmt::Write;
        add(ngx_string!("x-ratelimit-limit-requests"), &|out| write!(out, "{}", quota.limit));
        add(ngx_string!("x-ratelimit-remaining-requests"), &|out| write!(out, "{}", quota.remaining));
        add(ngx_string!("x-ratelimit-reset-requests"), &|out| limit::go_duration(out, quota.reset_ns));
    }
    if let Some(wait_ns) = record.retry_after_ns.filter(|_| refused) {
        use std::fmt::Write;
        add(ngx_string!("Retry-After"), &|out| write!(out, "{}", limit::retry_after_s(wait_ns)));
    }
}

/// Answers a refused request: the phase handler's return value.
///
/// # Safety
/// `r` is a live main request in a phase's handler, not answered yet. It may be gone afterwards.
pub(crate) unsafe fn refuse(r: *mut ngx_http_request_t, refusal: Refusal, status: u16) -> ngx_int_t {
    // SAFETY: as the caller vouches.
    unsafe {
        let class = who::class_text(r).unwrap_or_default();
        who::log_refusal(r, refusal, &class);
        if refusal == Refusal::Unauthenticated {
            nginx::add_header_out(r, ngx_string!("WWW-Authenticate"), "Bearer");
        }
        if CLOSES.contains(&status) || has_error_page(r, status) {
            return status as ngx_int_t;
        }
        // As nginx's own refusals: no "100 Continue" for a body that nobody wants, and no other
        // request behind one that cannot be read to its end.
        bits::request::set_expect_tested(r, 1);
        if nginx_sys::ngx_http_discard_request_body(r) != nginx::OK {
            bits::request::set_keepalive(r, 0);
        }
        let result = send(r, &refusal::page(refusal, status, nginx::bytes((*r).uri)), status);
        nginx_sys::ngx_http_finalize_request(r, result);
        nginx::DONE
    }
}

/// # Safety
/// As [`refuse`].
unsafe fn send(r: *mut ngx_http_request_t, page: &refusal::Page, status: u16) -> ngx_int_t {
    // SAFETY: as the caller vouches; text and buffer live in the request's pool, the chain is
    // copied by whoever keeps it.
    unsafe {
        let Some(body) = nginx::pool_copy((*r).pool, page.body.as_bytes()) else {
            return status as ngx_int_t;
        };
        (*r).headers_out.status = ngx_uint_t::from(status);
        (*r).headers_out.content_length_n = body.len as off_t;
        (*r).headers_out.content_type =
            ngx_str_t { len: page.content_type.len(), data: page.content_type.as_ptr().cast_mut() };
        (*r).headers_out.content_type_len = page.content_type.len();
        let sent = nginx_sys::ngx_http_send_header(r);
        if sent == nginx::ERROR || sent > nginx::OK || bits::request::header_only(r) != 0 {
            return sent;
        }
        let buffer = nginx::memory_buffer((*r).pool, body);
        if buffer.is_null() {
            return nginx::ERROR;
        }
        let mut chain = ngx_chain_t { buf: buffer, next: std::ptr::null_mut() };
        nginx_sys::ngx_http_output_filter(r, &raw mut chain)
    }
}

/// Whether `error_page` names the status where the request is.
///
/// # Safety
/// `r` is live.
unsafe fn has_error_page(r: *const ngx_http_request_t, status: u16) -> bool {
    // SAFETY: as the caller vouches; a location's pages are an array of `ngx_http_err_page_t` or
    // null.
    unsafe {
        let pages: &[ngx_http_err_page_t] = nginx::elements(nginx::core_location(r).error_pages);
        pages.iter().any(|page| page.status == status as ngx_int_t)
    }
}
