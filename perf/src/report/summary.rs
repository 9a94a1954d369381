//! `summary.json`: the figures of a run, for programs, and as a short table for the terminal.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Machine, Percentiles, RelayUse, RunData, Stage, format};

/// The figures of one run. Its JSON is `summary.json`; its [`Display`](fmt::Display) is for the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
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
    /// Transactions acknowledged per second.
    pub committed_per_second: f64,
    /// Payees credited per second.
    pub payees_per_second: f64,
    /// Transactions sent.
    pub offered: u64,
    /// Transactions acknowledged.
    pub committed: u64,
    /// Transactions refused.
    pub rejected: u64,
    /// The same, by cause.
    pub rejected_by_cause: BTreeMap<String, u64>,
    /// From the intended send time to the acknowledgement, µs.
    pub latency_us: Percentiles,
    /// Time in each stage, merged over validators, µs.
    pub stages_us: BTreeMap<String, Percentiles>,
    /// Processor seconds of a validator, on average.
    pub cpu_seconds_per_validator: f64,
    /// Processor seconds of each validator.
    pub cpu_seconds: BTreeMap<String, f64>,
    /// What validators relayed meanwhile, where they did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayUse>,
    /// What it ran on.
    pub machine: Machine,
    /// Settings of the run.
    pub configuration: BTreeMap<String, String>,
}

impl RunData {
    /// The figures of this run.
    ///
    /// # Panics
    /// When a rate or a time is negative or not finite: JSON has no such numbers, so no one could read it.
    pub fn summary(&self) -> Summary {
        let mut figures = vec![self.duration_s, self.offered_per_second, self.committed_per_second];
        figures.extend([self.payees_per_second, self.cpu_seconds_per_validator()]);
        assert!(
            figures.iter().all(|figure| figure.is_finite() && *figure >= 0.0),
            "rates and times of a run"
        );
        let stages = self.stages.iter().map(|(stage, latency)| (stage.to_string(), latency.percentiles()));
        let cpu_seconds =
            self.validator_use.iter().map(|validator| (validator.name.clone(), validator.cpu_seconds));
        Summary {
            title: self.title.clone(),
            start_unix_us: self.start_unix_us,
            duration_s: self.duration_s,
            validators: self.validators,
            tables: self.tables,
            accounts: self.accounts,
            offered_per_second: self.offered_per_second,
            committed_per_second: self.committed_per_second,
            payees_per_second: self.payees_per_second,
            offered: self.offered,
            committed: self.committed,
            rejected: self.rejected_total(),
            rejected_by_cause: self.rejected.clone(),
            latency_us: self.latency.percentiles(),
            stages_us: stages.collect(),
            cpu_seconds_per_validator: self.cpu_seconds_per_validator(),
            cpu_seconds: cpu_seconds.collect(),
            relays: self.relays.clone(),
            machine: self.machine.clone(),
            configuration: self.configuration.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        writeln!(
            f,
            "{} validators, {} tables, {} accounts, {}\n",
            self.validators,
            self.tables,
            format::count(self.accounts),
            format::seconds(self.duration_s)
        )?;
        self.fmt_rates(f)?;
        writeln!(
            f,
            "\n{:<12}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "latency", "p50", "p90", "p99", "p99.9", "max"
        )?;
        fmt_percentiles(f, "end to end", &self.latency_us)?;
        for stage in Stage::ALL {
            if let Some(percentiles) = self.stages_us.get(stage.name()) {
                fmt_percentiles(f, &format!("  {stage}"), percentiles)?;
            }
        }
        writeln!(
            f,
            "\nprocessor   {} s per validator",
            format::three_digits(self.cpu_seconds_per_validator)
        )?;
        self.relays.iter().try_for_each(|relay| writeln!(f, "{relay}"))
    }
}

impl Summary {
    fn fmt_rates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, rate: f64, note: String| {
            writeln!(f, "{name:<12}{:>10} /s{note}", format::whole(rate))
        };
        line("offered", self.offered_per_second, format!("  ({} sent)", format::count(self.offered)))?;
        line(
            "committed",
            self.committed_per_second,
            format!("  ({} acknowledged)", format::count(self.committed)),
        )?;
        if self.payees_per_second > self.committed_per_second {
            line("payees", self.payees_per_second, String::new())?;
        }
        write!(f, "{:<12}{:>10}", "rejected", format::count(self.rejected))?;
        for (i, (cause, count)) in self.rejected_by_cause.iter().enumerate() {
            write!(f, "{}{cause} {}", if i == 0 { "     (" } else { ", " }, format::count(*count))?;
        }
        writeln!(f, "{}", if self.rejected_by_cause.is_empty() { "" } else { ")" })
    }
}

fn fmt_percentiles(f: &mut fmt::Formatter<'_>, name: &str, of: &Percentiles) -> fmt::Result {
    write!(f, "{name:<12}")?;
    for us in [of.p50, of.p90, of.p99, of.p999, of.max] {
        write!(f, "{:>10}", format::latency_if_any(of.count, us))?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::super::{LatencyHistogram, fixture};
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn has_the_keys_that_tools_rely_on() {
        let json = serde_json::to_value(fixture::run().summary()).expect("plain data");
        for key in ["offered_per_second", "committed_per_second", "cpu_seconds_per_validator", "duration_s"] {
            assert!(json[key].is_f64(), "{key}");
        }
        for key in ["rejected", "validators", "tables"] {
            assert!(json[key].is_u64(), "{key}");
        }
        for key in ["p50", "p90", "p99", "p999", "max"] {
            assert!(json["latency_us"][key].is_u64(), "{key}");
        }
        for stage in Stage::ALL {
            for key in ["p50", "p99"] {
                assert!(json["stages_us"][stage.name()][key].is_u64(), "{stage} {key}");
            }
        }
    }

    #[test]
    fn totals_come_from_their_parts() {
        let summary = fixture::run().summary();
        assert_eq!(summary.rejected, summary.rejected_by_cause.values().sum::<u64>());
        let mean = summary.cpu_seconds.values().sum::<f64>() / summary.cpu_seconds.len() as f64;
        assert!((summary.cpu_seconds_per_validator - mean).abs() < 1e-9);
    }

    #[test]
    fn prints_the_stages_in_the_order_a_transaction_meets_them() {
        let text = fixture::run().summary().to_string();
        let positions: Vec<_> = Stage::ALL.iter().map(|stage| text.find(&format!("\n  {stage} "))).collect();
        assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn an_empty_run_prints() {
        let text = fixture::empty().summary().to_string();
        assert!(text.contains("end to end           –"), "{text}");
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_histogram(
            latencies in prop::collection::vec(0..10_000_000_u64, 0..300),
        ) {
            let mut data = fixture::empty();
            data.latency = LatencyHistogram::from_iter(latencies);
            let text = serde_json::to_string(&data.summary()).expect("plain data");
            let json: Value = serde_json::from_str(&text).expect("just written");
            let (json, histogram) = (&json["latency_us"], data.latency.as_hdr());
            for (key, percent) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9)] {
                prop_assert_eq!(&json[key], histogram.value_at_percentile(percent), "{}", key);
            }
            prop_assert_eq!(&json["max"], histogram.max());
            prop_assert_eq!(&json["count"], histogram.len());
        }
    }
}
