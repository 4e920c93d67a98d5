//! Pincer's control plane: stores the settings of operators on disk and sends them to every nginx
//! as numbered revisions.
//!
//! `names`, `words`, `model`, `classes`, `keys`, `declared`, `hello`, `refusal`, `plan` and `fleet`
//! are logic without I/O. `store` is the disk, `purge` the commands in progress, `plane` the one
//! state and its order of changes. `service` and `serve` are the network, `ctl` is the operators'
//! command, `client` connects to pincerd. `pem`, `causes` and `handshake` explain what is wrong
//! with a certificate. No file imports a file that imports it. The control plane is not on the path
//! of a request: nginx serves requests without it. Bounds: `pincer_proto::limits`, `fleet`,
//! `serve`.

#![forbid(unsafe_code)]

pub mod causes;
pub mod classes;
pub mod client;
pub mod clock;
pub mod connection;
pub mod ctl;
pub mod daemon;
pub mod declared;
pub mod dev;
pub mod door;
pub mod expiry;
pub mod fleet;
pub mod handshake;
pub mod hello;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod model;
pub mod names;
pub mod pem;
pub mod plan;
pub mod plane;
pub mod purge;
pub mod rarely;
pub mod recovery;
pub mod refusal;
pub mod serve;
pub mod service;
pub mod store;
pub mod times;
pub mod words;
