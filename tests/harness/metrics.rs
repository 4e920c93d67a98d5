//! A lint of Prometheus and OpenMetrics text: every rule that a scraper relies on, nothing about
//! our own metrics.
//!
//! Source: the OpenMetrics 1.0 specification and `promtool check metrics`. Cost: one pass. Text
//! without `# EOF` is read as the Prometheus format, in which that line is not required.

use std::collections::{BTreeMap, BTreeSet};

/// What a text of metrics says.
#[derive(Debug, Default)]
pub struct Metrics {
    types: BTreeMap<String, String>,
    helps: BTreeSet<String>,
    samples: Vec<Sample>,
    faults: Vec<String>,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name with suffix.
    pub name: String,
    /// Labels in the order of their names.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Metrics {
    /// Reads a text; faults are kept for [`Metrics::faults`].
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        let mut ended = false;
        for line in text.lines() {
            if ended {
                metrics.fault("something follows # EOF", line);
            }
            match line {
                "# EOF" => ended = true,
                "" => metrics.fault("empty line", line),
                comment if comment.starts_with('#') => metrics.comment(comment),
                sample => metrics.sample(sample),
            }
        }
        if !text.ends_with('\n') {
            metrics.fault("the last line does not end", text.lines().last().unwrap_or_default());
        }
        metrics.check_families();
        metrics.check_histograms();
        metrics
    }

    /// What is wrong; empty when it is clean.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The sum of all samples of this name that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).map(|sample| sample.value).sum()
    }

    /// All samples of this name that have these labels.
    pub fn find<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has =
            |sample: &Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value));
        self.samples.iter().filter(move |sample| sample.name == name && has(sample))
    }

    /// Names of the families.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    fn fault(&mut self, what: &str, line: &str) {
        self.faults.push(format!("{what}: {line:?}"));
    }

    fn comment(&mut self, line: &str) {
        let mut words = line.splitn(4, ' ');
        let (_, kind, name, rest) = (words.next(), words.next(), words.next().unwrap_or_default(), words.next());
        let known = match (kind, rest) {
            (Some("HELP"), Some(text)) if !text.is_empty() => self.helps.insert(name.to_owned()),
            (Some("TYPE"), Some(kind)) => self.types.insert(name.to_owned(), kind.to_owned()).is_none(),
            (Some("UNIT"), _) => true,
            _ => false,
        };
        if !known {
            self.fault("unknown or repeated comment", line);
        }
    }

    fn sample(&mut self, line: &str) {
        match parse(line) {
            Some(sample) if self.samples.iter().any(|old| old.name == sample.name && old.labels == sample.labels) => {
                self.fault("repeated sample", line);
            }
            Some(sample) => self.samples.push(sample),
            None => self.fault("not a sample", line),
        }
    }

    /// The family a sample belongs to, by its type's suffixes; in the Prometheus format a counter's
    /// family has the suffix itself.
    fn family(&self, name: &str) -> Option<(String, String)> {
        let suffixes = ["", "_total", "_created", "_bucket", "_count", "_sum", "_info"];
        suffixes.iter().find_map(|suffix| {
            let family = name.strip_suffix(suffix)?;
            self.types.get(family).map(|kind| (family.to_owned(), kind.clone()))
        })
    }

    fn check_families(&mut self) {
        let mut faults = Vec::new();
        let mut order: Vec<String> = Vec::new();
        for sample in &self.samples {
            let Some((family, kind)) = self.family(&sample.name) else {
                faults.push(format!("sample without # TYPE: {}", sample.name));
                continue;
            };
            if !self.helps.contains(&family) {
                faults.push(format!("family without # HELP: {family}"));
            }
            if kind == "counter" && !(sample.name.ends_with("_total") || sample.name.ends_with("_created")) {
                faults.push(format!("a counter must end in _total: {}", sample.name));
            }
            if kind != "gauge" && sample.value < 0.0 {
                faults.push(format!("negative: {} {}", sample.name, sample.value));
            }
            if order.last() != Some(&family) {
                if order.contains(&family) {
                    faults.push(format!("family in two places: {family}"));
                }
                order.push(family);
            }
        }
        faults.sort();
        faults.dedup();
        self.faults.extend(faults);
    }

    fn check_histograms(&mut self) {
        let histograms: Vec<String> =
            self.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name.clone()).collect();
        for name in histograms {
            let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            for sample in self.samples.iter().filter(|sample| sample.name == format!("{name}_bucket")) {
                let mut labels = sample.labels.clone();
                let bound =
                    labels.remove("le").and_then(|le| le.replace("+Inf", "inf").parse().ok()).unwrap_or(f64::NAN);
                series.entry(labels).or_default().push((bound, sample.value));
            }
            for (labels, buckets) in series {
                let count = self.samples.iter().find(|s| s.name == format!("{name}_count") && s.labels == labels);
                let sum = self.samples.iter().any(|s| s.name == format!("{name}_sum") && s.labels == labels);
                let rising = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
                let last = buckets.last().copied().unwrap_or_default();
                let whole = last.0.is_infinite() && count.is_some_and(|count| count.value == last.1) && sum;
                if !rising || !whole {
                    self.faults.push(format!("histogram {name}{labels:?} is not cumulative up to +Inf = _count"));
                }
            }
        }
    }
}

fn parse(line: &str) -> Option<Sample> {
    let (head, value) = match line.rfind('}') {
        Some(end) => line.split_at(end + 1),
        None => line.split_at(line.find(' ')?),
    };
    let value = value.strip_prefix(' ')?.split(' ').next()?.replace("+Inf", "inf").parse().ok()?;
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
        None => (head, BTreeMap::new()),
    };
    is_name(name).then(|| Sample { name: name.to_owned(), labels, value })
}

fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut end = 0;
        let mut escaped = false;
        for (at, character) in rest.char_indices() {
            if character == '"' && !escaped {
                end = at;
                break;
            }
            escaped = character == '\\' && !escaped;
        }
        let (value, rest) = rest.split_at_checked(end)?;
        if !is_name(name) || labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return None;
        }
        text = rest.strip_prefix('"')?;
        text = text.strip_prefix(',').unwrap_or(text);
    }
    Some(labels)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "# HELP a_requests Requests.
# TYPE a_requests counter
a_requests_total{peer=\"127.0.0.1:1\",upstream=\"u\"} 3
# HELP a_seconds Times.
# TYPE a_seconds histogram
a_seconds_bucket{le=\"0.1\"} 1
a_seconds_bucket{le=\"+Inf\"} 2
a_seconds_count 2
a_seconds_sum 0.7
# EOF
";

    #[test]
    fn a_clean_text_has_no_faults() {
        let metrics = Metrics::read(CLEAN);
        assert!(metrics.faults().is_empty(), "{:?}", metrics.faults());
        assert_eq!(metrics.sum("a_requests_total", &[("upstream", "u")]), 3.0);
    }

    #[test]
    fn every_damage_is_a_fault() {
        let damages = [
            ("# TYPE a_requests counter\n", ""),
            ("# HELP a_seconds Times.\n", ""),
            ("a_requests_total", "a_requests"),
            ("+Inf\"} 2", "+Inf\"} 3"),
            ("a_seconds_sum 0.7\n", ""),
            ("a_seconds_bucket{le=\"0.1\"} 1", "a_seconds_bucket{le=\"0.1\"} 4"),
            ("a_seconds_count 2", "a_seconds_count two"),
            ("# EOF\n", "# EOF\na_x 1\n"),
            ("a_seconds_sum 0.7\n", "a_seconds_sum 0.7\na_seconds_sum 0.7\n"),
            ("upstream=\"u\"", "upstream=u"),
        ];
        for (from, to) in damages {
            assert!(CLEAN.contains(from));
            assert!(!Metrics::read(&CLEAN.replace(from, to)).faults().is_empty(), "{from:?} → {to:?}");
        }
    }
}
