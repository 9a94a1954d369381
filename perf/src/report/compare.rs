//! Two runs side by side.
//!
//! Absolute figures move with the machine and the hour, so a comparison is worth something only when both
//! runs were made on one machine in one session; [`Comparison::differences`] says where they were not alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Machine, Stage, format};

/// Two runs, figure by figure. Its [`Display`](fmt::Display) is a table for the terminal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Where the first run's figures come from.
    pub a: PathBuf,
    /// Where the second run's come from.
    pub b: PathBuf,
    /// What makes the runs hard to compare: other machine, other committee, other load. Sentences.
    pub differences: Vec<String>,
    /// The figures, rates first, then latencies, then stages in a transaction's order.
    pub figures: Vec<Figure>,
}

/// One figure of both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its key in `summary.json`, nested keys joined by dots.
    pub name: String,
    /// In the first run; none when that run lacks the stage.
    pub a: Option<f64>,
    /// In the second run.
    pub b: Option<f64>,
    /// `b / a`; none when either is missing or `a` is 0.
    pub ratio: Option<f64>,
}

/// Why two runs can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// No such file, or it can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The summary.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not the summary of a run.
    #[error("{path} is not the summary of a run: {source}")]
    Malformed {
        /// The summary.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
}

/// The part of `summary.json` that a comparison needs. Other keys, and other stages, are welcome.
#[derive(Deserialize)]
struct Figures {
    offered_per_second: f64,
    committed_per_second: f64,
    payees_per_second: Option<f64>,
    rejected: u64,
    latency_us: Latency,
    stages_us: BTreeMap<String, StageLatency>,
    cpu_seconds_per_validator: f64,
    duration_s: f64,
    validators: u32,
    tables: u32,
    accounts: Option<u64>,
    machine: Option<Machine>,
}

#[derive(Deserialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Deserialize)]
struct StageLatency {
    p50: f64,
    p99: f64,
}

/// Compares two runs by their `summary.json`; `a` and `b` are report folders, or such files themselves.
///
/// # Errors
/// A summary is missing, unreadable, or lacks a figure that every summary has.
pub fn compare(a: &Path, b: &Path) -> Result<Comparison, CompareError> {
    let (a_figures, b_figures) = (read(a)?, read(b)?);
    Ok(Comparison {
        a: a.to_owned(),
        b: b.to_owned(),
        differences: differences(&a_figures, &b_figures),
        figures: figures(&a_figures, &b_figures),
    })
}

fn read(path: &Path) -> Result<Figures, CompareError> {
    let path = if path.is_dir() { path.join("summary.json") } else { path.to_owned() };
    match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| CompareError::Malformed { path, source })
        }
        Err(source) => Err(CompareError::Read { path, source }),
    }
}

fn figures(a: &Figures, b: &Figures) -> Vec<Figure> {
    let both = |name: &str, of: fn(&Figures) -> f64| Figure::new(name.to_owned(), Some(of(a)), Some(of(b)));
    let mut figures = vec![
        both("offered_per_second", |run| run.offered_per_second),
        both("committed_per_second", |run| run.committed_per_second),
        Figure::new("payees_per_second".to_owned(), a.payees_per_second, b.payees_per_second),
        both("rejected", |run| run.rejected as f64),
        both("cpu_seconds_per_validator", |run| run.cpu_seconds_per_validator),
        both("latency_us.p50", |run| run.latency_us.p50),
        both("latency_us.p90", |run| run.latency_us.p90),
        both("latency_us.p99", |run| run.latency_us.p99),
        both("latency_us.p999", |run| run.latency_us.p999),
        both("latency_us.max", |run| run.latency_us.max),
    ];
    figures.retain(|figure| figure.a.is_some() || figure.b.is_some());
    for stage in stage_names(a, b) {
        let of = |run: &Figures, pick: fn(&StageLatency) -> f64| run.stages_us.get(stage).map(pick);
        let mut push = |percentile: &str, pick| {
            figures.push(Figure::new(format!("stages_us.{stage}.{percentile}"), of(a, pick), of(b, pick)));
        };
        push("p50", |latency| latency.p50);
        push("p99", |latency| latency.p99);
    }
    figures
}

/// The stages of either run: those of a transaction's way in its order, then any others.
fn stage_names<'a>(a: &'a Figures, b: &'a Figures) -> Vec<&'a str> {
    let names: BTreeSet<&str> = a.stages_us.keys().chain(b.stages_us.keys()).map(String::as_str).collect();
    let known = Stage::ALL.map(Stage::name);
    let ordered = known.into_iter().filter(|name| names.contains(name));
    ordered.chain(names.iter().copied().filter(|name| !known.contains(name))).collect()
}

fn differences(a: &Figures, b: &Figures) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what}: {a} against {b}"));
        }
    };
    note("validators", a.validators.to_string(), b.validators.to_string());
    note("tables", a.tables.to_string(), b.tables.to_string());
    note("offered per second", format::whole(a.offered_per_second), format::whole(b.offered_per_second));
    note("duration", format::seconds(a.duration_s), format::seconds(b.duration_s));
    if let (Some(a), Some(b)) = (a.accounts, b.accounts) {
        note("accounts", format::count(a), format::count(b));
    }
    if let (Some(a), Some(b)) = (&a.machine, &b.machine) {
        note("machine", a.to_string(), b.to_string());
    }
    found
}

impl Figure {
    fn new(name: String, a: Option<f64>, b: Option<f64>) -> Self {
        let ratio = a.zip(b).filter(|(a, _)| *a != 0.0).map(|(a, b)| b / a);
        Self { name, a, b, ratio }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A  {}\nB  {}", self.a.display(), self.b.display())?;
        for difference in &self.differences {
            writeln!(f, "not alike in {difference}")?;
        }
        writeln!(f, "\n{:<28}{:>14}{:>14}{:>9}", "figure", "A", "B", "B/A")?;
        for figure in &self.figures {
            let [a, b] = [figure.a, figure.b].map(|value| value.map_or("-".to_owned(), figure_text));
            let ratio =
                figure.ratio.map_or("-".to_owned(), |ratio| format!("{}×", format::three_digits(ratio)));
            writeln!(f, "{:<28}{a:>14}{b:>14}{ratio:>9}", figure.name)?;
        }
        Ok(())
    }
}

/// Counts as they are, everything else to three digits.
fn figure_text(value: f64) -> String {
    if value.fract() == 0.0 { format::whole(value) } else { format::three_digits(value) }
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, write};
    use super::*;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    fn least() -> Value {
        json!({
            "offered_per_second": 1000, "committed_per_second": 500.0, "rejected": 0,
            "latency_us": {"p50": 10, "p90": 20, "p99": 30, "p999": 40, "max": 50},
            "stages_us": {"verify": {"p50": 5, "p99": 6}, "gossip": {"p50": 1, "p99": 2}},
            "cpu_seconds_per_validator": 1.5, "duration_s": 10, "validators": 4, "tables": 16,
        })
    }

    fn folder(summary: &str) -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("summary.json"), summary).expect("written");
        dir
    }

    fn figure<'a>(comparison: &'a Comparison, name: &str) -> &'a Figure {
        comparison.figures.iter().find(|figure| figure.name == name).expect("a figure of every comparison")
    }

    #[test]
    fn a_report_compares_with_the_least_a_summary_may_hold() {
        let ours = tempfile::tempdir().expect("a temporary folder");
        write(&fixture::run(), ours.path()).expect("written");
        let theirs = folder(&least().to_string());
        let comparison =
            compare(&theirs.path().join("summary.json"), ours.path()).expect("both are summaries");

        let committed = figure(&comparison, "committed_per_second");
        let expected = fixture::run().committed_per_second;
        assert_eq!(
            (committed.a, committed.b, committed.ratio),
            (Some(500.0), Some(expected), Some(expected / 500.0))
        );
        assert_eq!(figure(&comparison, "rejected").ratio, None, "nothing divides by zero");
        assert_eq!(figure(&comparison, "stages_us.ingress.p50").a, None);
        assert_eq!(figure(&comparison, "stages_us.gossip.p99").b, None);
        assert_eq!(
            comparison.figures.last().map(|figure| figure.name.as_str()),
            Some("stages_us.gossip.p99")
        );
        assert!(comparison.differences.iter().any(|line| line == "offered per second: 1,000 against 20,000"));

        let text = comparison.to_string();
        assert!(text.contains("latency_us.p50") && text.contains('×'), "{text}");
        let json = serde_json::to_value(&comparison).expect("plain data");
        assert_eq!(json["figures"][1]["name"], "committed_per_second");
    }

    #[test]
    fn equal_runs_have_ratio_one_and_no_differences() {
        let dir = folder(&least().to_string());
        let comparison = compare(dir.path(), dir.path()).expect("a summary");
        assert!(comparison.differences.is_empty());
        assert!(comparison.figures.iter().all(|figure| figure.ratio.is_none_or(|ratio| ratio == 1.0)));
    }

    #[test]
    fn a_missing_file_is_named() {
        let good = folder(&least().to_string());
        let empty = tempfile::tempdir().expect("a temporary folder");
        for missing in [empty.path().to_owned(), empty.path().join("nowhere")] {
            let error = compare(good.path(), &missing).expect_err("missing");
            assert!(matches!(error, CompareError::Read { .. }));
            assert!(error.to_string().contains(missing.to_str().expect("ASCII")), "{error}");
        }
    }

    #[test]
    fn a_malformed_file_is_named_with_what_is_wrong() {
        let good = folder(&least().to_string());
        let mut without = least();
        without["latency_us"].as_object_mut().expect("an object").remove("p999");
        let mut negative = least();
        negative["rejected"] = json!(-1);
        for (text, what) in [
            ("".to_owned(), "EOF"),
            ("[1".to_owned(), "summary.json"),
            ("null".to_owned(), "null"),
            (without.to_string(), "missing field `p999`"),
            (negative.to_string(), "-1"),
            (least().to_string().replace("500.0", "1e999"), "out of range"),
        ] {
            let bad = folder(&text);
            let error = compare(bad.path(), good.path()).expect_err(what);
            assert!(matches!(error, CompareError::Malformed { .. }));
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.to_string().contains("summary.json"), "{error}");
        }
    }
}
