//! Envoy's configuration: one listener, one static cluster, `LEAST_REQUEST` with its defaults.
//!
//! The limits of its circuit breakers are so high that they do nothing, and its route timeout of 15
//! s is off. Only the given folder is written.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::kind::{Options, Server, WORKERS, text};
use super::programs::Programs;

/// A limit that is never reached.
const NO_LIMIT: u32 = 1_000_000;

/// Writes envoy.json into `folder`; gives the command that runs it.
pub fn prepare(
    programs: &Programs,
    folder: &Path,
    address: SocketAddr,
    servers: &[Server],
    options: Options,
) -> Result<Vec<String>> {
    let bootstrap = json!({
        "static_resources": { "listeners": [listener(address, options)], "clusters": [cluster(servers)] }
    });
    let conf = folder.join("envoy.json");
    std::fs::write(&conf, bootstrap.to_string())?;
    let concurrency = WORKERS.to_string();
    let flags = ["--log-level", "error", "--use-dynamic-base-id", "--concurrency", &concurrency, "-c"];
    let mut command = vec![text(programs.envoy()?)];
    command.extend(flags.map(String::from));
    command.push(text(&conf));
    Ok(command)
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn listener(address: SocketAddr, options: Options) -> Value {
    let mut route = json!({ "cluster": "replicas", "timeout": "0s" });
    if options.retry {
        route["retry_policy"] = json!({
            "retry_on": "5xx",
            "num_retries": 1,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" }
            }],
            "host_selection_retry_max_attempts": 5
        });
    }
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": route }]
        }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" }
        }]
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager });
    json!({ "address": socket(address), "filter_chains": [{ "filters": [filter] }] })
}

fn cluster(servers: &[Server]) -> Value {
    let endpoints: Vec<Value> =
        servers.iter().map(|server| json!({ "endpoint": { "address": socket(server.address) } })).collect();
    json!({
        "name": "replicas",
        "type": "STATIC",
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": { "thresholds": [{
            "max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT,
            "max_requests": NO_LIMIT, "max_retries": NO_LIMIT
        }] },
        "load_assignment": { "cluster_name": "replicas", "endpoints": [{ "lb_endpoints": endpoints }] }
    })
}
