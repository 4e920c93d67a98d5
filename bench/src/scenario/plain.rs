//! Plain nginx and Pincer in the same nginx, for the comparisons of cost: the variants, and the
//! replicas behind them.
//!
//! All variants share one configuration but for the upstream's balancing lines and `load_module`;
//! plain means `proxy_pass` to an upstream with `zone` and keepalive. The replicas are one nginx
//! that responds from memory on `PEERS` ports.

use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Result;
use tempfile::TempDir;

use super::cpu::{CLIENT_CORE, pinned};
use crate::contender::nginx::{Conf, balance_of, command, load_module, write};
use crate::contender::{Contender, Options, Programs, Running, Server};
use crate::process::free_address;

/// The number of replicas, and so the most peers of an upstream.
pub const PEERS: usize = 8;

/// Slots of the variant that uses them: so many that no request ever waits.
const SLOTS: usize = 64;

/// One configuration whose cost is measured.
pub struct Variant {
    /// Name in tables; those of Pincer start with it.
    pub name: &'static str,
    contender: Contender,
}

/// Plain nginx first: the rest is compared with it.
pub const VARIANTS: [Variant; 4] = [
    Variant { name: "plain proxy_pass, zone, keepalive", contender: Contender::NginxRoundRobin },
    Variant { name: "plain, least_conn", contender: Contender::NginxLeastConn },
    Variant { name: "pincer, no max_conns", contender: Contender::PincerNoSlots },
    Variant { name: "pincer, max_conns and queue", contender: Contender::Pincer },
];

/// A configuration on disk, ready to run.
pub struct Prepared {
    /// The command that runs it.
    pub command: Vec<String>,
    /// Where it will listen.
    pub address: SocketAddr,
    /// Its files.
    pub folder: TempDir,
}

impl Variant {
    /// Whether its programs are installed; prints a line if not.
    pub fn can_run(&self, programs: &Programs) -> bool {
        !programs.available(&[self.contender]).is_empty()
    }

    /// Writes its configuration for the first `peers` replicas: one worker beneath a master, or one
    /// process alone.
    pub fn prepare(&self, programs: &Programs, backend: &Backend, peers: usize, master: bool) -> Result<Prepared> {
        let is_pincer = self.name.starts_with("pincer");
        let mut main = if is_pincer { load_module(programs)? } else { String::new() };
        if !master {
            main.push_str("\nmaster_process off;");
        }
        let conf = Conf {
            main: &main,
            http: if is_pincer { "pincer_zone pincer:8m;" } else { "" },
            balance: &balance_of(self.contender),
            max_conns: self.contender == Contender::Pincer,
            workers: 1,
        };
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let servers: Vec<Server> =
            backend.addresses.iter().take(peers).map(|&address| Server { address, slots: SLOTS, weight: 1 }).collect();
        write(folder.path(), &conf, address, &servers, Options::default())?;
        let command = command(programs.nginx()?, folder.path());
        Ok(Prepared { command, address, folder })
    }
}

/// The replicas, which respond at once.
pub struct Backend {
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
    _running: Running,
}

impl Backend {
    /// Starts them on the core that the proxy does not use.
    pub fn start(programs: &Programs) -> Result<Self> {
        let addresses = (0..PEERS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
        let mut listens = String::new();
        for address in &addresses {
            write!(listens, "listen {address}; ")?;
        }
        let folder = tempfile::tempdir()?;
        let text = format!(
            "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log error;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 1h; client_max_body_size 0;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    server {{ {listens} location / {{ return 200 ok; }} }}
}}
"
        );
        std::fs::write(folder.path().join("nginx.conf"), text)?;
        let mut words = pinned(CLIENT_CORE);
        words.extend(command(programs.nginx()?, folder.path()));
        let running = Running::start(&words, addresses[0], folder)?;
        Ok(Backend { addresses, _running: running })
    }
}
