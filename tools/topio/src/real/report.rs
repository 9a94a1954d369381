//! What a run tells while it goes on, and at its end.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;
use sim::model::Violation;

use super::plan::Kind;

/// What came of a run.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Of the faults and the load.
    pub seconds: f64,
    /// What the plan and the clients' dice follow from.
    pub seed: u64,
    /// What the program was built from.
    pub commit: &'static str,
    /// Processes.
    pub validators: usize,
    /// Transactions that clients wanted.
    pub submitted: u64,
    /// Those that they were told of.
    pub acknowledged: u64,
    /// Times that one was submitted again.
    pub retried: u64,
    /// Blocks that were read and compared.
    pub blocks: usize,
    /// Faults that struck.
    pub faults: BTreeMap<Kind, u64>,
    /// Longest time without an acknowledgement, in seconds, the healing included.
    pub longest_gap: f64,
    /// From the end of the faults until everything was decided and judged, in seconds.
    pub settled: f64,
    /// At most one: the first ends the run.
    pub violations: Vec<Violation>,
    /// Where the validators' files are kept, after a violation.
    pub data_dir: Option<PathBuf>,
}

/// The faults so far, in one line.
pub fn faults(counts: &BTreeMap<Kind, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(kind, count)| format!("{} {count}", kind.name())).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |name: &str, value: String| format!("{name:<16} {value}\n");
        let rows = [
            row("seed", format!("{} at commit {}", self.seed, self.commit)),
            row("network", format!("{} validators, {:.0} s", self.validators, self.seconds)),
            row("submitted", self.submitted.to_string()),
            row("acknowledged", self.acknowledged.to_string()),
            row("submitted again", self.retried.to_string()),
            row("blocks compared", self.blocks.to_string()),
            row("faults", faults(&self.faults)),
            row("longest gap", format!("{:.1} s without an acknowledgement", self.longest_gap)),
            row("settled", format!("{:.1} s after the faults", self.settled)),
            row("violations", self.violations.len().to_string()),
        ];
        f.write_str(&rows.concat())?;
        match self.violations.first() {
            Some(violation) => write!(f, "VIOLATED {violation}"),
            None => write!(f, "all invariants held"),
        }
    }
}
