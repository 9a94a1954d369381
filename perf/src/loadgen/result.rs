//! What a run of the load generator has found.

use std::collections::BTreeMap;

use dag::client::Code;
use serde::{Deserialize, Serialize};

use crate::report::{LatencyHistogram, Machine, RunData, Sample};

/// A run as the client saw it: its part of [`RunData`](crate::report::RunData), under the same names, and what went
/// wrong on the way. As JSON it goes from the generator's process to the one that writes the report.
///
/// Of the transactions due in the measured time: `offered = committed + rejected + unanswered`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LoadResult {
    /// When the measured time began, µs since the Unix epoch.
    pub start_unix_us: u64,
    /// The measured time, seconds: as ordered, or until the run was stopped.
    pub duration_s: f64,
    /// Accounts to choose from.
    pub accounts: u64,
    /// The rate that was ordered.
    pub offered_per_second: f64,
    /// Transactions due in the measured time.
    pub offered: u64,
    /// Those acknowledged as committed and durable, however late.
    pub committed: u64,
    /// Acknowledgements received within the measured time, per second.
    pub committed_per_second: f64,
    /// The same, times the payees of each.
    pub payees_per_second: f64,
    /// Those refused for good, by cause.
    pub rejected: BTreeMap<String, u64>,
    /// Those without an answer when the run ended.
    pub unanswered: u64,
    /// Of the whole run, those that never left: all sockets were full, or no validator was there.
    pub unsent: u64,
    /// From the intended time to the acknowledgement, of those committed.
    pub latency: LatencyHistogram,
    /// The measured time, and the wait for the last replies behind it, in seconds.
    pub samples: Vec<Sample>,
    /// Connections that stood and were lost, in the whole run, as in the next two.
    pub lost_connections: u64,
    /// Transactions sent again because their connection was lost, or their validator was left.
    pub resubmitted: u64,
    /// Transactions sent again because the answer was "later".
    pub retried: u64,
    /// Processor time of the sending thread in the whole run, seconds.
    pub cpu_seconds: f64,
}

impl LoadResult {
    /// The client's part of a report. What the validators know (stages, use of cores) and the configuration are left
    /// empty, for the caller to fill in.
    pub fn into_run_data(self, title: String, validators: u32, tables: u32, machine: Machine) -> RunData {
        RunData {
            title,
            start_unix_us: self.start_unix_us,
            duration_s: self.duration_s,
            validators,
            tables,
            accounts: self.accounts,
            offered_per_second: self.offered_per_second,
            offered: self.offered,
            committed: self.committed,
            committed_per_second: self.committed_per_second,
            payees_per_second: self.payees_per_second,
            rejected: self.rejected,
            latency: self.latency,
            samples: self.samples,
            stages: BTreeMap::new(),
            validator_use: Vec::new(),
            relays: Vec::new(),
            machine,
            configuration: BTreeMap::new(),
        }
    }
}

/// The cause of a refusal in a few words: the text of its code up to the explanation.
pub fn cause(code: Code) -> String {
    let text = code.to_string();
    text.split(':').next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn causes_are_short_and_distinct() {
        let causes: BTreeSet<String> = Code::ALL.into_iter().map(cause).collect();
        assert_eq!(causes.len(), Code::ALL.len());
        assert!(causes.contains("stale sequence"));
    }
}
