//! `cache purge`: asks the nodes to remove entries from nginx's caches, and prints their results.
//!
//! The command fails if a known node is not connected, since the node keeps its entries, or if a
//! node could not remove all entries. It does not fail if a node has no such cache while another
//! node has it. The key is never printed. Bound: the timeout, and `GRACE` for the way.

use std::{
    io::{self, BufRead as _, Read as _},
    os::unix::ffi::OsStringExt as _,
    time::Duration,
};

use pincer_proto::{limits, v1};
use tonic::Code;

use super::{
    args::{Key, Output, PurgeArgs},
    failure::Failure,
    output::print,
    request::{node_name, upstream_name},
    show,
};
use crate::client::{self, Target};

/// The time for the call itself, beyond the timeout of the nodes.
const GRACE: Duration = Duration::from_secs(10);

/// Reads the command.
pub fn prepare(args: &PurgeArgs) -> Result<v1::PurgeCacheRequest, Failure> {
    use v1::purge_cache_request::{Entries, Scope};
    let place = &args.place;
    let scope = match (&place.upstream, &place.location, &place.cache) {
        (Some(upstream), ..) => Scope::Upstream(upstream_name(upstream)?),
        (_, Some(location), _) => Scope::Location(location.clone()),
        (.., Some(cache)) => Scope::Cache(cache.clone()),
        _ => Scope::EveryCache(()),
    };
    let entries = match &args.entries.cache_key {
        Some(key) => Entries::Key(v1::CacheKey { text: text(key)? }),
        None => Entries::All(()),
    };
    let node = args.node.as_deref().map(node_name).transpose()?.unwrap_or_default();
    let timeout = args.timeout.map(prost_types::Duration::try_from).transpose();
    let timeout = timeout.map_err(|_| Failure::Usage("--timeout is too long"))?;
    let (scope, entries) = (Some(scope), Some(entries));
    Ok(v1::PurgeCacheRequest { scope, entries, node, timeout, validate_only: args.dry_run })
}

/// The key's bytes; those of one line of standard input for `-`.
fn text(key: &Key) -> Result<Vec<u8>, Failure> {
    if key.0 != "-" {
        return Ok(key.0.clone().into_vec());
    }
    let mut line = Vec::new();
    let most = u64::try_from(limits::CACHE_KEY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    io::stdin().lock().take(most).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") {
        line.pop();
        line.pop_if(|last| *last == b'\r');
    }
    Ok(line)
}

/// Sends the request, prints the results, and fails if entries are left.
pub async fn run(target: &Target, request: v1::PurgeCacheRequest, output: Output) -> Result<(), Failure> {
    let limit = request.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
    let limit = limit.unwrap_or(Duration::from_millis(limits::PURGE_MS_DEFAULT)).saturating_add(GRACE);
    let mut client = client::control(target.connect_patiently(limit).await?);
    let validate_only = request.validate_only;
    let response = client.purge_cache(request).await?.into_inner();
    print(output, &show::Purged::new(&response, validate_only))?;
    check_complete(&response)
}

fn check_complete(response: &v1::PurgeCacheResponse) -> Result<(), Failure> {
    let is_failure =
        |result: &&v1::PurgeResult| result.error.as_ref().is_some_and(|error| error.code != i32::from(Code::NotFound));
    match (response.results.iter().filter(is_failure).count(), response.not_connected.len()) {
        (0, 0) => Ok(()),
        (failed, away) => Err(Failure::NotPurged { failed, away }),
    }
}
