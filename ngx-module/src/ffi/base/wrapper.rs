//! Structures of nginx that `nginx-sys` lacks: `wrapper.h`, as bindgen reads it with the headers
//! that the module is built for.
//!
//! Bit fields are left to `bits.rs` here, too.

#![allow(dead_code, missing_docs, non_camel_case_types, reason = "bindgen makes what C has")]
#![allow(clippy::all, clippy::cast_possible_truncation, clippy::undocumented_unsafe_blocks, reason = "as above")]

use nginx_sys::*;

include!(concat!(env!("OUT_DIR"), "/wrapper.rs"));
