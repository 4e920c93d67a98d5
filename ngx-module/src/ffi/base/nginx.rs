//! nginx as most of the module asks for it: its macros and inline functions that bindgen cannot
//! see, and the few casts that everything else would repeat, under one name.

pub(crate) use super::cycle::{module_named, uses_variable};
pub(crate) use super::event::{arm, cancel, close_connection, current_msec, fresh_msec, post, queue_is_empty};
pub(crate) use super::headers::{add_header_out, header_in, headers_in};
pub(crate) use super::page::memory_buffer;
pub(crate) use super::phase::{add_phase_handler, add_phase_handler_behind};
pub(crate) use super::pool::{cleanup_add, cleanup_find, pool_copy, pool_pair};
pub(crate) use super::request::{cache_status, complex_value, core_location};
pub(crate) use super::status::{AGAIN, BUSY, DECLINED, DONE, ERROR, OK};
pub(crate) use super::text::{buffered, bytes, elements};
