//! Pincer's nginx module: the thin shell between nginx and [`pincer_core`].
//!
//! - `ffi`: everything that touches nginx's memory; the only place with `unsafe`.
//! - `conf`: what the directives mean.
//! - `cache`: the files of nginx's own caches.
//! - `phase`: what a request's events mean (outcome of an attempt, values of variables).
//! - `feed`: the thread that talks to the control plane; it knows no nginx.

mod cache;
mod conf;
mod feed;
mod ffi;
mod phase;
