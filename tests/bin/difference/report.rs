//! What a run has seen: inputs by kind, findings, and what does not count.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::documented;
use crate::send::Outcome;

/// Numbers of a kind of inputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Inputs that were run.
    pub inputs: u64,
    /// Those that differed in the crowd, and not when they were alone.
    pub crowd: u64,
    /// Those where a side was not like itself.
    pub unstable: u64,
    /// Those that differed three times of three.
    pub different: u64,
}

/// Everything that is said at the end.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By kind.
    pub kinds: BTreeMap<&'static str, Tally>,
    /// Each with its reproducer.
    pub findings: Vec<String>,
    /// Differences like one that was found already.
    pub repeated: u64,
    /// Faults of stock nginx.
    pub own: Vec<String>,
    /// How often the race of stock nginx's was lost, there and with the module.
    pub races: [u64; 2],
    /// How long it took.
    pub took: Duration,
    /// Counters of the module.
    pub counters: String,
    /// The seed.
    pub seed: u64,
}

impl Report {
    /// Whether something was found.
    pub fn failed(&self) -> bool {
        !self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>8} {:>10} {:>10} {:>10}", "kind", "inputs", "different", "unstable", "crowd only")?;
        let mut all = Tally::default();
        for (kind, tally) in &self.kinds {
            let Tally { inputs, crowd, unstable, different } = *tally;
            writeln!(f, "{kind:<20} {inputs:>8} {different:>10} {unstable:>10} {crowd:>10}")?;
            all.inputs += inputs;
            all.crowd += crowd;
            all.unstable += unstable;
            all.different += different;
        }
        let Tally { inputs, crowd, unstable, different } = all;
        writeln!(f, "{:<20} {inputs:>8} {different:>10} {unstable:>10} {crowd:>10}", "all")?;
        writeln!(f, "{}", self.counters)?;
        for line in &self.own {
            writeln!(f, "stock nginx itself: {line}")?;
        }
        let [plain, pincer] = self.races;
        writeln!(f, "stock nginx's {:?}: {plain} times there, {pincer} with the module", documented::OWN_RACE)?;
        let per_s = inputs as f64 / self.took.as_secs_f64().max(1.0);
        writeln!(
            f,
            "difference: seed {}, {inputs} inputs in {:.0} s ({per_s:.0} a second), {} findings, {} differences like one of them",
            self.seed,
            self.took.as_secs_f64(),
            self.findings.len(),
            self.repeated
        )
    }
}

/// The lines that only one side has, in order of both.
pub fn differences(plain: &Outcome, pincer: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, plain, pincer) in
        [("client got", &plain.response, &pincer.response), ("origin got", &plain.received, &pincer.received)]
    {
        lines.extend(plain.iter().filter(|line| !pincer.contains(line)).map(|line| format!("{what}, plain:  {line}")));
        lines.extend(pincer.iter().filter(|line| !plain.contains(line)).map(|line| format!("{what}, pincer: {line}")));
        if plain != pincer && lines.is_empty() {
            lines.push(format!("{what}: the same lines in another order or number: {plain:?} and {pincer:?}"));
        }
    }
    lines
}

/// Two differences with the same signature are taken for one: the lines that differ, without their
/// numbers.
pub fn signature(lines: &[String]) -> String {
    let shape = |line: &String| line.chars().filter(|c| !c.is_ascii_digit()).take(60).collect::<String>();
    lines.iter().take(2).map(shape).collect()
}
