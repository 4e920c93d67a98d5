//! Bit fields of nginx's structures, and nginx's inline functions that use them: `bits.c`, compiled
//! against the headers that the module is built for.
//!
//! Invariant: nobody in this module uses bindgen's accessors of bit fields, nor what `nginx-sys`
//! builds on them; `tests/tidy.rs` looks. bindgen 0.72 has those of a request two bits off from
//! nginx 1.29.3 on. Cost: a call.
//!
//! # Safety
//! For all of them: the pointer is to a live structure of its type. A `set_` needs it writable.

use nginx_sys::{
    ngx_buf_t, ngx_connection_t, ngx_event_pipe_t, ngx_event_t, ngx_http_cache_t, ngx_http_core_loc_conf_t,
    ngx_http_file_cache_node_t, ngx_http_headers_in_t, ngx_http_request_t, ngx_http_upstream_conf_t,
    ngx_http_upstream_server_t, ngx_http_upstream_t, ngx_http_variable_value_t, ngx_msec_t, ngx_output_chain_ctx_t,
    ngx_peer_connection_t, ngx_queue_t,
};
use std::ffi::c_uint;

/// `kind: Type { get field, …; set set_field, …; }`: one function of `bits.c` for each name.
macro_rules! bits {
    ($($kind:ident: $type:ty { get $($get:ident),*; set $($set:ident),*; $($other:tt)* })*) => { $(
        pub(crate) mod $kind {
            use super::*;

            unsafe extern "C" {
                $(
                    #[link_name = concat!("ngx_http_pincer_", stringify!($kind), "_", stringify!($get))]
                    pub(crate) fn $get(it: *const $type) -> c_uint;
                )*
                $(
                    #[link_name = concat!("ngx_http_pincer_", stringify!($kind), "_", stringify!($set))]
                    pub(crate) fn $set(it: *mut $type, value: c_uint);
                )*
            }
            $($other)*
        }
    )* };
}

bits! {
    request: ngx_http_request_t {
        get aio, buffered, cached, count, discard_body, header_only, header_sent;
        set set_buffered, set_count, set_expect_tested, set_keepalive, set_preserve_body;
    }
    headers_in: ngx_http_headers_in_t {
        get chunked;
        set;
    }
    connection: ngx_connection_t {
        get buffered, close, error, sendfile, tcp_nopush, timedout;
        set set_buffered, set_error, set_idle, set_sendfile, set_tcp_nopush;
    }
    event: ngx_event_t {
        get delayed, eof, error, ready, timedout, timer_set;
        set set_cancelable, set_channel, set_delayed, set_ready, set_timedout;
        unsafe extern "C" {
            #[link_name = "ngx_http_pincer_event_add_timer"]
            pub(crate) fn add_timer(it: *mut ngx_event_t, ms: ngx_msec_t);
            #[link_name = "ngx_http_pincer_event_del_timer"]
            pub(crate) fn del_timer(it: *mut ngx_event_t);
            #[link_name = "ngx_http_pincer_event_post"]
            pub(crate) fn post(it: *mut ngx_event_t, queue: *mut ngx_queue_t);
            #[link_name = "ngx_http_pincer_event_unpost"]
            pub(crate) fn unpost(it: *mut ngx_event_t);
        }
    }
    peer: ngx_peer_connection_t {
        get cached;
        set set_cached;
    }
    upstream: ngx_http_upstream_t {
        get buffering, cache_status, cacheable, header_sent, request_sent, upgrade;
        set set_cacheable;
    }
    upstream_conf: ngx_http_upstream_conf_t {
        get cache;
        set;
    }
    upstream_server: ngx_http_upstream_server_t {
        get backup;
        set;
    }
    location: ngx_http_core_loc_conf_t {
        get noname;
        set;
    }
    pipe: ngx_event_pipe_t {
        get upstream_done, upstream_eof;
        set set_aio;
    }
    output_chain: ngx_output_chain_ctx_t {
        get;
        set set_sendfile;
    }
    buf: ngx_buf_t {
        get flush, in_file, in_memory, last_buf;
        set set_last_buf, set_last_in_chain, set_last_shadow, set_memory;
    }
    value: ngx_http_variable_value_t {
        get;
        set set_not_found;
        unsafe extern "C" {
            #[link_name = "ngx_http_pincer_value_fill"]
            pub(crate) fn fill(it: *mut ngx_http_variable_value_t, data: *mut u8, len: usize);
        }
    }
    cache: ngx_http_cache_t {
        get updated;
        set set_temp_file;
    }
    cache_node: ngx_http_file_cache_node_t {
        get count, deleting, exists;
        set set_error, set_exists, set_updating, set_valid_msec;
    }
}
