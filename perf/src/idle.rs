//! `perf idle`: what a network costs that has nothing to do.
//!
//! Validators are real processes. After a short load, so that connections stand and every table has blocks and
//! checkpoints, they are left alone; then their processor time is read twice.

use std::{
    fmt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    figure::{self, Figure, Goal},
    network::{Network, Process, Sizes},
    progress::Progress,
    report::Machine,
};

const IDLE: Goal = Goal { what: "idle network, part of one core", unit: "%", required: 10.0, aim: 3.0 };

/// The load before: transfers per second, and how long.
const LOAD_RATE: u64 = 1_000;
const LOAD: Duration = Duration::from_secs(2);
/// As the node's default.
const SNAPSHOT_BYTES: u64 = 256 << 20;

const EXAMPLES: &str = "\
Examples:
  perf idle
  perf idle --seconds 60 --validators 7
  perf idle --json | jq '.figures[0].value'";

/// Arguments of `perf idle`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How long to look, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long to leave the network alone before that, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=3_600))]
    settle: u64,
    /// Validators: 4 to 128
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(4..=128))]
    validators: u16,
    /// Tables of the shard: a power of two
    #[arg(long, default_value_t = 16)]
    tables: u16,
    /// Core loops of each validator
    #[arg(long, default_value_t = 1)]
    cores: u16,
    /// Accounts
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    accounts: u32,
    /// Keys, data and logs go to a directory here, which is removed in the end
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: [Figure; 1],
    seconds: f64,
    tables: u16,
    cores: u16,
    /// By validator: part of one core, in %.
    validators: Vec<f64>,
    /// By validator: memory in use.
    resident_bytes: Vec<u64>,
    machine: Machine,
}

/// Measures.
///
/// # Errors
/// The network can't be made, or a validator ends.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let Arguments { seconds, settle, validators, tables, cores, accounts, .. } = *arguments;
    let progress = Progress::new(settle + seconds);
    let directory = tempfile::Builder::new()
        .prefix("perf-idle-")
        .tempdir_in(&arguments.directory)
        .with_context(|| format!("can't write to {}", arguments.directory.display()))?;
    let sizes = Sizes { validators, tables, cores, accounts, senders: accounts.min(1_000) };
    progress.note(format!("starting {validators} validators with {tables} tables"));
    let mut network = Network::create(directory.path(), sizes, SNAPSHOT_BYTES)?;
    network.start_all()?;
    network.load(LOAD_RATE, LOAD, &progress)?;
    progress.note(format!("idle: settling for {settle} s, then measuring for {seconds} s"));
    wait(settle, &progress);

    let (start, before) = (Instant::now(), cpu_times(&network)?);
    wait(seconds, &progress);
    let (elapsed, after) = (start.elapsed().as_secs_f64(), cpu_times(&network)?);
    let share = |(before, after): (&Duration, &Duration)| 100.0 * (*after - *before).as_secs_f64() / elapsed;
    let shares: Vec<f64> = before.iter().zip(&after).map(share).collect();
    Ok(Facts {
        figures: [IDLE.judge(shares.iter().sum())],
        seconds: elapsed,
        tables,
        cores,
        validators: shares,
        resident_bytes: network.processes().map(Process::resident_bytes).collect::<Result<_, _>>()?,
        machine: Machine::read(),
    })
}

fn wait(seconds: u64, progress: &Progress) {
    for _ in 0..seconds {
        thread::sleep(Duration::from_secs(1));
        progress.step();
    }
}

fn cpu_times(network: &Network) -> anyhow::Result<Vec<Duration>> {
    network.processes().map(Process::cpu_time).collect()
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { seconds, tables, cores, .. } = self;
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "no load for {seconds:.0} s, {tables} tables, core loops of each validator: {cores}\n")?;
        let header = ["", "part of one core", "memory"].map(String::from).to_vec();
        let each = self.validators.iter().zip(&self.resident_bytes).enumerate();
        let row = |(index, (share, bytes)): (usize, (&f64, &u64))| {
            let mebibytes = *bytes as f64 / f64::from(1 << 20);
            vec![format!("validator {index}"), format!("{share:.2} %"), format!("{mebibytes:.0} MiB")]
        };
        let rows: Vec<Vec<String>> = std::iter::once(header).chain(each.map(row)).collect();
        writeln!(f, "{}", figure::columns(&rows))?;
        f.write_str(&figure::table(&self.figures))
    }
}
