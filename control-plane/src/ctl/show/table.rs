//! The parts of tables: columns, names, times and numbers.
//!
//! Cells contain no control characters.

use crate::names;

/// A result that can be printed as a table.
pub trait Table {
    /// The lines, each with its newline.
    fn table(&self) -> String;
}

/// `text` without control characters.
pub fn plain(text: &str) -> String {
    names::printable(text)
}

/// Aligns columns, two spaces apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

pub fn seconds(value: Option<prost_types::Duration>) -> Option<f64> {
    let value = std::time::Duration::try_from(value?).ok()?;
    Some(value.as_secs_f64())
}

/// Milliseconds with microseconds.
pub fn milliseconds(value: Option<prost_types::Duration>) -> Option<f64> {
    seconds(value).map(|s| (s * 1e6).round() / 1e3)
}

/// A time for people: 1.234 s, 12.3 ms.
pub fn time(value_s: Option<f64>) -> String {
    match value_s {
        None => "-".to_owned(),
        Some(s) if s < 1.0 => format!("{:.1} ms", s * 1e3),
        Some(s) => format!("{s:.3} s"),
    }
}

pub fn last(name: &str, part: usize) -> String {
    name.splitn(part + 1, '/').nth(part).unwrap_or(name).to_owned()
}
