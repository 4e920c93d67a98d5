//! Turns a request about classes into changes of records, or refuses it. It does for classes what
//! `crate::plan` does for peers, and is as pure.

use std::collections::{BTreeMap, BTreeSet};

use pincer_proto::limits;

use super::{Mask, Record, Settings};
use crate::{
    declared::Declared,
    model::{Config, Full, Replaced},
    names,
    refusal::{Refusal, check_etag},
};

/// A request of an operator. Its names and values have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Add a class.
    Create {
        /// Its name.
        name: String,
        /// Its settings.
        settings: Settings,
    },
    /// Set fields of a class.
    Update {
        /// Its name.
        name: String,
        /// The values of the fields in `mask`.
        settings: Settings,
        /// Which fields.
        mask: Mask,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
        /// Add it if it isn't there.
        allow_missing: bool,
    },
    /// Remove a class that was added, or all settings of a declared one.
    Delete {
        /// Its name.
        name: String,
        /// The etag that the caller has read; `None` = any.
        etag: Option<String>,
    },
    /// Replace all classes.
    Apply(Vec<Desired>),
}

/// All settings that a class is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its name.
    pub name: String,
    /// All its settings.
    pub settings: Settings,
    /// The etag that the caller has read; `None` = any.
    pub etag: Option<String>,
}

/// A change of one class.
pub type Change = Replaced<Record>;

/// The changes that `op` makes. Empty if nothing changes.
pub fn plan(op: &Op, config: &Config, declared: &Declared) -> Result<Vec<Change>, Refusal> {
    let view = View { config, declared };
    let changes = match op {
        Op::Create { name, settings } => vec![view.create(name, *settings)?],
        Op::Update { name, settings, mask, etag, allow_missing } => {
            vec![view.update(name, *settings, *mask, etag.as_deref(), *allow_missing)?]
        }
        Op::Delete { name, etag } => vec![view.delete(name, etag.as_deref())?],
        Op::Apply(desired) => view.apply(desired)?,
    };
    let changes: Vec<_> = changes.into_iter().filter(|change| !is_same(change)).collect();
    if !changes.is_empty() {
        changes.iter().try_for_each(|change| view.check_rate(change))?;
        view.check(&changes)?;
    }
    Ok(changes)
}

fn is_same(change: &Change) -> bool {
    let said = |record: Option<Record>| record.map(|r| (r.settings, r.added)).unwrap_or_default();
    match (change.before, change.after) {
        (Some(_), None) => false,
        (before, after) => said(before) == said(after),
    }
}

struct View<'a> {
    config: &'a Config,
    declared: &'a Declared,
}

impl View<'_> {
    fn record(&self, name: &str) -> Option<Record> {
        self.config.classes.get(name).copied()
    }

    fn is_declared(&self, name: &str) -> bool {
        self.declared.classes.contains_key(name)
    }

    fn is_declared_by_all(&self, name: &str) -> bool {
        self.declared.classes.get(name).is_some_and(|class| class.nodes >= self.declared.nodes)
    }

    fn change(&self, name: &str, after: Option<Record>) -> Change {
        Change { id: name.to_owned(), before: self.record(name), after }
    }

    fn check_etag(&self, name: &str, given: Option<&str>) -> Result<(), Refusal> {
        check_etag(given, self.record(name).map_or(0, |record| record.revision), || names::class_name(name))
    }

    fn create(&self, name: &str, settings: Settings) -> Result<Change, Refusal> {
        if self.record(name).is_some_and(|r| r.added) || self.is_declared_by_all(name) {
            return Err(Refusal::Exists(names::class_name(name)));
        }
        Ok(self.change(name, Some(Record { settings, added: true, revision: 0 })))
    }

    fn update(
        &self,
        name: &str,
        settings: Settings,
        mask: Mask,
        etag: Option<&str>,
        allow_missing: bool,
    ) -> Result<Change, Refusal> {
        let is_new = self.record(name).is_none() && !self.is_declared(name);
        if is_new && !allow_missing {
            return Err(Refusal::NoClass(names::class_name(name)));
        }
        self.check_etag(name, etag)?;
        let record = self.record(name).unwrap_or_default();
        let after = Record { settings: record.settings.with(settings, mask), added: record.added || is_new, ..record };
        Ok(self.change(name, self.kept(name, after)))
    }

    /// `record`, unless it has no settings and belongs to a class that no node declares any more.
    fn kept(&self, name: &str, record: Record) -> Option<Record> {
        (record.config(name).is_some() || self.is_declared(name)).then_some(record)
    }

    fn delete(&self, name: &str, etag: Option<&str>) -> Result<Change, Refusal> {
        let Some(record) = self.record(name).filter(|record| record.config(name).is_some()) else {
            let name_shown = names::class_name(name);
            let refusal = if self.is_declared(name) { Refusal::DeclaredClass } else { Refusal::NoClassToDelete };
            return Err(refusal(name_shown));
        };
        self.check_etag(name, etag)?;
        // A declared class keeps a record without settings, so that an old etag never becomes valid
        // again.
        let cleared = Record { settings: Settings::default(), added: false, ..record };
        Ok(self.change(name, self.kept(name, cleared)))
    }

    fn apply(&self, desired: &[Desired]) -> Result<Vec<Change>, Refusal> {
        let mut wanted = BTreeSet::new();
        let mut changes = Vec::new();
        for class in desired {
            let name = class.name.as_str();
            if !wanted.insert(name) {
                return Err(Refusal::Twice(names::class_name(name)));
            }
            self.check_etag(name, class.etag.as_deref())?;
            let record = self.record(name).unwrap_or_default();
            let added = record.added || !self.is_declared(name);
            changes.push(self.change(name, self.kept(name, Record { settings: class.settings, added, ..record })));
        }
        for (name, record) in self.config.classes.iter().filter(|(name, _)| !wanted.contains(name.as_str())) {
            let cleared = Record { revision: record.revision, ..Record::default() };
            changes.push(self.change(name, self.kept(name, cleared)));
        }
        Ok(changes)
    }

    /// Refuses a burst or a delay that a change brings where no rate is in force, as nginx -t does.
    /// A burst or delay that was set before is accepted, so an operator may unset the rate alone.
    fn check_rate(&self, change: &Change) -> Result<(), Refusal> {
        let settings = |record: Option<Record>| record.map(|record| record.settings).unwrap_or_default();
        let (before, after) = (settings(change.before), settings(change.after));
        let fields = [("burst", before.burst, after.burst), ("delay", before.delay, after.delay)];
        let brought = fields.into_iter().find(|(_, before, after)| after.is_some() && before != after);
        let declared = self.declared.classes.get(&change.id).and_then(|class| class.settings.rate);
        let has_rate = after.rate.or(declared).is_some_and(|rate| rate.requests > 0);
        match brought {
            Some((field, ..)) if !has_rate => Err(Refusal::NoRate { class: names::class_name(&change.id), field }),
            _ => Ok(()),
        }
    }

    /// Refuses changes after which there would be too many classes, or the shares of a node would
    /// exceed 100 %.
    fn check(&self, changes: &[Change]) -> Result<(), Refusal> {
        let mut records: BTreeMap<&str, Record> =
            self.config.classes.iter().map(|(name, record)| (name.as_str(), *record)).collect();
        for change in changes {
            match change.after {
                Some(record) => records.insert(&change.id, record),
                None => records.remove(change.id.as_str()),
            };
        }
        let all: BTreeSet<&str> =
            self.declared.classes.keys().map(String::as_str).chain(records.keys().copied()).collect();
        if all.len() > limits::CLASSES_MAX {
            return Err(Full { what: "classes".to_owned(), count: all.len(), max: limits::CLASSES_MAX }.into());
        }
        let counts = |record: Option<Record>| record.map(|r| (r.settings.share, r.added)).unwrap_or_default();
        let is_felt = changes.iter().any(|change| counts(change.before) != counts(change.after));
        if is_felt { self.check_nodes(&records) } else { Ok(()) }
    }

    /// Checks each node by itself, since nodes may declare different classes, and a node that
    /// declares none.
    fn check_nodes(&self, records: &BTreeMap<&str, Record>) -> Result<(), Refusal> {
        let bare = BTreeMap::new();
        for declares in self.declared.shares.iter().chain([&bare]) {
            let added = records.iter().filter(|(name, record)| record.added && !declares.contains_key(**name));
            let (count, max) = (declares.len() + added.clone().count(), limits::CLASSES_PER_NODE_MAX);
            if count > max {
                return Err(Full { what: "classes of a node".to_owned(), count, max }.into());
            }
            let set = |name: &str| records.get(name).and_then(|record| record.settings.share);
            let own = declares.iter().map(|(name, declared)| set(name).or(*declared));
            let added = records.iter().filter(|(name, record)| record.added && !declares.contains_key(**name));
            let sum: u32 = own.chain(added.map(|(_, record)| record.settings.share)).flatten().map(u32::from).sum();
            if sum > limits::SHARE_MAX {
                return Err(Refusal::Shares(sum));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
