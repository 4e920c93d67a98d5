//! Tables of the contenders' results, and the verdict on each promise.
//!
//! A row holds medians over rounds. Ratios are medians of the rounds' own ratios, since only within
//! a round were arrivals and work the same. Pure but for printing.

use std::time::Duration;

use crate::client::Fate;
use crate::contender::Contender;
use crate::run::{Heat, Outcome};
use crate::stats::{Spread, Summary};

/// Which of a request's times is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// To the end of the response.
    Whole,
    /// To the first byte of the body.
    FirstByte,
}

/// One row of a table: a contender or a simulated yardstick, with a summary per round.
pub struct Row {
    /// Its name.
    pub name: String,
    /// One per round, in order.
    pub rounds: Vec<Summary>,
}

/// Summarises the results of one lane from `warm_up` on.
pub fn summarise(outcomes: &[Outcome], warm_up: Duration, measure: Measure) -> Summary {
    let measured = || outcomes.iter().filter(move |outcome| outcome.at >= warm_up);
    let count = |fate: Fate| measured().filter(|outcome| outcome.fate == fate).count();
    let time = |outcome: &Outcome| match measure {
        Measure::Whole => outcome.latency,
        Measure::FirstByte => outcome.first_byte.unwrap_or(outcome.latency),
    };
    let timed = measured().filter(|outcome| outcome.fate != Fate::Failed).map(time);
    Summary { errors: count(Fate::Failed), unfinished: count(Fate::Unfinished), ..Summary::of(timed) }
}

/// A row per contender, in their order.
pub fn rows(heats: &[Heat], warm_up: Duration, measure: Measure) -> Vec<Row> {
    let contenders = heats.first().map_or(&[][..], |heat| &heat.lanes);
    let row = |(place, (contender, _)): (usize, &(Contender, _))| Row {
        name: contender.name().to_owned(),
        rounds: heats.iter().map(|heat| summarise(&heat.lanes[place].1, warm_up, measure)).collect(),
    };
    contenders.iter().enumerate().map(row).collect()
}

impl Row {
    /// A row from simulated latencies, one list per heat, in the traces' order.
    pub fn simulated(name: &str, heats: &[Heat], warm_up: Duration, run: impl Fn(&Heat) -> Vec<Duration>) -> Self {
        let summary = |heat: &Heat| {
            let pairs = heat.trace.iter().zip(run(heat));
            Summary::of(pairs.filter(|(arrival, _)| arrival.at >= warm_up).map(|(_, latency)| latency))
        };
        Row { name: name.to_owned(), rounds: heats.iter().map(summary).collect() }
    }

    /// Median over rounds of one figure.
    pub fn median(&self, figure: impl Fn(&Summary) -> f64) -> f64 {
        Spread::of(self.rounds.iter().map(figure)).median
    }

    /// Spread over rounds of this row's figure over `other`'s in the same round.
    pub fn over(&self, other: &Row, figure: impl Fn(&Summary) -> f64) -> Spread {
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(mine, theirs)| figure(mine) / figure(theirs)))
    }
}

/// The row called `name`, if it took part.
pub fn find<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

/// Prints the rows, the ratios of Pincer to each of them, and those of each to the row called
/// "oracle", where there are such rows.
pub fn print(rows: &[Row]) {
    let oracle = find(rows, "oracle");
    let pincer = find(rows, Contender::Pincer.name());
    println!();
    println!(
        "  {:<25} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} | pincer ÷ this  | this ÷ oracle",
        "seconds", "mean", "p50", "p90", "p99", "errors", "stuck"
    );
    println!("  {:76} | {:>6} {:>7} | {:>6} {:>7}", "", "mean", "p99", "mean", "p99");
    for row in rows {
        print_row(row, pincer, oracle);
    }
    println!();
}

fn print_row(row: &Row, pincer: Option<&Row>, oracle: Option<&Row>) {
    let figures = [row.median(|s| s.mean), row.median(|s| s.p50), row.median(|s| s.p90), row.median(|s| s.p99)];
    let [mean, p50, p90, p99] = figures.map(|seconds| format!("{seconds:8.3}"));
    let count = |figure: fn(&Summary) -> usize| row.rounds.iter().map(figure).sum::<usize>();
    let (errors, stuck) = (count(|s| s.errors), count(|s| s.unfinished));
    let ratios = |above: &Row, below: &Row| {
        format!("{:6.2} {:7.2}", above.over(below, |s| s.mean).median, above.over(below, |s| s.p99).median)
    };
    let ours = pincer.map_or(" ".repeat(14), |pincer| ratios(pincer, row));
    let ideal = oracle.map_or(String::new(), |oracle| ratios(row, oracle));
    println!("  {:<25} {mean} {p50} {p90} {p99} {errors:>6} {stuck:>6} | {ours} | {ideal}", row.name);
}

/// The promises of a run, kept or broken.
#[derive(Default)]
pub struct Verdicts {
    /// Promises that were not kept.
    pub broken: usize,
    /// Promises that were checked.
    pub judged: usize,
}

impl Verdicts {
    /// Judges and prints one promise: `figure` must not exceed `limit`.
    pub fn at_most(&mut self, what: &str, figure: f64, limit: f64) {
        self.judge(what, figure, limit, figure <= limit, "at most");
    }

    /// Judges and prints one promise: `figure` must reach `limit`.
    pub fn at_least(&mut self, what: &str, figure: f64, limit: f64) {
        self.judge(what, figure, limit, figure >= limit, "at least");
    }

    /// Judges a paired ratio of the first row by its median over rounds, and shows the spread of
    /// the rounds.
    pub fn ratio(&mut self, what: &str, spread: Spread, limit: f64) {
        let what = format!("{what} (rounds {:.3} to {:.3})", spread.low, spread.high);
        self.at_most(&what, spread.median, limit);
    }

    fn judge(&mut self, what: &str, figure: f64, limit: f64, kept: bool, bound: &str) {
        self.judged += 1;
        self.broken += usize::from(!kept);
        let word = if kept { "kept  " } else { "BROKEN" };
        println!("  {word}  {what}: {figure:.3}, {bound} {limit}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(at_s: u64, fate: Fate, latency_s: u64) -> Outcome {
        let latency = Duration::from_secs(latency_s);
        let at = Duration::from_secs(at_s);
        Outcome {
            at,
            work: 1.0,
            class: None,
            status: 0,
            fate,
            latency,
            first_byte: None,
            lag: Duration::ZERO,
            replica: None,
        }
    }

    #[test]
    fn the_warm_up_and_failures_have_no_latency() {
        let outcomes = [
            outcome(0, Fate::Succeeded, 100),
            outcome(5, Fate::Succeeded, 1),
            outcome(6, Fate::Failed, 0),
            outcome(7, Fate::Unfinished, 3),
        ];
        let summary = summarise(&outcomes, Duration::from_secs(5), Measure::Whole);
        assert_eq!((summary.mean, summary.errors, summary.unfinished), (2.0, 1, 1));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let row = |means: [f64; 3]| Row {
            name: String::new(),
            rounds: means.map(|mean| Summary { mean, ..Summary::default() }).to_vec(),
        };
        let spread = row([1.0, 20.0, 3.0]).over(&row([2.0, 10.0, 6.0]), |s| s.mean);
        assert_eq!(spread, Spread { low: 0.5, median: 0.5, high: 2.0 });
    }

    #[test]
    fn a_figure_over_its_limit_is_a_broken_promise() {
        let mut verdicts = Verdicts::default();
        verdicts.at_most("p99", 0.71, 0.7);
        verdicts.at_least("share", 0.9, 0.8);
        assert_eq!((verdicts.judged, verdicts.broken), (2, 1));
    }
}
