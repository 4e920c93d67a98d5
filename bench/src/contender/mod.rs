//! Contenders: their names, the programs that they need, and their start in front of a pool's
//! replicas.
//!
//! Every contender gets the same replicas (of its own), the same number of workers and the same
//! generous limits: only its choice of replica and its queue differ. A contender that is not
//! installed is left out, and a line says so. Bound: `START_WAIT` per start.

mod envoy;
mod haproxy;
mod kind;
pub mod nginx;
mod programs;

use std::net::SocketAddr;

use anyhow::Result;
use tempfile::TempDir;

use crate::process::{Process, free_address};
pub use kind::{Contender, Options, Server};
pub use programs::{Programs, on_path, root_folder};

/// Attempts to start a contender.
const STARTS_MAX: usize = 3;

/// A contender that runs; dropping it stops it and removes its files.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process: nginx's master, or the only one.
    pub process: Process,
    _folder: TempDir,
}

impl Contender {
    /// Starts it in front of `servers`. An error contains the output of its program.
    pub fn start(self, programs: &Programs, servers: &[Server], options: Options) -> Result<Running> {
        // Another process may take the port between the check and the start.
        let mut tried = self.try_start(programs, servers, options);
        for _ in 1..STARTS_MAX {
            if tried.is_ok() {
                break;
            }
            tried = self.try_start(programs, servers, options);
        }
        tried
    }

    fn try_start(self, programs: &Programs, servers: &[Server], options: Options) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let command = match self {
            _ if self.is_haproxy() => haproxy::prepare(self, programs, folder.path(), address, servers, options)?,
            Contender::Envoy => envoy::prepare(programs, folder.path(), address, servers, options)?,
            _ => nginx::prepare(self, programs, folder.path(), address, servers, options)?,
        };
        Running::start(&command, address, folder)
    }
}

impl Running {
    /// Runs `command`, which is to listen at `address` and has its files in `folder`.
    pub fn start(command: &[String], address: SocketAddr, folder: TempDir) -> Result<Running> {
        let log = folder.path().join("log");
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut process = Process::start(&words, &log)?;
        process.listening(address, &log)?;
        Ok(Running { address, process, _folder: folder })
    }
}
