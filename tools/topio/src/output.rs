//! What commands print: facts, as text for people or as JSON for programs, on standard output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

use crate::exit::{Failure, Outcome};

/// How facts are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON value.
    Json,
}

impl Format {
    /// Prints facts and ends the line.
    pub fn print(self, facts: &(impl Serialize + Display)) -> Outcome {
        let text = match self {
            Format::Text => facts.to_string(),
            Format::Json => serde_json::to_string_pretty(facts).expect("facts are plain data"),
        };
        let end = if text.ends_with('\n') { "" } else { "\n" };
        write_all(&format!("{text}{end}"))
    }
}

/// Writes to standard output. A reader that has left, such as `head`, is no error.
fn write_all(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output can't be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Lays out rows in columns: the first one to the left, the others to the right, two spaces between.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(
                |(column, (cell, &width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb", "c"], ["aaa", "b", "µµ"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(columns(&rows), "a    bb   c\naaa   b  µµ\n");
        assert_eq!(columns(&[]), "");
    }
}
