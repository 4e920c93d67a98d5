//! Writes metric families in either dialect. Knows no metric of ours.
//!
//! Differences: OpenMetrics names a counter's family without `_total`, has `# UNIT` lines and ends
//! with `# EOF`.

use core::fmt::{self, Write};

use super::format::Format;
use crate::histogram::{BOUNDS_NS, Snapshot};

/// What a family is; decides its suffixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One family's metadata. `name` is without `_total` and ends in `unit` if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub help: &'static str,
}

/// Label names and values, in the order in which they are written.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

pub(super) struct Exposition<'o, W> {
    format: Format,
    out: &'o mut W,
}

impl<'o, W: Write> Exposition<'o, W> {
    pub fn new(format: Format, out: &'o mut W) -> Self {
        Self { format, out }
    }

    /// Begins a family: help, type and unit. Its samples must follow before the next one begins.
    pub fn family(&mut self, family: &Family) -> fmt::Result {
        let Family { name, kind, unit, help } = *family;
        let open = self.format == Format::OpenMetrics;
        let suffix = if kind == Kind::Counter && !open { "_total" } else { "" };
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write!(self.out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {word}\n")?;
        if open && !unit.is_empty() {
            writeln!(self.out, "# UNIT {name} {unit}")?;
        }
        Ok(())
    }

    /// One whole-numbered sample.
    pub fn number(&mut self, family: &Family, labels: Labels<'_>, value: u64) -> fmt::Result {
        self.name(family)?;
        self.labels(labels)?;
        writeln!(self.out, " {value}")
    }

    /// One duration, in seconds.
    pub fn seconds(&mut self, family: &Family, labels: Labels<'_>, value_ns: u64) -> fmt::Result {
        self.name(family)?;
        self.labels(labels)?;
        self.out.write_char(' ')?;
        write_seconds(self.out, value_ns)?;
        self.out.write_char('\n')
    }

    /// One histogram of durations.
    pub fn histogram(&mut self, family: &Family, labels: Labels<'_>, times: &Snapshot) -> fmt::Result {
        let mut below = 0;
        for (count, bound) in times.buckets.iter().zip(BOUNDS_NS.map(Some).into_iter().chain([None])) {
            below += count;
            self.bucket(family, labels, bound, below)?;
        }
        write!(self.out, "{}_sum", family.name)?;
        self.labels(labels)?;
        self.out.write_char(' ')?;
        write_seconds(self.out, times.sum_ns)?;
        write!(self.out, "\n{}_count", family.name)?;
        self.labels(labels)?;
        writeln!(self.out, " {below}")
    }

    /// The end of the exposition.
    pub fn end(self) -> fmt::Result {
        if self.format == Format::OpenMetrics { self.out.write_str("# EOF\n") } else { Ok(()) }
    }

    fn bucket(&mut self, family: &Family, labels: Labels<'_>, bound_ns: Option<u64>, below: u64) -> fmt::Result {
        write!(self.out, "{}_bucket{{", family.name)?;
        for (name, value) in labels {
            write_label(self.out, name, value)?;
            self.out.write_char(',')?;
        }
        self.out.write_str("le=\"")?;
        match bound_ns {
            Some(bound_ns) => write_seconds(self.out, bound_ns)?,
            None => self.out.write_str("+Inf")?,
        }
        writeln!(self.out, "\"}} {below}")
    }

    fn name(&mut self, family: &Family) -> fmt::Result {
        let suffix = if family.kind == Kind::Counter { "_total" } else { "" };
        write!(self.out, "{}{suffix}", family.name)
    }

    fn labels(&mut self, labels: Labels<'_>) -> fmt::Result {
        for (index, (name, value)) in labels.iter().enumerate() {
            self.out.write_char(if index == 0 { '{' } else { ',' })?;
            write_label(self.out, name, value)?;
        }
        if labels.is_empty() { Ok(()) } else { self.out.write_char('}') }
    }
}

fn write_label(out: &mut impl Write, name: &str, value: &str) -> fmt::Result {
    write!(out, "{name}=\"")?;
    for character in value.chars() {
        match character {
            '\n' => out.write_str("\\n")?,
            '"' | '\\' => write!(out, "\\{character}")?,
            plain => out.write_char(plain)?,
        }
    }
    out.write_char('"')
}

/// Seconds without trailing zeros but always with a decimal: the canonical form of a bucket's
/// bound.
fn write_seconds(out: &mut impl Write, ns: u64) -> fmt::Result {
    let (mut fraction, mut digits) = (ns % 1_000_000_000, 9);
    while digits > 1 && fraction % 10 == 0 {
        fraction /= 10;
        digits -= 1;
    }
    write!(out, "{}.{fraction:0digits$}", ns / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact_and_canonical() {
        for (ns, text) in [
            (0, "0.0"),
            (1_000_000, "0.001"),
            (2_500_000_000, "2.5"),
            (300_000_000_000, "300.0"),
            (1_000_000_001, "1.000000001"),
        ] {
            let mut out = String::new();
            write_seconds(&mut out, ns).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        write_label(&mut out, "peer", "a\"b\\c\nd").unwrap();
        assert_eq!(out, "peer=\"a\\\"b\\\\c\\nd\"");
    }
}
