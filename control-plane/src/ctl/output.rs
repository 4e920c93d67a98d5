//! Where results are printed.

use std::io::{self, Write as _};

use serde::Serialize;

use super::{args::Output, failure::Failure, show::table::Table};

/// Prints a complete result.
pub fn print<T: Serialize + Table>(output: Output, result: &T) -> Result<(), Failure> {
    let text = match output {
        Output::Table => result.table(),
        Output::Json => serde_json::to_string(result)? + "\n",
    };
    print_text(&text)
}

pub fn print_text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
