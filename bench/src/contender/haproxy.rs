//! HAProxy's configuration: `leastconn`, without and with a queue per backend behind each server's
//! `maxconn`, and with VIPs first in it.
//!
//! Only the given folder is written.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::kind::{self, CONNECTIONS_MAX, Contender, OVERLOAD_WAIT, Options, Server, WORKERS};
use super::programs::Programs;

/// Writes haproxy.cfg into `folder`; gives the command that runs it.
pub fn prepare(
    contender: Contender,
    programs: &Programs,
    folder: &Path,
    address: SocketAddr,
    servers: &[Server],
    options: Options,
) -> Result<Vec<String>> {
    let queue = contender != Contender::Haproxy;
    let mut lines = String::new();
    for (index, server) in servers.iter().enumerate() {
        let limit = if queue { format!(" maxconn {}", server.slots) } else { String::new() };
        let weighted = contender == Contender::HaproxyQueueWeighted;
        let weight = if weighted { format!(" weight {}", server.weight) } else { String::new() };
        writeln!(lines, "    server s{index} {}{limit}{weight}", server.address)?;
    }
    let retry = if options.retry { "retries 1\n    option redispatch 1\n    retry-on 500" } else { "retries 0" };
    // Without this option HAProxy may hold back small pieces of a stream for some 100 ms.
    let streaming = if options.unbuffered { "option http-no-delay" } else { "" };
    let priority = contender == Contender::HaproxyPriority;
    let wait = if priority { OVERLOAD_WAIT } else { "1h" };
    let classes = if priority { "http-request set-priority-class int(-10) if { req.hdr(x-class) vip }" } else { "" };
    let text = format!(
        "global
    maxconn {CONNECTIONS_MAX}
    nbthread {WORKERS}
defaults
    mode http
    maxconn {CONNECTIONS_MAX}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout queue {wait}
    timeout http-keep-alive 1h
    http-reuse always
    {streaming}
    {retry}
frontend clients
    bind {address} backlog 4096
    {classes}
    default_backend replicas
backend replicas
    balance leastconn
{lines}"
    );
    let conf = folder.join("haproxy.cfg");
    std::fs::write(&conf, text)?;
    Ok(vec![kind::text(programs.haproxy()?), "-db".into(), "-f".into(), kind::text(&conf)])
}
