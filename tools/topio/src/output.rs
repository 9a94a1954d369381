//! What commands print: facts, as text for people or as JSON for programs, on standard output.

use std::{
    fmt::Display,
    io::{self, Write},
};

pub use perf::figure::columns;
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
