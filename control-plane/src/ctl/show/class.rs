//! Classes, as printed.

use std::collections::BTreeMap;

use pincer_proto::v1;
use serde::{Serialize, Serializer};

use super::table::{Table, columns, last, plain, row, seconds, time};
use crate::{
    classes::{FIELDS, Settings},
    words,
};

/// Settings as words by field, those that are set.
#[derive(Debug)]
struct Words([Option<String>; FIELDS.len()]);

impl Words {
    fn of(settings: Option<&v1::ClassSettings>) -> Self {
        // The control plane sends values in range; any other value is shown as unset.
        Self(words::settings(&Settings::from_proto(settings.copied()).unwrap_or_default()))
    }

    fn at(&self, field: usize) -> Option<&str> {
        self.0.get(field)?.as_deref()
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let set = FIELDS.into_iter().zip(&self.0).filter_map(|(field, word)| Some((field, word.as_deref()?)));
        set.collect::<BTreeMap<_, _>>().serialize(serializer)
    }
}

#[derive(Debug, Serialize)]
struct Stats {
    nodes: u32,
    in_flight: u64,
    waiting: u64,
    passed: u64,
    delayed: u64,
    rejected: u64,
    rejected_dry_run: u64,
    bytes: u64,
    queued: u64,
    queue_time_s: Option<f64>,
}

/// A class: `default` is nginx.conf's, `set` an operator's, `effective` what is in force.
#[derive(Debug, Serialize)]
pub struct Class {
    class: String,
    effective: Words,
    set: Words,
    default: Option<Words>,
    added: bool,
    declaring_nodes: u32,
    etag: String,
    revision: u64,
    stats: Option<Stats>,
}

impl From<&v1::Class> for Class {
    fn from(c: &v1::Class) -> Self {
        Self {
            class: last(&c.name, 1),
            effective: Words::of(c.effective.as_ref()),
            set: Words::of(c.settings.as_ref()),
            default: c.declared.as_ref().map(|declared| Words::of(Some(declared))),
            added: c.added,
            declaring_nodes: c.declaring_nodes,
            etag: c.etag.clone(),
            revision: c.revision,
            stats: c.stats.map(|s| Stats {
                nodes: s.nodes,
                in_flight: s.in_flight,
                waiting: s.waiting,
                passed: s.passed,
                delayed: s.delayed,
                rejected: s.rejected,
                rejected_dry_run: s.rejected_dry_run,
                bytes: s.bytes,
                queued: s.queued,
                queue_time_s: seconds(s.queue_time),
            }),
        }
    }
}

impl Class {
    fn origin(&self) -> &'static str {
        match (self.added, &self.default) {
            (true, _) => "added",
            (false, Some(_)) => "nginx.conf",
            (false, None) => "left over",
        }
    }

    /// The value in force. Where an operator has set it: with a star, and the value of nginx.conf.
    fn cell(&self, field: usize) -> String {
        let value = self.effective.at(field).unwrap_or("-");
        let declared = self.default.as_ref().and_then(|default| default.at(field));
        match (self.set.at(field), declared) {
            (Some(_), Some(declared)) => format!("{value}* ({declared})"),
            (Some(_), None) => format!("{value}*"),
            (None, _) => value.to_owned(),
        }
    }

    fn count(&self, value: fn(&Stats) -> u64) -> String {
        self.stats.as_ref().map_or("-".to_owned(), |stats| value(stats).to_string())
    }

    fn row(&self) -> Vec<String> {
        let mut cells = vec![self.class.clone()];
        cells.extend((0..FIELDS.len()).map(|field| self.cell(field)));
        cells.extend([
            self.count(|s| s.in_flight),
            self.count(|s| s.waiting),
            self.count(|s| s.passed),
            self.count(|s| s.delayed),
            self.count(|s| s.rejected),
            self.count(|s| s.bytes),
            time(self.stats.as_ref().and_then(|s| s.queue_time_s)),
            self.origin().to_owned(),
            self.etag.clone(),
        ]);
        cells
    }
}

impl Table for Class {
    fn table(&self) -> String {
        let mut rows = vec![row(["FIELD", "NGINX.CONF", "SET", "IN FORCE"])];
        for (at, field) in FIELDS.into_iter().enumerate() {
            let word = |words: Option<&Words>| words.and_then(|words| words.at(at)).unwrap_or("-").to_owned();
            rows.push(vec![
                field.to_owned(),
                word(self.default.as_ref()),
                word(Some(&self.set)),
                word(Some(&self.effective)),
            ]);
        }
        let head = format!(
            "{}: {}, declared by {} nodes, {} in flight, {} waiting, {} passed, {} rejected, etag {}\n",
            plain(&self.class),
            self.origin(),
            self.declaring_nodes,
            self.count(|s| s.in_flight),
            self.count(|s| s.waiting),
            self.count(|s| s.passed + s.delayed),
            self.count(|s| s.rejected),
            self.etag
        );
        head + &columns(&rows)
    }
}

/// `class list`.
#[derive(Debug, Serialize)]
pub struct Classes {
    classes: Vec<Class>,
}

impl From<Vec<v1::Class>> for Classes {
    fn from(all: Vec<v1::Class>) -> Self {
        Self { classes: all.iter().map(Class::from).collect() }
    }
}

impl Table for Classes {
    fn table(&self) -> String {
        let fields = FIELDS.iter().map(|field| field.to_uppercase().replace('_', " "));
        let usage = ["IN FLIGHT", "WAITING", "PASSED", "DELAYED", "REJECTED", "BYTES", "QUEUE TIME", "ORIGIN", "ETAG"];
        let header = ["CLASS".to_owned()].into_iter().chain(fields).chain(usage.map(str::to_owned));
        let mut rows = vec![header.collect()];
        rows.extend(self.classes.iter().map(Class::row));
        columns(&rows)
    }
}
