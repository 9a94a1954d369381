//! Each command, small: it measures, and says so as JSON.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs `perf` in an empty directory, which has to be empty again in the end.
fn perf(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    let output = command.args(arguments).current_dir(directory.path()).output().expect("it can be started");
    let left = std::fs::read_dir(directory.path()).expect("it is still there").count();
    assert_eq!(left, 0, "files are left behind by {arguments:?}");
    output
}

fn facts(arguments: &[&str]) -> Value {
    let Output { status, stdout, stderr } = perf(arguments);
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    let facts: Value = serde_json::from_slice(&stdout).expect("JSON and nothing else");
    for figure in facts["figures"].as_array().expect("figures") {
        assert!(figure["value"].as_f64().is_some_and(|value| value >= 0.0), "{figure}");
    }
    facts
}

#[test]
fn exec() {
    let facts = facts(&["exec", "--json", "--accounts", "2000", "--rounds", "1", "--transfers", "5000"]);
    let blocks: Vec<u64> =
        facts["execution"].as_array().unwrap().iter().map(|row| row["block"].as_u64().unwrap()).collect();
    assert_eq!(blocks, [256, 64, 16]);
    assert!(facts["bytes_per_account"]["allocated"].as_f64().unwrap() >= 88.0);
}

#[test]
fn sig() {
    let facts = facts(&["sig", "--json", "--rounds", "1"]);
    for ratio in ["dalek_batch_1024_ratio", "dalek_batch_64_ratio", "strict_ratio", "signers_32_ratio"] {
        assert!(facts[ratio].as_f64().is_some_and(|ratio| ratio > 0.0), "{ratio}: {facts}");
    }
    for factor in ["bad_1pct_factor", "bad_10pct_factor", "bad_50pct_factor", "longest_slice_us"] {
        assert!(facts[factor].as_f64().is_some_and(|factor| factor > 0.0), "{factor}: {facts}");
    }
}

#[test]
fn restart() {
    let facts = facts(&[
        "restart",
        "--json",
        "--accounts",
        "2000",
        "--transfers",
        "500",
        "--rate",
        "1000",
        "--rounds",
        "1",
        "--tables",
        "2",
    ]);
    let disk = &facts["disk"];
    for what in ["snapshot_bytes", "log_bytes", "log_records"] {
        assert!(disk[what].as_u64().unwrap() > 0, "{disk}");
    }
    let starts = &facts["from_snapshots_and_log"];
    assert!(starts["complete"][0].as_f64() >= starts["ready"][0].as_f64(), "{starts}");
}

#[test]
fn idle() {
    let facts = facts(&["idle", "--json", "--seconds", "1", "--settle", "0", "--accounts", "100"]);
    assert_eq!(facts["validators"].as_array().unwrap().len(), 4);
    assert!(facts["resident_bytes"].as_array().unwrap().iter().all(|bytes| bytes.as_u64() > Some(1 << 20)));
}

#[test]
fn log_needs_fio() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    let output = command.args(["log", "--no-install"]).env("PATH", "").output().expect("it can be started");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("apt-get install fio"));
}
