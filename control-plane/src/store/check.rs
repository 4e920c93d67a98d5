//! Checks every value of a store, as if an operator or a node had sent it. A record that passed
//! redb's checksums may still come from another program.

use std::path::Path;

use super::{error::StoreError, record::NodeRecord, unfit::Unfit};
use crate::{
    classes,
    hello::{self, Fault},
    keys,
    model::Config,
    names,
};
use pincer_proto::{limits, v1};

type Checked = Result<(), Unfit>;

fn revision(revision: u64, newest: u64) -> Checked {
    if revision <= newest { Ok(()) } else { Err(Unfit::Revision { revision, newest }) }
}

fn address(upstream: &str, address: &str) -> Checked {
    names::check_upstream(upstream)?;
    Ok(names::parse_address(address).map(drop)?)
}

fn class(name: &str, settings: classes::Settings) -> Checked {
    names::check_class(name)?;
    classes::Settings::from_proto(Some(settings.to_proto()))
        .map(drop)
        .map_err(|fault| Unfit::Setting { field: fault.field.to_string(), problem: fault.to_string() })
}

fn key(id: &str, record: &keys::Record) -> Checked {
    names::check_key(id)?;
    names::check_tenant(&record.tenant)?;
    names::check_class(&record.class)?;
    if record.cidrs.len() > limits::CIDRS_PER_KEY_MAX {
        return Err(Unfit::Blocks(record.cidrs.len()));
    }
    for block in &record.cidrs {
        names::parse_cidr(block)?;
    }
    let times = [record.expire_s, record.old.map(|old| old.until_s), record.revoked_s, Some(record.created_s)];
    match times.into_iter().flatten().find(|time| !(0..=keys::TIME_S_MAX).contains(time)) {
        Some(time) => Err(Unfit::Time(time)),
        None => Ok(()),
    }
}

fn node(name: &str, record: &NodeRecord) -> Result<(), Fault> {
    let classes = record
        .classes
        .iter()
        .map(|class| v1::DeclaredClass { name: class.name.clone(), settings: Some(class.settings.to_proto()) });
    hello::check(v1::Hello {
        node: name.to_owned(),
        instance_id: "store".to_owned(),
        upstreams: record.declared(),
        classes: classes.collect(),
        ..v1::Hello::default()
    })
    .map(drop)
}

/// Names the first record whose values are out of range.
fn first<'a>(path: &Path, mut all: impl Iterator<Item = (&'a str, Checked)>) -> Result<(), StoreError> {
    let fault = all.find_map(|(key, checked)| Some((key, checked.err()?)));
    fault.map_or(Ok(()), |(key, why)| {
        Err(StoreError::Value { path: path.to_owned(), key: key.to_owned(), why: Box::new(why) })
    })
}

/// Checks all settings.
pub fn config(path: &Path, config: &Config) -> Result<(), StoreError> {
    let newest = config.revision;
    first(path, std::iter::once(("revision", revision(newest, limits::REVISION_MAX))))?;
    let peers = config.upstreams.iter().flat_map(|(upstream, peers)| {
        peers.iter().map(move |(at, record)| {
            (at.as_str(), address(upstream, at).and_then(|()| revision(record.revision, newest)))
        })
    });
    first(path, peers)?;
    let classes = config.classes.iter().map(|(name, record)| {
        (name.as_str(), class(name, record.settings).and_then(|()| revision(record.revision, newest)))
    });
    first(path, classes)?;
    let keys = config.keys.iter();
    first(
        path,
        keys.map(|(id, record)| (id.as_str(), key(id, record).and_then(|()| revision(record.revision, newest)))),
    )
}

/// Checks all nodes.
pub fn nodes(path: &Path, nodes: &[(String, NodeRecord)]) -> Result<(), StoreError> {
    first(path, nodes.iter().map(|(name, record)| (name.as_str(), node(name, record).map_err(Unfit::from))))
}
