//! pincerd's counters, in the text format of Prometheus.
//!
//! Labels are fixed words, never a node's or an upstream's name. Cost: one atomic add a count.
//! Bound: a fixed number of series.

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

/// How an operator's change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs)]
pub enum Outcome {
    Made,
    Unchanged,
    Checked,
    Refused,
    Failed,
    Unknown,
}

/// The label of `pincer_control_changes_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChangeLabels {
    outcome: Outcome,
}

/// All counters. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    /// The revision in force.
    pub revision: Gauge<u64, AtomicU64>,
    /// Nodes with a stream open.
    pub nodes_connected: Gauge<u64, AtomicU64>,
    /// Nodes known.
    pub nodes_known: Gauge<u64, AtomicU64>,
    /// 1 while the store takes changes, else 0.
    pub store_usable: Gauge<u64, AtomicU64>,
    /// Secrets of API keys that are sent to nodes.
    pub keys: Gauge<u64, AtomicU64>,
    /// Snapshots handed to streams.
    pub snapshots: Counter,
    /// Acks received.
    pub acks: Counter,
    /// Nacks received.
    pub nacks: Counter,
    /// Streams that were refused.
    pub hellos_refused: Counter,
    /// Connections that ended before their first call, because too many waited.
    pub connections_evicted: Counter,
    /// Calls that were refused.
    pub calls_refused: Counter,
    /// Steps of the wall clock.
    pub clock_steps: Counter,
    /// Purges sent to nodes.
    pub purges: Counter,
    /// Entries that nodes removed.
    pub purged_entries: Counter,
    /// The time from a revision to its Ack.
    pub ack_seconds: Histogram,
    changes: Family<ChangeLabels, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            revision: Gauge::default(),
            nodes_connected: Gauge::default(),
            nodes_known: Gauge::default(),
            store_usable: Gauge::default(),
            keys: Gauge::default(),
            snapshots: Counter::default(),
            acks: Counter::default(),
            nacks: Counter::default(),
            hellos_refused: Counter::default(),
            connections_evicted: Counter::default(),
            calls_refused: Counter::default(),
            clock_steps: Counter::default(),
            purges: Counter::default(),
            purged_entries: Counter::default(),
            ack_seconds: Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
            changes: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a change.
    pub fn count_change(&self, outcome: Outcome) {
        self.changes.get_or_create(&ChangeLabels { outcome }).inc();
    }

    /// The exposition.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("pincer_control");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of pincerd", build);
        registry.register("revision", "Revision in force", self.revision.clone());
        registry.register("nodes_connected", "Nodes with an open stream", self.nodes_connected.clone());
        registry.register("nodes_known", "Nodes known, connected or not", self.nodes_known.clone());
        registry.register("store_usable", "1 while the store takes changes, else 0", self.store_usable.clone());
        registry.register("keys", "Secrets of API keys that are valid", self.keys.clone());
        registry.register("snapshots", "Snapshots handed to streams", self.snapshots.clone());
        registry.register("acks", "Revisions that nodes acknowledged", self.acks.clone());
        registry.register("nacks", "Revisions that nodes refused", self.nacks.clone());
        registry.register("hellos_refused", "Streams of nodes that were refused", self.hellos_refused.clone());
        registry.register(
            "connections_evicted",
            "Connections that ended before their first call because too many waited",
            self.connections_evicted.clone(),
        );
        registry.register("calls_refused", "Calls that were refused", self.calls_refused.clone());
        registry.register("clock_steps", "Steps of the wall clock against the monotonic one", self.clock_steps.clone());
        registry.register("purges", "Purges that nodes were asked for", self.purges.clone());
        registry.register("purged_entries", "Cache entries that nodes removed", self.purged_entries.clone());
        registry.register("ack_seconds", "From a revision to its acknowledgement", self.ack_seconds.clone());
        registry.register("changes", "Changes that operators asked for", self.changes.clone());
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(classic(&out))
    }
}

/// OpenMetrics as the text format of Prometheus, which every version reads: a family of counters is
/// named as its samples are, and nothing marks the end.
fn classic(open_metrics: &str) -> String {
    let suffixes: BTreeMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter_map(|(name, kind)| match kind {
            "counter" => Some((name, "_total")),
            "info" => Some((name, "_info")),
            _ => None,
        })
        .collect();
    let mut out = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let head = ["# HELP ", "# TYPE "].into_iter().find(|head| line.starts_with(head));
        let family = head.and_then(|head| line[head.len()..].split_once(' '));
        match (head, family) {
            (Some(head), Some((name, rest))) => {
                let suffix = suffixes.get(name).copied().unwrap_or_default();
                let rest = if rest == "info" { "gauge" } else { rest };
                out.extend([head, name, suffix, " ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_names_every_series() {
        let metrics = Metrics::default();
        metrics.count_change(Outcome::Made);
        metrics.revision.set(7);
        let text = metrics.text().unwrap();
        assert!(text.contains("pincer_control_revision 7\n"));
        assert!(text.contains("pincer_control_changes_total{outcome=\"Made\"} 1\n"));
        assert!(text.contains("# TYPE pincer_control_changes_total counter\n"));
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().unwrap();
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {family} ")), "{sample} belongs to no family");
        }
    }
}
