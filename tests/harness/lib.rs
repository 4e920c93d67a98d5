//! The end-to-end harness: a real nginx with the real module, the real control plane, and inference
//! replicas to balance over.
//!
//! Decides nothing about balancing. Every wait in here is bounded ([`wait`]) and every process it
//! starts ends with the value that started it. A test that leaves an `[alert]`, an unexpected dead
//! worker or a request still counted as in flight fails.
//!
//! Environment: `PINCER_NGINX` (default `nginx`), `PINCER_MODULE`, `PINCERD`, `PINCERCTL` (default:
//! the build's own files), `PINCER_TEST_SLOW` (a factor on every time limit, for sanitizers and
//! valgrind), `PINCER_NGINX_LOG` (level of the error log).

pub mod client;
pub mod conf;
pub mod digests;
pub mod fastcgi;
pub mod load;
pub mod metrics;
pub mod nginx;
pub mod paths;
pub mod pincerd;
pub mod pki;
pub mod ports;
pub mod process;
pub mod replica;
pub mod stats;
pub mod wait;

pub use client::{Client, Reply};
pub use nginx::Nginx;
pub use pincerd::Pincerd;
pub use replica::{Fault, Replica};
pub use wait::{eventually, eventually_some, limit};
