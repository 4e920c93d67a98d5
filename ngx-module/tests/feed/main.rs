//! The feed against control planes that behave, and that don't.
//!
//! The module is a cdylib whose symbols nginx provides, so its own unit tests could not be linked.
//! The feed needs no nginx: its files are compiled into this test, and their unit tests run here
//! too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, unused_imports, missing_docs, reason = "the module's files are here only in part")]

#[path = "../../src/conf/mod.rs"]
mod conf;
#[path = "../../src/feed/mod.rs"]
mod feed;

mod bad_neighbours;
mod callers;
mod exchange;
mod rules;
mod server;
mod tls;
mod user;
