//! PurgeCache: reads the request, sends it to the nodes, and reports the results.
//!
//! Nodes get the digest of a cache key and never its text. Neither is ever printed. Cost: one MD5
//! of the text. Bound: `limits`, `purge::CALLS_MAX`.

use std::{sync::Arc, time::Duration};

use md5::{Digest as _, Md5};
use pincer_proto::{google::rpc, limits, v1};
use tonic::{Code, Status};

use super::error::{self, bad_name, invalid};
use crate::{
    names,
    plane::Plane,
    purge::{InstanceResult, Order},
    times,
};

/// Handles the request.
pub async fn run(plane: &Arc<Plane>, request: v1::PurgeCacheRequest) -> Result<v1::PurgeCacheResponse, Status> {
    let node = match request.node.as_str() {
        "" => None,
        name => Some(names::parse_node_name(name).map_err(bad_name("node"))?),
    };
    let order = read(request)?;
    if let Some(node) = &node {
        check_connected(plane, node)?;
    }
    let _place = plane.purges.admit().ok_or_else(|| {
        error::purge(Code::ResourceExhausted, "BUSY", "too many purges at once, try again".to_owned())
    })?;
    let instances = plane.purges.instances(node.as_deref());
    if instances.is_empty() {
        let message = "no node is connected, nothing was purged".to_owned();
        return Err(error::purge(Code::FailedPrecondition, "NOT_CONNECTED", message));
    }
    let results = plane.purges.run(&order, instances).await;
    log_and_count(plane, &order, &results);
    if let Some(refused) = unknown_to_all(&results) {
        return Err(refused);
    }
    let not_connected = if node.is_none() { not_connected(plane, &results) } else { Vec::new() };
    Ok(v1::PurgeCacheResponse { results: results.into_iter().map(result).collect(), not_connected })
}

/// Checks the request's form.
fn read(request: v1::PurgeCacheRequest) -> Result<Order, Status> {
    use v1::purge::{Entries, Scope};
    use v1::purge_cache_request as given;
    let scope = match request.scope {
        Some(given::Scope::Upstream(name)) => {
            Scope::Upstream(names::parse_upstream_name(&name).map_err(bad_name("upstream"))?)
        }
        Some(given::Scope::Location(location)) => Scope::Location(place("location", location)?),
        Some(given::Scope::Cache(cache)) => Scope::Cache(place("cache", cache)?),
        Some(given::Scope::EveryCache(())) => Scope::EveryCache(()),
        None => return Err(invalid("scope", "is missing: upstream, location, cache or every_cache")),
    };
    let entries = match request.entries {
        Some(given::Entries::Key(key)) => Entries::Key(digest(&key.text)?),
        Some(given::Entries::All(())) => Entries::All(()),
        None => return Err(invalid("entries", "is missing: key or all")),
    };
    let timeout = match request.timeout {
        None => Duration::from_millis(limits::PURGE_MS_DEFAULT),
        Some(timeout) => {
            let range = Duration::from_millis(limits::PURGE_MS_MIN)..=Duration::from_millis(limits::PURGE_MS_MAX);
            let timeout = times::span(timeout).filter(|timeout| range.contains(timeout));
            timeout.ok_or_else(|| invalid("timeout", "is not from 10 ms to 5 min"))?
        }
    };
    Ok(Order { scope, entries, timeout, validate_only: request.validate_only })
}

/// A location or a cache, by a name that is only compared.
fn place(field: &str, name: String) -> Result<String, Status> {
    if name.is_empty() || name.len() > limits::CACHE_PLACE_BYTES_MAX || name.chars().any(char::is_control) {
        let need = format!("is not 1 to {} bytes without control characters", limits::CACHE_PLACE_BYTES_MAX);
        return Err(invalid(field, need));
    }
    Ok(name)
}

fn digest(text: &[u8]) -> Result<v1::CacheKeyDigest, Status> {
    if text.is_empty() || text.len() > limits::CACHE_KEY_BYTES_MAX {
        return Err(invalid("key.text", format!("is not 1 to {} bytes", limits::CACHE_KEY_BYTES_MAX)));
    }
    Ok(v1::CacheKeyDigest { md5: Md5::digest(text).to_vec() })
}

fn check_connected(plane: &Plane, node: &str) -> Result<(), Status> {
    let connected = plane.with_fleet(|fleet| fleet.nodes().get(node).map(crate::fleet::Node::is_connected));
    match connected {
        None => Err(error::not_found(&names::node_name(node))),
        Some(true) => Ok(()),
        Some(false) => {
            let message = format!("node {node:?} is not connected, nothing was purged");
            Err(error::purge(Code::FailedPrecondition, "NOT_CONNECTED", message))
        }
    }
}

/// NOT_FOUND if no node has the named upstream, location or cache: the caller's mistake.
fn unknown_to_all(results: &[InstanceResult]) -> Option<Status> {
    let errors = results.iter().map(|result| result.purged.error.as_ref());
    let unknown = errors.map(|error| error.filter(|error| error.code == i32::from(Code::NotFound)));
    let unknown: Option<Vec<_>> = unknown.collect();
    let first = unknown?.into_iter().next()?;
    let message = names::shown(&first.message, limits::ERROR_BYTES_MAX);
    Some(error::purge(Code::NotFound, "NO_CACHE", message))
}

fn not_connected(plane: &Plane, results: &[InstanceResult]) -> Vec<String> {
    plane.with_fleet(|fleet| {
        let away = fleet
            .nodes()
            .iter()
            .filter(|(name, node)| !node.is_connected() && results.iter().all(|result| result.node != **name));
        away.map(|(name, _)| names::node_name(name)).collect()
    })
}

/// Writes one line to the log, and counts. The scope is what the operator named; the key is not
/// shown.
fn log_and_count(plane: &Plane, order: &Order, results: &[InstanceResult]) {
    let removed: u64 = results.iter().map(|result| result.purged.removed).fold(0, u64::saturating_add);
    let failed = results.iter().filter(|result| result.purged.error.is_some()).count();
    let entries = match order.entries {
        v1::purge::Entries::Key(_) => "one",
        v1::purge::Entries::All(()) => "all",
    };
    if !order.validate_only {
        plane.metrics.purges.inc();
        plane.metrics.purged_entries.inc_by(removed);
    }
    let (scope, instances, check) = (&order.scope, results.len(), order.validate_only);
    tracing::info!(?scope, entries, instances, failed, removed, check, "pincer: purge done");
}

fn result(result: InstanceResult) -> v1::PurgeResult {
    let shortened = |error: rpc::Status| {
        let message = names::shown(&error.message, limits::ERROR_BYTES_MAX);
        rpc::Status { code: error.code, message, details: Vec::new() }
    };
    v1::PurgeResult {
        node: names::node_name(&result.node),
        instance_id: result.instance,
        removed: result.purged.removed,
        bytes: result.purged.bytes,
        error: result.purged.error.map(shortened),
        duration: result.took.try_into().ok(),
    }
}
