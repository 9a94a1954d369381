//! What one measured run produced, as plain data.

use std::collections::BTreeMap;

use engine::metrics::Stage;
use serde::{Deserialize, Serialize};

use super::{LatencyHistogram, Machine, RelayUse};

/// One measured run under open-loop load.
///
/// Whoever measures fills this in; everything in the report folder is derived from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunData {
    /// Heading of the report.
    pub title: String,
    /// When the first request was due, µs since the Unix epoch.
    pub start_unix_us: u64,
    /// How long load was offered, seconds.
    pub duration_s: f64,
    /// Validators in the committee.
    pub validators: u32,
    /// Tables of the shard.
    pub tables: u32,
    /// Accounts that sent or received.
    pub accounts: u64,
    /// Transactions per second the generator was set to send.
    pub offered_per_second: f64,
    /// Transactions sent.
    pub offered: u64,
    /// Transactions acknowledged as committed and durable.
    pub committed: u64,
    /// Committed transactions per second, over the window the run counts.
    pub committed_per_second: f64,
    /// Payees credited per second: the committed rate, times up to 255 for multi-transfers.
    pub payees_per_second: f64,
    /// Transactions refused, by the cause that the reply named.
    pub rejected: BTreeMap<String, u64>,
    /// From the intended send time to the acknowledgement (so without coordinated omission).
    pub latency: LatencyHistogram,
    /// The run in intervals, in order, usually of a second.
    pub samples: Vec<Sample>,
    /// Time spent in each stage, merged over validators.
    pub stages: BTreeMap<Stage, LatencyHistogram>,
    /// What the run cost each validator.
    pub validator_use: Vec<ValidatorUse>,
    /// What validators relayed meanwhile, where they did.
    #[serde(default)]
    pub relays: Vec<RelayUse>,
    /// What it ran on.
    pub machine: Machine,
    /// Settings worth repeating the run with.
    pub configuration: BTreeMap<String, String>,
}

/// One interval of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the start of the run to the start of the interval.
    pub start_s: f64,
    /// Seconds the interval lasted.
    pub duration_s: f64,
    /// Transactions sent in it.
    pub offered: u64,
    /// Transactions acknowledged in it.
    pub committed: u64,
    /// Latencies of those acknowledged in it.
    pub latency: LatencyHistogram,
}

/// The processor time of one validator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidatorUse {
    /// How people tell it from the others.
    pub name: String,
    /// User and system time of its process, seconds.
    pub cpu_seconds: f64,
    /// Its core loops.
    pub cores: Vec<CoreUse>,
}

/// Where the time of one core loop went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoreUse {
    /// Which core of the validator.
    pub core: u32,
    /// Processor time of the loop's thread, seconds.
    pub cpu_seconds: f64,
    /// Over the whole run.
    pub total: Shares,
    /// Interval by interval, in step with [`RunData::samples`]; empty when it was not sampled.
    pub over_time: Vec<Shares>,
}

/// How a core loop's wall-clock time divides; the three add up to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Turns that did work.
    pub busy: f64,
    /// Work was waiting, but a full queue or the disk held it back.
    pub blocked: f64,
    /// Nothing to do.
    pub idle: f64,
}

impl RunData {
    /// Transactions refused, whatever the cause.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Processor seconds of a validator, on average; 0 when none was measured.
    pub fn cpu_seconds_per_validator(&self) -> f64 {
        let total = self.validator_use.iter().fold(0.0, |total, validator| total + validator.cpu_seconds);
        total / self.validator_use.len().max(1) as f64
    }
}

impl Sample {
    /// Transactions sent per second in this interval.
    pub fn offered_per_second(&self) -> f64 {
        per_second(self.offered, self.duration_s)
    }

    /// Transactions acknowledged per second in this interval.
    pub fn committed_per_second(&self) -> f64 {
        per_second(self.committed, self.duration_s)
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn survives_json() {
        let data = fixture::run();
        let json = serde_json::to_string(&data).expect("plain data");
        assert_eq!(serde_json::from_str::<RunData>(&json).expect("just written"), data);
    }

    #[test]
    fn stage_names_are_their_json_keys() {
        for stage in Stage::ALL {
            let json = serde_json::to_value(stage).expect("plain data");
            assert_eq!(json, stage.name());
        }
    }

    #[test]
    fn rates_of_an_empty_interval_are_zero() {
        let sample = Sample {
            start_s: 0.0,
            duration_s: 0.0,
            offered: 7,
            committed: 7,
            latency: LatencyHistogram::new(),
        };
        assert_eq!((sample.offered_per_second(), sample.committed_per_second()), (0.0, 0.0));
    }
}
