//! nginx's configuration for each contender that is one: Pincer, Debian's own balancers, and 1.31's
//! `least_time`.
//!
//! All share one text but for the lines of the upstream: `zone` (so that workers share what they
//! know), keepalive to client and replica, no access log. Only the given folder is written.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::kind::{CONNECTIONS_MAX, Contender, OVERLOAD_PLACES, OVERLOAD_WAIT, Options, Server, WORKERS, text};
use super::programs::Programs;

/// The parts of the configuration that differ between contenders or scenarios.
pub struct Conf<'a> {
    /// Lines of the main context: `load_module`, `master_process`.
    pub main: &'a str,
    /// Lines of the http context.
    pub http: &'a str,
    /// Lines of the upstream before the servers.
    pub balance: &'a str,
    /// Whether `server` lines carry `max_conns`.
    pub max_conns: bool,
    /// Worker processes.
    pub workers: usize,
}

/// Writes the contender's configuration into `folder`; gives the command that runs it.
pub fn prepare(
    contender: Contender,
    programs: &Programs,
    folder: &Path,
    address: SocketAddr,
    servers: &[Server],
    options: Options,
) -> Result<Vec<String>> {
    let balance = balance_of(contender);
    let load = if contender.is_pincer() { load_module(programs)? } else { String::new() };
    let conf = Conf {
        main: &load,
        http: http_of(contender),
        balance: &balance,
        max_conns: contender == Contender::NginxMaxConns
            || contender.is_pincer() && contender != Contender::PincerNoSlots,
        workers: WORKERS,
    };
    write(folder, &conf, address, servers, options)?;
    let is_latest =
        matches!(contender, Contender::LeastTimeHeader | Contender::LeastTimeLastByte | Contender::LeastTimeInflight);
    let program = if is_latest { programs.nginx_latest()? } else { programs.nginx()? };
    Ok(command(program, folder))
}

/// The line that loads Pincer's module.
pub fn load_module(programs: &Programs) -> Result<String> {
    Ok(format!("load_module {};", text(programs.module()?)))
}

/// Lines of the http context. The class is taken from a header, since only the queue is measured;
/// with real clients it comes from a key.
fn http_of(contender: Contender) -> &'static str {
    match contender {
        Contender::PincerClasses | Contender::PincerVipsAlone => {
            "pincer_zone pincer:8m; pincer_class vip priority=10; pincer_class free priority=100 share=5 queue=64;
    pincer_limit class=$http_x_class;"
        }
        _ if contender.is_pincer() => "pincer_zone pincer:8m;",
        _ => "",
    }
}

/// Lines of the upstream. Pincer's must come before `keepalive`, and its zone is the http
/// context's.
pub fn balance_of(contender: Contender) -> String {
    let bounded = || format!("pincer_balance; pincer_queue size={OVERLOAD_PLACES} timeout={OVERLOAD_WAIT};");
    let text = match contender {
        Contender::PincerClasses | Contender::PincerVipsAlone | Contender::PincerOneQueue => return bounded(),
        Contender::Pincer => "pincer_balance; pincer_queue size=10000 timeout=1h;",
        Contender::PincerNoSlots => "pincer_balance;",
        Contender::NginxLeastConn | Contender::NginxMaxConns => "zone replicas 1m; least_conn;",
        Contender::NginxRandomTwo => "zone replicas 1m; random two least_conn;",
        Contender::LeastTimeHeader => "zone replicas 1m; least_time header;",
        Contender::LeastTimeLastByte => "zone replicas 1m; least_time last_byte;",
        Contender::LeastTimeInflight => "zone replicas 1m; least_time last_byte inflight;",
        _ => "zone replicas 1m;",
    };
    text.to_owned()
}

/// The command that runs the configuration in `folder`.
pub fn command(program: &Path, folder: &Path) -> Vec<String> {
    let conf = text(&folder.join("nginx.conf"));
    let log = text(&folder.join("error.log"));
    vec![text(program), "-p".into(), text(folder), "-c".into(), conf, "-e".into(), log]
}

/// Writes nginx.conf into `folder`.
pub fn write(folder: &Path, conf: &Conf, address: SocketAddr, servers: &[Server], options: Options) -> Result<()> {
    let mut lines = String::new();
    for server in servers {
        let limit = if conf.max_conns { format!(" max_conns={}", server.slots) } else { String::new() };
        writeln!(lines, "        server {}{limit};", server.address)?;
    }
    let retry = if options.retry {
        "proxy_next_upstream error timeout http_500; proxy_next_upstream_tries 2;"
    } else {
        "proxy_next_upstream off;"
    };
    let buffering = if options.unbuffered { "proxy_buffering off;" } else { "" };
    let Conf { main, http, balance, workers, .. } = conf;
    let text = format!(
        "{main}
daemon off;
worker_processes {workers};
user root;
pid nginx.pid;
error_log error.log error;
events {{ worker_connections {CONNECTIONS_MAX}; }}
http {{
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    {http}
    upstream replicas {{
        {balance}
{lines}        keepalive 256;
        keepalive_requests 100000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_read_timeout 1h;
            {retry} {buffering}
        }}
    }}
}}
"
    );
    Ok(std::fs::write(folder.join("nginx.conf"), text)?)
}
